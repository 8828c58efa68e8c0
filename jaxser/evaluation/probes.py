"""What can be read off an embedding: linear probes, and a view of it in 2-d.

A probe is a logistic regression on standardised values. It is scored on
utterances that it was not fitted to, by balanced accuracy (mean recall over
classes), for which guessing gives 1 / classes:

    speaker  The training side of a fold: of every speaker three utterances of
             four are fitted, every fourth is scored. Same speakers, other
             utterances. The speaker was no label when the network was trained
             (only DAT sees it), so the score says what the embedding kept.
    emotion  Fitted to the training side, scored on the test side: speakers that
             neither the network nor the probe has seen.

Sides are thinned evenly to `MOST` utterances.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.evaluation import intervals

KINDS = ('emotion', 'speaker')
MOST = 2000
"""Utterances of a side that probes and files use, at most."""
MAPPED = 800
"""Utterances that a 2-d view has, at most."""
HELD_OUT = 4
"""Every so many-th utterance of a speaker is scored, the others fitted."""


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
  """At most so many rows, evenly chosen, in their order."""
  if len(rows) <= most:
    return rows
  return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def balanced_accuracy(said: np.ndarray, answers: np.ndarray) -> float:
  """Mean recall over the classes that occur in `said`, a fraction."""
  recalls = [np.mean(answers[said == c] == c) for c in np.unique(said)]
  return float(np.mean(recalls))


def probe(
  fitted: np.ndarray,
  fitted_labels: np.ndarray,
  scored: np.ndarray,
  scored_labels: np.ndarray,
) -> float:
  """Balanced accuracy of a linear classifier on other utterances.

  Args:
    fitted: [n, width], what the classifier is fitted to.
    fitted_labels: [n], at least two different ones.
    scored: [m, width].
    scored_labels: [m].
  """
  # Imported here: it takes seconds, and reading a report needs none of it.
  from sklearn import linear_model, pipeline, preprocessing

  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(class_weight='balanced', max_iter=2000),
  )
  model.fit(fitted.astype(np.float64), fitted_labels)
  answers = model.predict(scored.astype(np.float64))
  return balanced_accuracy(scored_labels, answers)


def held_out(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Splits rows so that every group is on both sides, other rows of it.

  Args:
    groups: [n], names; '' is left out, and so are groups of fewer rows than
      `HELD_OUT`.

  Returns:
    Positions to fit to, and positions to score, where each group has one row of
    `HELD_OUT`.
  """
  fitted, scored = [], []
  for name in np.unique(groups):
    rows = np.flatnonzero(groups == name)
    if not name or len(rows) < HELD_OUT:
      continue
    is_scored = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
    fitted.append(rows[~is_scored])
    scored.append(rows[is_scored])
  nothing = [np.zeros(0, np.int64)]
  return np.concatenate(nothing + fitted), np.concatenate(nothing + scored)


def speaker_probe(
  values: Mapping[str, np.ndarray], speakers: np.ndarray
) -> dict[str, Any] | None:
  """Probes for the speaker in every space of one side.

  Args:
    values: space -> [n, width].
    speakers: [n], names.

  Returns:
    {'classes': speakers, 'fitted': n, 'scored': n, 'spaces': {name: balanced
    accuracy}}, or None if there are fewer than two speakers to tell apart.
  """
  fitted, scored = held_out(speakers)
  names = np.unique(speakers[fitted])
  if len(names) < 2:
    return None
  return {
    'classes': len(names),
    'fitted': len(fitted),
    'scored': len(scored),
    'spaces': {
      name: probe(
        value[fitted], speakers[fitted], value[scored], speakers[scored]
      )
      for name, value in values.items()
    },
  }


