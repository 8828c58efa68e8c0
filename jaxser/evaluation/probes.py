"""What can be read off an embedding: linear probes, and a view of it in 2-d.

A probe is a logistic regression on standardised values. It is scored on
utterances that it was not fitted to, by balanced accuracy (mean recall over
classes), for which guessing gives 1 / classes:

    speaker  The training split of a fold: of every speaker three utterances of
             four are fitted, every fourth is scored. Same speakers, other
             utterances. The speaker was no label when the network was trained
             (only DAT sees it), so the score says what the embedding kept.
    emotion  Fitted to the training split, scored on the test split: speakers
             that neither the network nor the probe has seen.

Splits are subsampled evenly to `MOST` utterances. scikit-learn is imported where
it is used: it takes seconds, and reading a report needs none of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.evaluation import intervals
from jaxser.evaluation.results import rounded

KINDS = ('emotion', 'speaker')
MOST = 2000
"""Utterances of a split that probes and files use, at most."""
MAPPED = 800
"""Utterances that a 2-d view has, at most."""
HELD_OUT = 4
"""Every so many-th utterance of a speaker is scored, the others fitted."""

Spaces = Mapping[str, np.ndarray]


def subsampled(examples: np.ndarray, most: int) -> np.ndarray:
  """Returns at most so many examples, evenly chosen, in their order."""
  if len(examples) <= most:
    return examples
  chosen = np.linspace(0, len(examples) - 1, most).round().astype(np.int64)
  return examples[chosen]


def speaker_probe(
  values: Spaces, speakers: np.ndarray
) -> dict[str, Any] | None:
  """Probes for the speaker in every space [n, width] of one split.

  Speakers [n] named '', or of fewer than `HELD_OUT` utterances, are left out.
  """
  fitted, scored = [], []
  for name in np.unique(speakers):
    own = np.flatnonzero(speakers == name)
    if name and len(own) >= HELD_OUT:
      is_scored = np.arange(len(own)) % HELD_OUT == HELD_OUT - 1
      fitted.extend(own[~is_scored])
      scored.extend(own[is_scored])
  return _probe(values, speakers, fitted, scored)


def emotion_probe(
  train: Spaces,
  train_labels: np.ndarray,
  test: Spaces,
  test_labels: np.ndarray,
) -> dict[str, Any] | None:
  """Probes for the emotion: fitted to one split, scored on another.

  Utterances whose label is '' are left out. Returns what `speaker_probe` does;
  None where a split has no labels or only one class.
  """
  labels = np.concatenate([train_labels, test_labels])
  spaces = {name: np.concatenate([train[name], test[name]]) for name in train}
  known, first = np.flatnonzero(labels != ''), len(train_labels)
  return _probe(spaces, labels, known[known < first], known[known >= first])


def _probe(
  spaces: Spaces,
  labels: np.ndarray,
  fitted: np.ndarray | list[int],
  scored: np.ndarray | list[int],
) -> dict[str, Any] | None:
  """Fits a classifier to some examples of each space, scores it on others."""
  targets, classes = labels[scored], len(np.unique(labels[fitted]))
  if not len(targets) or classes < 2:
    return None
  from sklearn import linear_model, metrics, pipeline, preprocessing

  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(class_weight='balanced', max_iter=2000),
  )
  # Of the targets' classes; balanced_accuracy_score warns of any other.
  of = {'labels': np.unique(targets), 'average': 'macro', 'zero_division': 0}
  scores = {}
  for name, values in spaces.items():
    values = values.astype(np.float64)
    predicted = model.fit(values[fitted], labels[fitted]).predict(
      values[scored]
    )
    scores[name] = float(metrics.recall_score(targets, predicted, **of))
  sizes = {'fitted': len(fitted), 'scored': len(scored)}
  return {'classes': classes, **sizes, 'spaces': scores}


def summarise(
  found: Sequence[Mapping[str, Mapping[str, Any] | None]],
) -> dict[str, Any]:
  """Returns the probes of all folds, each {kind: probe}, for results.json.

  {kind: {"chance", "classes": [fewest, most], "folds", "fitted", "scored",
  "spaces": {NAME: {"mean", "std", "per_fold"}}}}: per cent of balanced accuracy,
  over folds; "std" is null for one fold, "per_fold" has null where a fold has no
  such probe. Kinds that no fold has are left out.
  """
  result = {}
  for kind in KINDS:
    probed = [fold[kind] for fold in found]
    if known := [probe for probe in probed if probe]:
      classes = [probe['classes'] for probe in known]
      result[kind] = {
        'chance': rounded(np.mean(1 / np.array(classes))),
        'classes': [min(classes), max(classes)],
        'folds': len(known),
        'fitted': sum(probe['fitted'] for probe in known),
        'scored': sum(probe['scored'] for probe in known),
        'spaces': {name: _space(probed, name) for name in known[0]['spaces']},
      }
  return result


def _space(probed: Sequence[Any], name: str) -> dict[str, Any]:
  scores = [probe['spaces'][name] if probe else np.nan for probe in probed]
  mean, std = map(rounded, intervals.mean_std(scores))
  return {'mean': mean, 'std': std, 'per_fold': [*map(rounded, scores)]}


def tsne_2d(values: np.ndarray) -> np.ndarray:
  """Returns a view of an embedding in two dimensions, [n, width] -> [n, 2].

  Standardised, cut to its 50 main components, then t-SNE (van der Maaten and
  Hinton, 2008) from the first two, with a fixed seed. Near points were near;
  distances between groups, and the axes, mean nothing. All zeros if the rows
  are all the same or fewer than four.
  """
  from sklearn import decomposition, manifold

  values = values.astype(np.float64)
  std = values.std(0)
  if len(values) < 4 or not np.any(std > 0):
    return np.zeros((len(values), 2), np.float32)
  centred = values - values.mean(0, keepdims=True)
  values = centred[:, std > 0] / std[None, std > 0]
  values = np.pad(values, ((0, 0), (0, values.shape[1] == 1)))  # Two, at least.
  pca = decomposition.PCA(min(50, *values.shape), svd_solver='full')
  reduced = pca.fit_transform(values)
  # As small as t-SNE likes its start.
  start = 1e-4 * reduced[:, :2] / max(reduced[:, 0].std(), 1e-12)
  model = manifold.TSNE(
    perplexity=min(30.0, (len(values) - 1) / 3),
    init=start.astype(np.float32),
    random_state=0,
  )
  return model.fit_transform(reduced).astype(np.float32)
