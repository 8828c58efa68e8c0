"""What a file of configs/tables holds: `TABLE`, made of these records."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
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
  """A table of a paper; it checks itself and its records.

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
    """'classification' or 'regression'; '' if the metrics are of neither."""
    tasks = (
      t for t, names in METRICS.items() if set(self.metrics) <= set(names)
    )
    return next(tasks, '')

  def _mistakes(self) -> Iterator[str]:
    if not self.metrics or not self.task:
      valid = ' or from '.join(map(', '.join, METRICS.values()))
      yield f'metrics {self.metrics} are not of one task: choose from {valid}'
    yield from _unknown('statistic', self.statistic, ('pooled', 'fold_mean'))
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
      if cell.baseline:
        yield from _unknown('baseline', cell.baseline, names)
    figures = [figure for cell in cells for figure in cell.figures]
    for figure in figures:
      yield from _unknown('selection', figure.selection, SELECTIONS)
    for average in self.averages:
      yield from _unknown('over', average.over, ('mean', 'best'))
      groups = [figure.group for figure in figures]
      yield from _unknown('group', average.group, dict.fromkeys(groups))
    for entry in (*figures, *self.averages):
      where = f'group {entry.group!r}'
      if entry.paper and not entry.source:
        yield f'{where}: say where the paper has its figures (source)'
      for metric, value in entry.paper.items():
        yield from _unknown(f'{where}: metric', metric, self.metrics)
        if metric not in self.tolerance:
          yield f'{where} has a figure for {metric!r}: state its tolerance'
        if not isinstance(value, int | float):
          yield f'{where}: {metric} is {value!r}, expected a number'


def _unknown(name: str, value: str, valid: Iterable[str]) -> Iterator[str]:
  if value not in valid:
    yield f'{name} {value!r} is unknown; choose one of {", ".join(valid)}'


def load(path: os.PathLike[str] | str) -> Table:
  """Reads TABLE of a file of configs/tables, or of the installed one by name.

  Raises:
    UserError: there is no such file, it cannot be read, or has no TABLE.
  """
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
