"""Reports as tables: on a terminal, and in a page of Markdown with the command."""

import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxser.benchmark import collectives, timing
from jaxser.core import files
from jaxser.report import insert

GIB, MIB = 2**30, 2**20
# Column, key of a row, unit, digits: what a cell shows.
Columns = Sequence[tuple[str, str, float, int]]
_SPEED: Columns = (
  ('utterances/s', 'utterances_per_second', 1, 1),
  ('ms per call', 'milliseconds_per_call', 1, 1),
  ('core-ms', 'processor_milliseconds_per_call', 1, 1),
  ('GFLOP/s', 'flop_per_second', 1e9, 1),
  ('% of the measured peak', 'share_of_matrix_peak', 0.01, 1),
  ('GB/s', 'bytes_per_second', 1e9, 1),
  ('% of the measured bandwidth', 'share_of_bandwidth', 0.01, 1),
  ('compiling, s', 'compile_seconds', 1, 1),
  ('memory, MiB', 'peak', MIB, 1),
)
_SCALING: Columns = (
  ('utterances/s', 'utterances_per_second', 1, 1),
  ('ms per call', 'milliseconds_per_call', 1, 1),
  ('core-ms per utterance', 'processor_milliseconds_per_utterance', 1, 3),
  ('efficiency, %', 'efficiency', 0.01, 1),
  ('% of the measured peak', 'share_of_matrix_peak', 0.01, 1),
  ('compiling, s', 'compile_seconds', 1, 1),
)
_PREDICTION: Columns = (
  ('first file, ms', 'first_latency_s', 1e-3, 0),
  ('next files, ms', 'warm_latency_s', 1e-3, 1),
  ('files/s', 'files_per_s', 1, 1),
  ('times real time', 'times_real_time', 1, 0),
)
_TOPOLOGY: Columns = (
  ('chips', 'chips', 1, 0),
  ('hosts', 'hosts', 1, 0),
  ('memory GiB', 'peak', GIB, 2),
  ('of it temporary', 'temporary', GIB, 2),
  ('fits', 'fits', 1, 0),
  ('TFLOP', 'flop', 1e12, 3),
  ('GB accessed', 'bytes', 1e9, 1),
  ('compiler s', 'compiler_seconds', 1, 4),
  ('estimate s', 'estimated_seconds', 1, 4),
)
_COLLECTIVES: Columns = (
  ('instructions', 'instructions', 1, 0),
  ('runs of each', 'times', 1, 0),
  ('arrays', 'arrays', 1, 0),
  ('MiB per step', 'bytes_per_step', MIB, 4),
)


class Table(NamedTuple):
  """Cells, and sentences about them."""

  about: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: Sequence[str] = ()

  def plain(self) -> str:
    """For a terminal: the first column flush left, the others flush right."""
    cells = [self.header, *self.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
      '  '.join(
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
      ).rstrip()
      for row in cells
    ]
    return '\n'.join([self.about, '', *lines, *self.notes])

  def markdown(self) -> str:
    """The cells for a page."""
    rule = ['---', *['---:'] * (len(self.header) - 1)]
    rows = [['—' if cell == '-' else cell for cell in row] for row in self.rows]
    cells = self.header, rule, *rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in cells)


def number(value: float | bool | None, unit: float = 1, digits: int = 1) -> str:
  """A figure in a unit, yes or no, or a dash where there is none."""
  if value is None or isinstance(value, bool):
    return {None: '-', True: 'yes', False: 'no'}[value]
  return f'{value / unit:.{digits}f}'


def _header(first: str, columns: Columns, *last: str) -> list[str]:
  return [first, *(name for name, _, _, _ in columns), *last]


def _cells(row: dict[str, Any], columns: Columns) -> list[str]:
  values = {**row, **row.get('memory_bytes', {})}
  return [
    number(values.get(key), unit, digits) for _, key, unit, digits in columns
  ]


def speed(report: dict[str, Any]) -> Table:
  """Makes the table of `measurements.speed`."""
  programs = report['programs']
  last = ['jaxser is'] * any('ratio' in row for row in programs.values())
  header = _header('program', _SPEED, *last)
  rows = [
    [name, *_cells(row, _SPEED), *(_ratio(row) for _ in last)]
    for name, row in programs.items()
  ]
  notes = [
    f'One utterance, {name}: {row["median_milliseconds"]:.1f} ms (90 % within '
    f'{row["p90_milliseconds"]:.1f} ms; the first, compiled on the way, '
    f'{row["first_milliseconds"]:.0f} ms).'
    for name, row in report['latency'].items()
  ]
  if report['peak_device_bytes']:
    peak = number(report['peak_device_bytes'], GIB, 2)
    notes.append(f'Peak device memory: {peak} GiB.')
  if found := report.get('waiting'):
    notes.append(
      f'Time waiting for data ({found["corpus"]}, {found["steps"]} steps): '
      f'{100 * found["share_waiting"]:.1f} % of the time of a step; '
      f'{found["step_milliseconds"]:.1f} ms per step on data that is there, '
      f'{found["together_milliseconds"]:.1f} ms with the pipeline, which alone '
      f'takes {found["pipeline_milliseconds"]:.1f} ms per batch.'
    )
  notes += report['notes'] + _measured(report, programs.values())
  return Table(f'{report["system"]}, {report["about"]}', header, rows, notes)


