"""Which of a run's trained weights are used, alone or as an ensemble."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxser.data import pipeline
from jaxser.models import saved as models
from jaxser.models.saved import Description, Training
from jaxser.models.weights import ModelError
from jaxser.systems.base import System

Tree = Any

# The first that is there; best_on_test only where it is asked for by name.
DEFAULT_SELECTIONS = ('best_on_dev', 'last', 'init_from')


@dataclasses.dataclass(frozen=True)
class Member:
  """One network of an ensemble, on the host.

  Attributes:
    training: which one.
    params: of `System.predict`.
    state: of `System.predict`.
  """

  training: Training
  params: Tree
  state: Tree


def choose(
  description: Description,
  *,
  seeds: Sequence[int] = (),
  folds: Sequence[int] = (),
  selection: str | None = None,
) -> list[Training]:
  """The trainings that are asked for, by default all seeds and folds.

  Args:
    description: of the run.
    seeds: which of its seeds; none for all that are there.
    folds: which of its folds; none for all that are there.
    selection: a key of `jaxser.evaluation.predictions.SELECTIONS`; by default the epoch
      that is best on the development side, or the last where there is none, or
      weights that were loaded and not trained.
      The epoch that is best on the test side is never taken unasked: it was
      chosen on the data of the run's own test, so that its result there says
      little about other speech.

  Raises:
    ModelError: if there are no weights, or none of a seed, fold or selection
      that was asked for.
  """
  there = description.trainings
  where = description.workdir / 'models'
  if not there:
    raise ModelError(
      f'{where} holds no weights: the run has not finished a fold yet. Finish '
      f'it: {description.content.get("command", "see config.json")}'
    )
  if selection is None:
    names = {training.selection for training in there}
    found = [name for name in DEFAULT_SELECTIONS if name in names]
    if not found:
      raise ModelError(
        f'{where} holds only {", ".join(sorted(names))}; ask for it with '
        f'--selection={sorted(names)[0]}.'
      )
    selection = found[0]
  for name, wanted, position in (
    ('--seed', seeds, 0),
    ('--fold', folds, 1),
    ('--selection', (selection,), 2),
  ):
    known = sorted({training[position] for training in there})
    for value in wanted:
      if value not in known:
        raise ModelError(
          f'{name}={value} is not among the weights in {where}; there are '
          f'{", ".join(map(str, known))}.'
        )
  chosen = [
    training
    for training in there
    if training.selection == selection
    and (not seeds or training.seed in seeds)
    and (not folds or training.fold in folds)
  ]
  if not chosen:
    raise ModelError(
      f'{where} has no weights for seed {list(seeds) or "any"}, fold '
      f'{list(folds) or "any"}, {selection}; the run may not be finished.'
    )
  return chosen


def unfinished(
  description: Description, selection: str
) -> list[tuple[int, int]]:
  """(seed, fold) of the run's plan that have no weights yet."""
  there = {t[:2] for t in description.trainings if t.selection == selection}
  return [
    (seed, fold)
    for seed in description.content['seeds']
    for fold in description.content['folds']
    if (seed, fold) not in there
  ]


def load(
  description: Description, trainings: Sequence[Training]
) -> list[Member]:
  """Reads the weights of every training.

  Raises:
    ModelError: if one is missing, damaged, or does not fit the system.
  """
  batch = example(description)
  wanted = jax.eval_shape(description.system.init, jax.random.key(0), batch)
  members = []
  for training in trainings:
    params, state = models.load(description.workdir, *training)
    path = models.path_of(description.workdir, *training)
    check(path, (params, state), wanted)
    members.append(Member(training, params, state))
  return members


def example(description: Description, rows: int = 1) -> dict[str, np.ndarray]:
  """A silent batch of the longest utterances, as in `jaxser.systems.base`."""
  bins = description.convention.bins
  length = description.max_length
  features = np.zeros((rows, length, *([bins] if bins else [])), np.float32)
  return as_batch(features, np.full(rows, length, np.int32), rows)


def as_batch(
  features: np.ndarray, length: np.ndarray, count: int
) -> dict[str, np.ndarray]:
  """A batch whose first `count` rows are utterances without a label."""
  rows = len(features)
  return {
    'features': features,
    'length': length,
    'label': np.full(rows, -1, np.int32),
    'vad': np.zeros((rows, 3), np.float32),
    'mask': (np.arange(rows) < count).astype(np.float32),
    'speaker': np.full(rows, -1, np.int32),
    'row': np.arange(rows, dtype=np.int32),
  }


