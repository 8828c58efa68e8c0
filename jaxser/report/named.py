"""Several runs: what each is called, and which of its selections counts."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from jaxser.evaluation.predictions import Prediction, PredictionsError
from jaxser.report.run import Run, read_run

PREFERRED = ('best_on_dev', 'last', 'init_from', 'best_on_test')
"""Which selection is compared, the most honest first."""


@dataclasses.dataclass(frozen=True)
class Named:
  """A run with the name it has on the page.

  Attributes:
    name: short and unique on the page.
    run: as read.
    selection: whose predictions are compared.
  """

  name: str
  run: Run
  selection: str

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return self.run.results['task']

  @property
  def chosen(self) -> list[Prediction]:
    """The predictions of the selection."""
    return [p for p in self.run.predictions if p.selection == self.selection]


def names_of(workdirs: Sequence[pathlib.Path]) -> list[str]:
  """The last part of each path, with as many before it as tell them apart."""
  paths = [path.absolute() for path in workdirs]
  for depth in range(1, max(len(path.parts) for path in paths) + 1):
    names = ['/'.join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  raise PredictionsError(
    'the same run is given twice: '
    + ', '.join(sorted({str(p) for p in paths if paths.count(p) > 1}))
  )


def choose(runs: Sequence[Run], wanted: str = '') -> list[str]:
  """The selection of each run that is compared.

  That is the most honest one that all have; where none is common, the most
  honest one of each.

  Raises:
    PredictionsError: a run lacks the wanted selection.
  """
  if wanted:
    for run in runs:
      if wanted not in run.results['selections']:
        raise PredictionsError(
          f'{run.workdir} has no selection {wanted!r}; it has '
          f'{", ".join(run.results["selections"])}'
        )
    return [wanted] * len(runs)
  for name in PREFERRED:
    if all(name in run.results['selections'] for run in runs):
      return [name] * len(runs)
  return [
    next(name for name in PREFERRED if name in run.results['selections'])
    for run in runs
  ]


def read_named(
  workdirs: Sequence[os.PathLike[str] | str], selection: str = ''
) -> list[Named]:
  """Reads several finished runs, in the order given.

  Raises:
    PredictionsError: a file of a run is missing or wrong, a run lacks the
      selection, or is given twice.
  """
  folders = [pathlib.Path(workdir) for workdir in workdirs]
  names = names_of(folders)
  runs = [read_run(folder) for folder in folders]
  chosen = choose(runs, selection)
  return [Named(*each) for each in zip(names, runs, chosen, strict=True)]