def scaling(report: dict[str, Any]) -> Table:
  """Makes the table of `measurements.devices` and `measurements.folds`."""
  axis, others = report['axis'], report.get('others', [])
  every = [*report['rows'], *others]
  header = _header(
    axis, _SCALING, *(f'against {row["maker"]}' for row in others)
  )
  rows = [
    [
      f'{row["maker"]}, {row[axis]}' if others else str(row[axis]),
      *_cells(row, _SCALING),
      # Only of ours: its epochs against as many of the other library.
      *(_ratio(row) for _ in others),
    ]
    for row in every
  ]
  notes = [report['efficiency_means']]
  if found := report.get('extrapolation'):
    takes = ', '.join(
      f'{seconds / 3600:.2f} h in {implementation}'
      for implementation, seconds in found['seconds'].items()
    )
    notes.append(
      f'At this speed {found["trainings"]} runs of {found["epochs"]} epochs take '
      f'{takes}, compiling apart.'
    )
  notes += _measured(report, every)
  return Table(f'{report["system"]}, {report["about"]}', header, rows, notes)


def prediction(report: dict[str, Any]) -> Table:
  """Makes the table of prediction from files."""
  found = [report[place] for place in ('host', 'device') if place in report]
  rows = [[row['features_on'], *_cells(row, _PREDICTION)] for row in found]
  about = (
    f'{found[0]["system"]}, {found[0]["members"]} models, from wav files of '
    f'{found[0]["seconds"]:g} s, {found[0]["files"]} at a time; the first with '
    'compiling'
  )
  notes = report['notes'] + _measured(report)
  return Table(about, _header('features on the', _PREDICTION), rows, notes)


def topology(report: dict[str, Any]) -> list[Table]:
  """Makes the table of `topology.run`, per chip, and those of collectives."""
  rows, notes, sent = [], [], {}
  for row in report['rows']:
    name, phases = row['topology'], row['phase_peak_bytes']
    every = ', '.join(
      f'{one["runs"]} {one["kind"]} of {number(one["bytes_per_step"], MIB, 2)} MiB'
      for one in row.get('collectives', ())
    )
    every = every or ('none' if 'collectives' in row else '-')
    rows.append([name, *_cells(row, _TOPOLOGY), every])
    if len(phases) > 1:
      peaks = ', '.join(
        f'{phase} {number(peak, GIB, 2)} GiB' for phase, peak in phases.items()
      )
      notes.append(
        f'{name} is of phase {row["phase"]}, which needs the most memory: '
        f'{peaks}.'
      )
    places = collectives.totals(
      row.get('collective_list', ()), 'origin', 'kind', 'times'
    )
    groups = tuple(
      (place['origin'], place['kind'], *_cells(place, _COLLECTIVES))
      for place in places
    )
    if groups:
      # Topologies that send the same share a table.
      sent.setdefault(groups, []).append(name)
  header = _header('topology', _TOPOLOGY, 'collectives')
  groups_header = ['from', *_header('kind', _COLLECTIVES)]
  return [
    Table(report['about'], header, rows, notes),
    *(
      Table(f'Collectives of {", ".join(names)}', groups_header, groups)
      for groups, names in sent.items()
    ),
  ]


def _ratio(row: dict[str, Any]) -> str:
  found = row.get('ratio')
  if found is None:
    return '-'
  if found['median'] is None:
    return f'not known, {found["quiet_rounds"]} quiet rounds'
  return f'{found["median"]:.2f} times as fast'


def _measured(
  report: dict[str, Any], rows: Sequence[dict[str, Any]] = ()
) -> list[str]:
  """Beside which peaks, what was left out, and on what machine."""
  about, peaks, notes = report['environment'], report.get('ceilings'), []
  if peaks:
    speeds = ', '.join(
      f'{number(value, 1e9)} GFLOP/s {name}'
      for name, value in peaks['flops_per_second'].items()
    )
    width = number(peaks['bytes_per_second'], 1e9)
    notes.append(f'Peaks measured beside it: {speeds}; {width} GB/s.')
  foreign = [cores for row in rows for cores in row['foreign_cores']]
  loud = len(foreign) - sum(row['quiet_turns'] for row in rows)
  if loud:
    notes.append(
      f'{loud} of {len(foreign)} turns ran beside more than '
      f'{timing.QUIET_CORES} cores of other work at each try; no ratio has them.'
    )
  if None in foreign:
    notes.append(
      f'Of {foreign.count(None)} turns it is not known what ran beside them; give '
      'longer ones by --seconds.'
    )
  if not all(row['quiet'] for row in rows):
    notes.append(
      'Too few quiet turns to compare: repeat it on an idle machine.'
    )
  where = f'{about["devices"]} x {about["device"]}'
  if about['platform'] == 'cpu':
    where = f'{about["cpu_cores"]} cores of {about["cpu"]}'
  often = f', medians of {report["rounds"]} turns' if 'rounds' in report else ''
  return [*notes, f'{where}, JAX {about["jax"]}{often}.']


def check_page(into: str) -> tuple[str, str]:
  """Splits PAGE#NAME, before any time is spent on measuring.

  Raises:
    UserError: if it is not of this form, or the page lacks the marks.
  """
  page, _, name = into.partition('#')
  if not page or not name:
    raise timing.BenchmarkError(
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
  """Writes tables as a section of a page, in the place of an older one.

  Args:
    path: page, made if it is not there; its other sections stay as they are.
    tables: the first names the section.
    words: of the command line, without the program.
  """
  path = pathlib.Path(path)
  page = path.read_text('utf-8') if path.exists() else '# What TPU slices need'
  first, *others = tables
  blocks = [f'    {public_command(words)}', first.markdown(), *first.notes]
  for table in others:
    blocks += [table.about, table.markdown()]
  top, *sections = page.split('\n## ')
  bodies = dict(section.partition('\n')[::2] for section in sections)
  bodies[first.about] = '\n\n'.join(blocks)
  parts = [f'## {title}\n\n{body.strip()}' for title, body in bodies.items()]
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