def emotion_probe(
  train: Mapping[str, np.ndarray],
  train_labels: np.ndarray,
  test: Mapping[str, np.ndarray],
  test_labels: np.ndarray,
) -> dict[str, Any] | None:
  """Probes for the emotion in every space, from one side to another.

  Args:
    train: space -> [n, width], fitted.
    train_labels: [n], names; '' is left out.
    test: space -> [m, width], scored.
    test_labels: [m], likewise.

  Returns:
    As `speaker_probe`; None where a side has no labels or only one class.
  """
  fitted = np.flatnonzero(train_labels != '')
  scored = np.flatnonzero(test_labels != '')
  names = np.unique(train_labels[fitted])
  if len(names) < 2 or not len(scored):
    return None
  return {
    'classes': len(names),
    'fitted': len(fitted),
    'scored': len(scored),
    'spaces': {
      name: probe(
        value[fitted],
        train_labels[fitted],
        test[name][scored],
        test_labels[scored],
      )
      for name, value in train.items()
    },
  }


def summarise(
  found: Sequence[Mapping[str, Mapping[str, Any] | None]],
) -> dict[str, Any]:
  """The probes of all folds, for results.json.

  Args:
    found: for each fold {kind: what its probe returned}.

  Returns:
    {kind: {"chance", "classes": [fewest, most], "folds", "fitted", "scored",
    "spaces": {NAME: {"mean", "std", "per_fold"}}}}: per cent of balanced
    accuracy, over folds; "std" is null for one fold, "per_fold" has null where
    a fold has no such probe. Kinds that no fold has are left out.
  """
  result = {}
  for kind in KINDS:
    known = [fold[kind] for fold in found if fold[kind] is not None]
    if not known:
      continue
    spaces = {}
    for name in known[0]['spaces']:
      per_fold = [
        None if fold[kind] is None else _percent(fold[kind]['spaces'][name])
        for fold in found
      ]
      shares = [fold['spaces'][name] for fold in known]
      mean, std = intervals.mean_std(shares)
      spaces[name] = {
        'mean': _percent(mean),
        'std': _percent(std),
        'per_fold': per_fold,
      }
    classes = [fold['classes'] for fold in known]
    result[kind] = {
      'chance': _percent(float(np.mean([1 / count for count in classes]))),
      'classes': [min(classes), max(classes)],
      'folds': len(known),
      'fitted': sum(fold['fitted'] for fold in known),
      'scored': sum(fold['scored'] for fold in known),
      'spaces': spaces,
    }
  return result


def _percent(share: float) -> float | None:
  return None if np.isnan(share) else round(100 * share, 2)


def flat_map(values: np.ndarray) -> np.ndarray:
  """A view of an embedding in two dimensions: t-SNE from a PCA start.

  Standardised, cut to its 50 main components, then t-SNE (van der Maaten and
  Hinton, 2008) with a fixed seed. Near points were near; distances between
  groups, and the axes, mean nothing.

  Args:
    values: [n, width].

  Returns:
    float32 [n, 2]; all zeros if the rows are all the same or fewer than four.
  """
  from sklearn import decomposition, manifold

  values = values.astype(np.float64)
  deviation = values.std(0)
  if len(values) < 4 or not np.any(deviation > 0):
    return np.zeros((len(values), 2), np.float32)
  varied = values[:, deviation > 0]
  centred = varied - varied.mean(0, keepdims=True)
  values = centred / deviation[None, deviation > 0]
  components = min(50, *values.shape)
  if components >= 2:
    reduced = decomposition.PCA(
      components, svd_solver='full', random_state=0
    ).fit_transform(values)
  else:
    reduced = np.concatenate([values, np.zeros_like(values)], axis=1)
  model = manifold.TSNE(
    perplexity=min(30.0, (len(values) - 1) / 3),
    init=_start(reduced),
    random_state=0,
  )
  return model.fit_transform(reduced).astype(np.float32)


def _start(reduced: np.ndarray) -> np.ndarray:
  """The first two main components, as small as t-SNE likes its start."""
  first = reduced[:, :2]
  return (1e-4 * first / max(first[:, 0].std(), 1e-12)).astype(np.float32)
