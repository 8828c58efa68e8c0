"""Which of a run's trained weights are used, alone or as an ensemble."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxser.models import saved
from jaxser.models.saved import Description, Training
from jaxser.models.weights import ModelError

Tree = Any

# The first that is there; best_on_test only where it is asked for by name.
DEFAULT_SELECTIONS = ('best_on_dev', 'last', 'init_from')


class Model(NamedTuple):
  """One network of an ensemble, on the host; trees are for `System.predict`."""

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
  """Returns the trainings that are asked for, by default all seeds and folds.

  Args:
    description: of the run.
    seeds, folds: which of them; none for all that are there.
    selection: a key of `jaxser.evaluation.predictions.SELECTIONS`; by default
      the epoch that is best on the development split, or the last where there
      is none, or weights that were loaded and not trained. `best_on_test` is
      never taken unasked: it was chosen on the data of the run's own test.

  Raises:
    ModelError: if there are no weights, or none of a seed, fold or selection
      that was asked for.
  """
  there = description.trainings
  where = description.workdir / 'models'
  if not there:
    raise ModelError(
      f'{where} holds no weights: the run has not finished a fold yet. Finish '
      f'it: {description.command}'
    )
  if selection is None:
    names = sorted({training.selection for training in there})
    found = [name for name in DEFAULT_SELECTIONS if name in names]
    if not found:
      raise ModelError(
        f'{where} holds only {", ".join(names)}; ask for it with '
        f'--selection={names[0]}.'
      )
    selection = found[0]
  wanted = {'seed': seeds, 'fold': folds, 'selection': (selection,)}
  for name, values in wanted.items():
    known = sorted({getattr(training, name) for training in there})
    for value in values:
      if value not in known:
        raise ModelError(
          f'--{name}={value} is not among the weights in {where}; there are '
          f'{", ".join(map(str, known))}.'
        )
  chosen = [
    training
    for training in there
    if all(not v or getattr(training, n) in v for n, v in wanted.items())
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
  """Returns (seed, fold) of the run's plan that have no weights yet."""
  there = {t[:2] for t in description.trainings if t.selection == selection}
  content = description.content
  planned = [(s, f) for s in content['seeds'] for f in content['folds']]
  return [pair for pair in planned if pair not in there]


def load(
  description: Description, trainings: Sequence[Training]
) -> list[Model]:
  """Reads the weights of every training, see `saved.load`."""
  workdir = description.workdir
  return [Model(t, *saved.load(workdir, *t)) for t in trainings]
