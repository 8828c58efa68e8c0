"""What a file of configs/tables holds: `TABLE`, made of these records."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxser.core import command_line
from jaxser.core.errors import UserError
from jaxser.evaluation.metrics import METRICS
from jaxser.evaluation.predictions import SELECTIONS, PathLike

_NAME = re.compile(r'[a-z0-9][a-z0-9_.-]*')


class TableError(UserError):
  """A table cannot be made as asked; the message says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Figure:
  """One line of the table: a selection of a run, and what the paper found."""

  group: str  # Heading under which the line stands.
  selection: str  # Whose weights are meant, a key of `predictions.SELECTIONS`.
  # Metric -> the paper's figure, in per cent or CCC.
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ''  # Where that figure stands.
  incomparable: str = ''  # Why the two cannot be compared even so.


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of jaxser, in a folder of its own, and the lines it fills."""

  name: str  # Of the folder, and for --only.
  label: str  # What people read for it.
  config: str  # Recipe, as for `jaxser.main --config`.
  arg: str  # What comes after its colon.
  figures: tuple[Figure, ...]
  # Fields of the config that the paper's run sets otherwise.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  baseline: str = ''  # Name of the cell that its lines are compared with.
  on_request: str = ''  # Why it is run only if named by --only.
  # Fields that --set must give, as they differ from machine to machine (a
  # folder), and what to give; the cell is not run without.
  required: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Average:
  """The mean of a group's lines over its cells, as some papers give it."""

  group: str
  label: str  # What people read for it.
  over: str = 'mean'  # Of each cell's seeds, or the 'best' of them.
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ''


@dataclasses.dataclass(frozen=True)
class Published:
  """A line of what others published for a system that is no cell."""

  group: str
  label: str  # What people read for it.
  paper: Mapping[str, float]
  source: str


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a paper; it checks itself and its records."""

  title: str
  metrics: tuple[str, ...]  # Columns, of one task in `metrics.METRICS`.
  cells: tuple[Cell, ...]
  # Metric -> how far a measured figure may be from the paper's.
  tolerance: Mapping[str, float] = dataclasses.field(default_factory=dict)
  averages: tuple[Average, ...] = ()
  published: tuple[Published, ...] = ()
  demo: tuple[Cell, ...] = ()  # On the demo corpus, run by --demo only.
  about: tuple[str, ...] = ()  # Paragraphs that a reader must know.

  def __post_init__(self):
    for mistake in self._mistakes():
      raise TableError(mistake)

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return next(t for t, v in METRICS.items() if {*self.metrics} <= {*v})

  def _mistakes(self) -> Iterator[str]:
    of_a_task = [{*self.metrics} <= {*valid} for valid in METRICS.values()]
    if not self.metrics or not any(of_a_task):
      valid = ' or from '.join(map(', '.join, METRICS.values()))
      yield f'metrics {self.metrics} are not of one task: choose from {valid}'
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
      if not cell.figures:
        yield f'cell {cell.name!r} has no figure'
    figures = [figure for cell in cells for figure in cell.figures]
    groups = dict.fromkeys(figure.group for figure in figures)
    alone = (*self.averages, *self.published)
    with_paper = [(f'group {x.group!r}', x) for x in (*figures, *alone)]
    choices = [
      *(('baseline', c.baseline, names) for c in cells if c.baseline),
      *(('selection', figure.selection, SELECTIONS) for figure in figures),
      *(('over', average.over, ('mean', 'best')) for average in self.averages),
      *(('group', entry.group, groups) for entry in alone),
      *(
        (f'{where}: metric', metric, self.metrics)
        for where, entry in with_paper
        for metric in entry.paper
      ),
    ]
    for name, value, valid in choices:
      if value not in valid:
        yield f'{name} {value!r} is unknown; choose one of {", ".join(valid)}'
    for where, entry in with_paper:
      if entry.paper and not entry.source:
        yield f'{where}: say where the paper has its figures (source)'
      for metric, value in entry.paper.items():
        compared = not isinstance(entry, Published)
        if compared and metric not in self.tolerance:
          yield f'{where} has a figure for {metric!r}: state its tolerance'
        if not isinstance(value, int | float):
          yield f'{where}: {metric} is {value!r}, expected a number'


def load(path: PathLike) -> Table:
  """Reads TABLE of a file of configs/tables, or of the installed one by name."""
  file = command_line.find_recipe(path, 'tables')
  try:
    table = getattr(command_line.load_module(file), 'TABLE', None)
  except TableError as error:
    raise TableError(f'{file}: {error}.') from error
  if not isinstance(table, Table):
    raise TableError(
      f'{file}: has no TABLE made by jaxser.report.tables.spec.Table; see the '
      'files of configs/tables.'
    )
  return table
