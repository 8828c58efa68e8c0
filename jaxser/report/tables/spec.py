"""What a file of configs/tables holds: `TABLE`, made of these records.

  TABLE = spec.Table(
    title='TIM-Net, single corpus',
    metrics=('uar', 'war'),
    tolerance={'uar': 2.0, 'war': 2.0},
    cells=(
      spec.Cell(
        name='emodb-published',
        label='EMODB',
        config='timnet',
        arg='corpus=emodb,protocol=published',
        figures=(
          spec.Figure(
            group='published folds, last epoch',
            selection='last',
            paper={'uar': 89.19, 'war': 90.28},
            source="the authors' correction, 2023",
          ),
        ),
      ),
    ),
  )

`Table` checks itself and its records; a wrong one cannot be made.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxser.core import command_line
from jaxser.core.errors import UserError
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.evaluation.results import METRICS

_NAME = re.compile(r'[a-z0-9][a-z0-9_.-]*')


class TableError(UserError):
  """A table cannot be made as asked; the message says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Figure:
  """One line of the table: a selection of a run, and what the paper found.

  Attributes:
    group: heading under which the line stands.
    selection: whose weights are meant, a key of `predictions.SELECTIONS`.
    paper: metric -> the paper's figure, in per cent or CCC; may be empty.
    source: where that figure stands.
    incomparable: why the two cannot be compared even so, else empty.
  """

  group: str
  selection: str
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ''
  incomparable: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of jaxser, in a folder of its own, and the lines it fills.

  Attributes:
    name: of the folder, and for --only.
    label: what people read for it.
    config: recipe, as for `jaxser.main --config`.
    arg: what comes after its colon.
    figures: the lines, at least one.
    overrides: fields of the config that the paper's run sets otherwise.
    baseline: name of the cell that its lines are compared with, else empty.
    on_request: why it is run only if named by --only, else empty.
    required: field of the config -> what it must be given by --set, as it
      differs from machine to machine (a folder); not run without.
  """

  name: str
  label: str
  config: str
  arg: str
  figures: tuple[Figure, ...]
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  baseline: str = ''
  on_request: str = ''
  required: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Average:
  """The mean of a group's lines over its cells, as some papers give it.

  Attributes:
    group: of the lines.
    label: what people read for it.
    over: 'mean' takes each cell's mean over seeds, 'best' its best seed.
    paper: as in `Figure`.
    source: as in `Figure`.
  """

  group: str
  label: str
  over: str = 'mean'
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a paper.

  Attributes:
    title: heading.
    metrics: columns, keys of `results.NAMES` of one task.
    cells: its runs.
    tolerance: metric -> how far a measured figure may be from the paper's.
    statistic: what is compared with the paper: 'pooled' over all folds, or
      'fold_mean'.
    averages: lines with means over cells.
    demo: cells on the demo corpus, run by --demo only.
    about: what a reader must know; each is a paragraph.
  """

  title: str
  metrics: tuple[str, ...]
  cells: tuple[Cell, ...]
  tolerance: Mapping[str, float] = dataclasses.field(default_factory=dict)
  statistic: str = 'pooled'
  averages: tuple[Average, ...] = ()
  demo: tuple[Cell, ...] = ()
  about: tuple[str, ...] = ()

  def __post_init__(self):
    for mistake in self._mistakes():
      raise TableError(mistake)

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return next(
      task for task, names in METRICS.items() if set(self.metrics) <= set(names)
    )

  def _mistakes(self) -> Iterator[str]:
    """Messages about what is wrong; nothing else is checked elsewhere."""
    tasks = [
      t for t, names in METRICS.items() if set(self.metrics) <= set(names)
    ]
    if not self.metrics or not tasks:
      yield (
        f'metrics {", ".join(self.metrics) or "(none)"} are not of one task: '
        f'choose from {" or from ".join(map(", ".join, METRICS.values()))}'
      )
    yield from _unknown('statistic', self.statistic, ('pooled', 'fold_mean'))
    if not self.cells:
      yield 'the table has no cells'
    cells = (*self.cells, *self.demo)
    names = [cell.name for cell in cells]
    for cell in cells:
      if not _NAME.fullmatch(cell.name):
        yield (
          f'cell name {cell.name!r} is to be a folder: use small letters, '
          'digits, and _ . - after the first'
        )
      if names.count(cell.name) > 1:
        yield f'two cells have the name {cell.name!r}'
      if not cell.label or not cell.figures:
        yield f'cell {cell.name!r} needs a label and a figure'
      if cell.baseline and cell.baseline not in names:
        yield f'cell {cell.name!r}: baseline {cell.baseline!r} is no cell'
    figures = [figure for cell in cells for figure in cell.figures]
    for figure in figures:
      yield from _unknown('selection', figure.selection, SELECTIONS)
    groups = {figure.group for figure in figures}
    for average in self.averages:
      yield from _unknown('over', average.over, ('mean', 'best'))
      if average.group not in groups:
        yield (
          f'average {average.label!r}: no cell has a figure in group '
          f'{average.group!r}'
        )
    for entry in (*figures, *self.averages):
      yield from self._wrong_paper(entry)

  def _wrong_paper(self, entry: Figure | Average) -> Iterator[str]:
    where = f'group {entry.group!r}'
    if entry.paper and not entry.source:
      yield f'{where}: say where the paper has its figures (source)'
    for metric, value in entry.paper.items():
      if metric not in self.metrics:
        yield (
          f'{where}: the paper has {metric!r}, which is none of the metrics '
          f'{", ".join(self.metrics)}'
        )
      if metric not in self.tolerance:
        yield f'{where} has a figure for {metric!r}: state its tolerance'
      if isinstance(value, bool) or not isinstance(value, int | float):
        yield f'{where}: {metric} is {value!r}, expected a number'


def _unknown(name: str, value: str, valid) -> Iterator[str]:
  if value not in valid:
    yield f'{name} {value!r} is unknown; choose one of {", ".join(valid)}'


def load(path: os.PathLike[str] | str) -> Table:
  """Reads TABLE of a file of configs/tables, or of the installed one by name.

  Raises:
    UserError: there is no such file, it cannot be read, or has no TABLE.
  """
  file = command_line.find_recipe(path, 'tables')
  try:
    module = command_line.load_module(file)
  except TableError as error:
    raise TableError(f'{file}: {error}.') from error
  except (SyntaxError, ImportError, NameError, TypeError, KeyError) as error:
    raise TableError(
      f'{file}: cannot be read ({type(error).__name__}: {error}).'
    ) from error
  table = getattr(module, 'TABLE', None)
  if not isinstance(table, Table):
    raise TableError(
      f'{file}: has no TABLE made by jaxser.report.tables.spec.Table; see the '
      'files of configs/tables.'
    )
  return table
