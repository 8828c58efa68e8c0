"""Reports as tables: on a terminal, and in a page of Markdown with the command."""

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxser.benchmark.timing import QUIET_CORES, BenchmarkError
from jaxser.core import files
from jaxser.report import insert


class Table(NamedTuple):
  """Rows by column, the first of which names them, and sentences about them.

  What is a list or a dict in a row is for --json alone, a column without any
  figure is left out.
  """

  about: str
  rows: Sequence[Mapping[str, Any]]
  notes: Sequence[str] = ()

  def cells(self) -> list[list[str]]:
    """Returns the header and the rows as text."""
    header = dict.fromkeys(
      name
      for row in self.rows
      for name, value in row.items()
      if not isinstance(value, list | dict | None)
    )
    every = [[number(row.get(name)) for name in header] for row in self.rows]
    return [list(header), *every]

  def plain(self) -> str:
    """For a terminal: the first column flush left, the others flush right."""
    cells = self.cells()
    first, *others = (
      max(map(len, column)) for column in zip(*cells, strict=True)
    )
    lines = [
      '  '.join([row[0].ljust(first), *map(str.rjust, row[1:], others)])
      for row in cells
    ]
    return '\n'.join([self.about, '', *lines, *self.notes])

  def markdown(self) -> str:
    """The cells for a page."""
    header, *rows = self.cells()
    rule = ['---', *['---:'] * (len(header) - 1)]
    rows = [['—' if cell == '-' else cell for cell in row] for row in rows]
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, rule, *rows))


def number(value: float | bool | str | None) -> str:
  """Four digits of a figure, yes or no, or a dash where there is none."""
  if value is None or isinstance(value, bool):
    return {None: '-', True: 'yes', False: 'no'}[value]
  if isinstance(value, str):
    return value
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def table(report: Mapping[str, Any]) -> Table:
  """Makes the table of a report, with what is to be said of machine and turns."""
  about, notes = report['environment'], list(report['notes'])
  if peaks := report.get('peaks'):
    speeds = ', '.join(
      f'{value / 1e9:.1f} GFLOP/s {name}'
      for name, value in peaks['flops'].items()
    )
    width = f'{peaks["bytes"] / 1e9:.1f} GB/s'
    notes.append(f'Peaks measured beside it: {speeds}; {width}.')
  timed = [row['turns'] for row in report['rows'] if 'turns' in row]
  foreign = [turn['foreign'] for turns in timed for turn in turns['every']]
  if loud := sum(turns['loud'] for turns in timed):
    notes.append(
      f'{loud} of {len(foreign)} turns ran beside more than {QUIET_CORES} cores of '
      'other work at each try; no ratio has them.'
    )
  if None in foreign:
    notes.append(
      f'Of {foreign.count(None)} turns it is not known what ran beside them; give '
      'longer ones by --seconds.'
    )
  if not all(turns['quiet'] for turns in timed):
    notes.append(
      'Too few quiet turns to compare: repeat it on an idle machine.'
    )
  where = f'{about["devices"]} x {about["device"]}'
  if about['platform'] == 'cpu':
    where = f'{about["cpu_cores"]} cores of {about["cpu"]}'
  often = f', medians of {report["rounds"]} turns' if timed else ''
  notes.append(f'{where}, JAX {about["jax"]}{often}.')
  return Table(report['about'], report['rows'], notes)


def check_page(into: str) -> tuple[str, str]:
  """Splits PAGE#NAME, before any time is spent on measuring."""
  page, _, name = into.partition('#')
  if not page or not name:
    raise BenchmarkError(
      f'--into={into}: give the marks too, as in --into=README.md#NAME.'
    )
  insert.around(page, name)
  return page, name


def write_into(into: str, table: Table, words: Sequence[str]) -> None:
  """Puts a table, what it is of, and the command between the marks of PAGE#NAME."""
  notes = ' '.join([f'{table.about}.', *table.notes])
  made = [table.markdown(), notes, f'    {public_command(words)}']
  insert.replace(*check_page(into), '\n\n'.join(made))


def write_section(
  path: os.PathLike[str] | str, tables: Sequence[Table], words: Sequence[str]
) -> None:
  """Writes tables as a section of a page, in the place of an older one."""
  path = pathlib.Path(path)
  page = path.read_text('utf-8') if path.exists() else '# What TPU slices need'
  first, *others = tables
  blocks = [f'    {public_command(words)}', first.markdown(), *first.notes]
  for table in others:
    blocks += [table.about, table.markdown()]
  top, *sections = page.split('\n## ')
  bodies = dict(section.partition('\n')[::2] for section in sections)
  bodies[first.about] = '\n\n'.join(blocks)
  # Blank lines only: the command that a section begins with is indented.
  bodies = {title: body.strip('\n') for title, body in bodies.items()}
  parts = [f'## {title}\n\n{body}' for title, body in bodies.items()]
  files.write_text(path, '\n\n'.join([top.strip(), *parts]) + '\n')


def public_command(words: Sequence[str]) -> str:
  """Returns the command as others can type it: without somebody's folders."""
  line, kept = insert.without_places(words), []
  while line:
    word = line.pop(0)
    flag, equals, value = word.lstrip('-').partition('=')
    if flag in ('into', 'json', 'data_dir'):
      if not equals:
        line.pop(0)
      kept += ['--data_dir=DIR'] * (flag == 'data_dir')
    elif flag == 'checkpoint' and value.startswith(('/', '~', '..')):
      kept.append(f'--checkpoint=runs/{pathlib.PurePath(value).name}')
    else:
      kept.append(word)
  return shlex.join(['python', '-m', 'jaxser.benchmark', *kept])