def check(source: os.PathLike[str] | str, found: Tree, wanted: Tree) -> None:
  """Compares (params, state) with the shapes that a system has.

  Raises:
    ModelError: listing the arrays that are missing, left over, or of another
      shape. What `System.prepare` adds to the state may be there or not.
  """
  here, there = _shapes(wanted), _shapes(found)
  wrong = [
    f'{name}: model {here.get(name, "absent")}, file '
    f'{there.get(name, "absent")}'
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name) and not name.startswith('state/split/')
  ]
  if wrong:
    more = f'; and {len(wrong) - 5} more' if len(wrong) > 5 else ''
    raise ModelError(
      f'{source} does not fit the model: {"; ".join(wrong[:5])}{more}. Use the '
      'configuration that it was trained with.'
    )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  params, state = tree
  leaves = jax.tree_util.tree_leaves_with_path(
    {'params': params, 'state': state}
  )
  return {
    '/'.join(str(part.key) for part in path): tuple(np.shape(leaf))
    for path, leaf in leaves
  }


def for_folds(
  workdir: os.PathLike[str] | str,
  system: System,
  source: Any,
  folds: Sequence[Any],
) -> dict[int, tuple[Tree, Tree]]:
  """(params, state) for each fold of a run, from another run's folder.

  Its first seed and default selection are taken, fold by fold; a run of one
  fold gives its weights to all.

  Args:
    workdir: of the run that has the weights.
    system: that is to have them.
    source: `jaxser.data.pipeline.Source` of the corpus of this run.
    folds: `jaxser.data.protocols.Fold`s of this run.

  Raises:
    ModelError: if a fold is missing, the weights do not fit, or they were
      trained on utterances that this run tests.
  """
  description, corpus = models.open(workdir), source.corpus
  if description.classes != tuple(corpus.classes):
    raise ModelError(
      f'{workdir} was trained for {_listed(description.classes)}; this run has '
      f'{_listed(corpus.classes)}. Weights go only with the same classes.'
    )
  seed = min((t.seed for t in description.trainings), default=0)
  there = {t.fold: t for t in choose(description, seeds=(seed,))}
  numbers = [fold.number for fold in folds]
  missing = [number for number in numbers if number not in there]
  if len(there) == 1:
    there = dict.fromkeys(numbers, *there.values())
  elif missing:
    raise ModelError(
      f'{workdir} has weights of folds {sorted(there)}, this run also needs '
      f'{missing}; choose folds with --config.fold_subset.'
    )
  slot = pipeline.Slot(np.asarray(folds[0].test[:1]), source.max_length)
  shapes = jax.eval_shape(system.init, jax.random.key(0), source.batch(slot))
  seen = _seen(description)
  found = {}
  for fold in folds:
    training = there[fold.number]
    tested = set(corpus.table.ids[fold.test].tolist())
    both = tested & seen.get(training.fold, set())
    if both and description.content['corpus'] == corpus.name:
      raise ModelError(
        f'{workdir}: its fold {training.fold} was trained on {len(both)} of the '
        f'{len(tested)} utterances that fold {fold.number} tests here, such as '
        f'{min(both)}, so the result would be worthless. Use the folds of that '
        f'run: --config.folds={description.workdir / "folds.json"}'
      )
    found[fold.number] = models.load(workdir, *training)
    path = models.path_of(workdir, *training)
    check(path, found[fold.number], shapes)
  return found


def _seen(description: Description) -> dict[int, set[str]]:
  """Ids that chose the weights, by fold, as folds.json of the run has them."""
  path = description.workdir / 'folds.json'
  try:
    content = json.loads(path.read_text('utf-8'))
    return {
      int(entry['fold']): {*entry['train'], *entry['dev']}
      for entry in content['folds']
    }
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ModelError(
      f'{path} cannot be read ({type(error).__name__}: {error}), so nobody '
      'knows what the weights were trained on; copy the folder of the run again.'
    ) from error


def _listed(names: Sequence[str]) -> str:
  return ', '.join(names) or 'no classes'
