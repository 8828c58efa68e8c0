"""What a file of configs/tables holds: `TABLE`, made of these records.

  TABLE = spec.Table(
    title='TIM-Net, single corpus',
    metrics=('uar', 'war'),
    tolerance={'uar': 2.0, 'war': 2.0},
    cells=(
      spec.Cell(
        name='emodb-published',
        label='EMODB',
        config='configs/timnet.py',
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

Every record checks itself; a wrong one cannot be made.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxser.core.errors import UserError
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.evaluation.results import METRICS

STATISTICS = ('pooled', 'fold_mean')
OVER = ('mean', 'best')
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

  def __post_init__(self):
    if not self.group:
      raise TableError('a figure needs a group, the heading it stands under')
    if self.selection not in SELECTIONS:
      raise TableError(
        f'selection {self.selection!r} is unknown; choose one of '
        f'{", ".join(SELECTIONS)}'
      )
    _check_paper(self.paper, self.source, f'figure of group {self.group!r}')


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of jaxser, in a folder of its own, and the lines it fills.

  Attributes:
    name: of the folder, and for --only.
    label: what people read for it.
    config: recipe file, as for `jaxser.main --config`.
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

  def __post_init__(self):
    if not _NAME.fullmatch(self.name):
      raise TableError(
        f'cell name {self.name!r} is to be a folder: use small letters, digits, '
        'and _ . - after the first'
      )
    if not self.label or not self.figures:
      raise TableError(f'cell {self.name!r} needs a label and a figure')
    groups = [figure.group for figure in self.figures]
    if len(set(groups)) < len(groups):
      raise TableError(f'cell {self.name!r} has two figures in one group')


@dataclasses.dataclass(frozen=True)
class Average:
  """The mean of a group's lines over its cells, as some papers give it.

  Attributes:
    group: of the lines.
    label: what people read for it.
    over: 'mean' takes each cell's mean over seeds, 'best' its best seed.
    paper, source: as in `Figure`.
  """

  group: str
  label: str
  over: str = 'mean'
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ''

  def __post_init__(self):
    if self.over not in OVER:
      raise TableError(
        f'average {self.label!r}: over={self.over!r} is unknown; choose one of '
        f'{", ".join(OVER)}'
      )
    _check_paper(self.paper, self.source, f'average {self.label!r}')


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
    if self.statistic not in STATISTICS:
      raise TableError(
        f'statistic {self.statistic!r} is unknown; choose one of '
        f'{", ".join(STATISTICS)}'
      )
    if not self.cells:
      raise TableError('the table has no cells')
    if not self.metrics or not any(
      set(self.metrics) <= set(valid) for valid in METRICS.values()
    ):
      raise TableError(
        f'metrics {", ".join(self.metrics) or "(none)"} are not of one task: '
        'choose from '
        + ' or from '.join(', '.join(valid) for valid in METRICS.values())
      )
    cells = (*self.cells, *self.demo)
    names = [cell.name for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
      raise TableError(f'two cells have the name {twice[0]!r}')
    for cell in cells:
      if cell.baseline and cell.baseline not in names:
        raise TableError(
          f'cell {cell.name!r}: baseline {cell.baseline!r} is no cell'
        )
    groups = {figure.group for cell in cells for figure in cell.figures}
    for average in self.averages:
      if average.group not in groups:
        raise TableError(
          f'average {average.label!r}: no cell has a figure in group '
          f'{average.group!r}'
        )
    figures = [figure for cell in cells for figure in cell.figures]
    for entry in (*figures, *self.averages):
      for metric in entry.paper:
        if metric not in self.metrics:
          raise TableError(
            f'group {entry.group!r}: the paper has {metric!r}, which is none of '
            f'the metrics {", ".join(self.metrics)}'
          )
        if metric not in self.tolerance:
          raise TableError(
            f'group {entry.group!r} has a figure of the paper for {metric!r}: '
            'state its tolerance'
          )

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return next(
      task for task, names in METRICS.items() if self.metrics[0] in names
    )


def _check_paper(paper: Mapping[str, float], source: str, where: str) -> None:
  for metric, value in paper.items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise TableError(f'{where}: {metric} is {value!r}, expected a number')
  if paper and not source:
    raise TableError(f'{where}: say where the paper has its figures (source)')


def load(path: os.PathLike[str] | str) -> Table:
  """Reads TABLE of a file of configs/tables.

  Raises:
    TableError: there is no such file, it cannot be read, or has no TABLE.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    # Not __init__.py.
    there = pathlib.Path('configs/tables').glob('[!_]*.py')
    near = sorted(str(p) for p in there)
    raise TableError(
      f'{path}: no such file.'
      + (f' Tables here: {", ".join(near)}.' if near else '')
      + ' Run from the folder that holds configs/, or give the whole path.'
    )
  source = importlib.util.spec_from_file_location(f'table_{path.stem}', path)
  if source is None or source.loader is None:
    raise TableError(f'{path}: is no Python file; tables end in .py')
  module = importlib.util.module_from_spec(source)
  try:
    source.loader.exec_module(module)
  except TableError as error:
    raise TableError(f'{path}: {error}.') from error
  except (SyntaxError, ImportError, NameError, TypeError, KeyError) as error:
    raise TableError(
      f'{path}: cannot be read ({type(error).__name__}: {error}).'
    ) from error
  table = getattr(module, 'TABLE', None)
  if not isinstance(table, Table):
    raise TableError(
      f'{path}: has no TABLE made by jaxser.report.tables.spec.Table; see the files of '
      'configs/tables.'
    )
  return table
