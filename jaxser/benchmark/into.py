"""What was measured as a short table in a page of Markdown, with its command.

So figures in a page are never typed: the command is run again instead.
"""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from jaxser.benchmark import modes, tables
from jaxser.benchmark.tables import MIB, number, percent
from jaxser.benchmark.timing import BenchmarkError
from jaxser.evaluation.predictions import PredictionsError

# Of no use to who types the command again.
_OUTPUTS = ('into', 'json')


def check(into: str) -> tuple[str, str]:
  """Page and name of PAGE#NAME, before any time is spent on measuring.

  Raises:
    BenchmarkError: if it is not of this form, or the page lacks the marks.
  """
  # Knows of runs and their pages, which no measurement needs.
  from jaxser.report import insert

  page, _, name = into.partition('#')
  if not page or not name:
    raise BenchmarkError(
      f'--into={into}: give the marks too, as in --into=README.md#NAME.'
    )
  try:
    insert.around(page, name)
  except PredictionsError as error:
    raise BenchmarkError(f'--into={into}: {error}.') from error
  return page, name


def write(
  into: str, mode: str, report: dict[str, Any], words: Sequence[str]
) -> None:
  """Puts the table of a report between the marks of PAGE#NAME.

  Args:
    into: the page and the name of its marks.
    mode: of `modes`, but no topology: those have a page of their own.
    report: what was measured.
    words: of the command line, without the program.
  """
  from jaxser.report import insert

  page, name = check(into)
  insert.replace(page, name, render(mode, report, words))


def render(mode: str, report: dict[str, Any], words: Sequence[str]) -> str:
  """The table, what it is of, and the command."""
  header, rows, notes = _TABLES[mode](report)
  rows = [['—' if cell == '-' else cell for cell in row] for row in rows]
  table = tables.markdown(header, rows)
  return '\n'.join([*table, '', ' '.join(notes), '', f'    {typed(words)}'])


def typed(words: Sequence[str]) -> str:
  """The command as others can type it: without somebody's folders."""
  from jaxser.report import insert

  kept, skip = [], False
  for word in insert.without_places(words):
    name, has_value, value = word.lstrip('-').partition('=')
    if skip:
      skip = False
    elif name in _OUTPUTS:
      skip = not has_value
    elif name == 'data_dir':
      skip = not has_value
      kept.append('--data_dir=DIR')
    elif name == 'checkpoint' and value.startswith(('/', '~', '..')):
      kept.append(re.sub(r'=.*/(?=[^/])', '=runs/', word).rstrip('/'))
    else:
      kept.append(word)
  return shlex.join(['python', '-m', 'jaxser.benchmark', *kept])


Table = tuple[Sequence[str], list[Sequence[str]], list[str]]


def _speed(report: dict[str, Any]) -> Table:
  ratios = {
    (row['maker'], row['work'], row['dtype']): row for row in report['ratios']
  }
  rows = []
  for name, row in report['programs'].items():
    ratio = ratios.get((row['maker'], row['work'], row['dtype']))
    rows.append(
      (
        name,
        number(row['utterances_per_second']),
        number(row['milliseconds_per_call']),
        number(row['flop_per_second'], 1e9),
        percent(row['share_of_matrix_peak']),
        number(row['compile_seconds']),
        number(row['memory_bytes'].get('peak'), MIB, 0),
        _times(ratio),
      )
    )
  header = (
    'program',
    'utterances/s',
    'ms per call',
    'GFLOP/s',
    'of the measured peak',
    'compiling, s',
    'memory, MiB',
    'jaxser is',
  )
  notes = [f'{report["system"]}, {report["about"]}.']
  notes += [
    f'One utterance, {name}: {row["median_milliseconds"]:.1f} ms.'
    for name, row in report['latency'].items()
  ]
  if 'waiting' in report:
    notes.append(f'{tables.waiting(report["waiting"])}.')
  if not ratios:
    header, rows = header[:-1], [row[:-1] for row in rows]
  return header, rows, [*notes, _measured(report)]


def _devices(report: dict[str, Any]) -> Table:
  header = (
    'devices',
    'utterances/s',
    'ms per step',
    'core-ms per utterance',
    'efficiency',
    'of the measured peak',
  )
  rows = [
    (
      str(row['devices']),
      number(row['utterances_per_second']),
      number(row['milliseconds_per_call']),
      number(row['processor_milliseconds_per_utterance'], digits=3),
      percent(row['efficiency']),
      percent(row['share_of_matrix_peak']),
    )
    for row in report['rows']
  ]
  notes = [f'{report["system"]}, {report["about"]}.']
  return header, rows, [*notes, report['efficiency_means'], _measured(report)]


def _folds(report: dict[str, Any]) -> Table:
  ratios = {row['folds']: row for row in report['ratios']}
  header = (
    'trainings at once',
    'utterances/s',
    's per epoch',
    'core-s per epoch',
    'of the measured peak',
    'compiling, s',
    *(f'against {row["maker"]}' for row in report['others']),
  )
  rows = [
    (
      f'{row["maker"]}, {row["folds"]}',
      number(row['utterances_per_second']),
      number(row['milliseconds_per_call'], 1e3, 2),
      number(row['processor_milliseconds_per_call'], 1e3, 2),
      percent(row['share_of_matrix_peak']),
      number(row['compile_seconds']),
      # Only of ours: its epochs against as many of the other library.
      *[
        _times(ratios[row['folds']] if row in report['rows'] else None)
        for _ in report['others']
      ],
    )
    for row in [*report['rows'], *report['others']]
  ]
  found = report['extrapolation']
  takes = ', '.join(
    f'{seconds / 3600:.2f} h in {maker}'
    for maker, seconds in found['seconds'].items()
  )
  notes = [
    f'{report["system"]}, {report["about"]}.',
    f'At this speed {found["trainings"]} trainings of {found["epochs"]} epochs '
    f'take {takes}, compiling apart.',
  ]
  return header, rows, [*notes, _measured(report)]


def _prediction(report: dict[str, Any]) -> Table:
  header = (
    'features on the',
    'first file, ms',
    'next files, ms',
    'files/s',
    'times real time',
  )
  found = [report[place] for place in ('host', 'device') if place in report]
  rows = [
    (
      row['features_on'],
      number(row['first_latency_s'], 1e-3, 0),
      number(row['warm_latency_s'], 1e-3),
      number(row['files_per_s']),
      number(row['times_real_time'], digits=0),
    )
    for row in found
  ]
  notes = [
    f'{found[0]["system"]}, {found[0]["members"]} members, from wav files of '
    f'{found[0]["seconds"]:g} s, {found[0]["files"]} at a time; the first with '
    'compiling.',
    *report['notes'],
  ]
  return header, rows, [*notes, _measured(report)]


_TABLES = {
  modes.SPEED: _speed,
  modes.DEVICES: _devices,
  modes.FOLDS: _folds,
  modes.CHECKPOINT: _prediction,
}


def _times(ratio: dict[str, float] | None) -> str:
  return '-' if ratio is None else f'{ratio["median"]:.2f} times as fast'


def _measured(report: dict[str, Any]) -> str:
  """On what, and how often."""
  about = report['environment']
  if about['platform'] == 'cpu':
    where = f'{about["cpu_cores"]} cores of {about["cpu"]}'
  else:
    where = f'{about["devices"]} x {about["device"]}'
  often = f', medians of {report["rounds"]} turns' if 'rounds' in report else ''
  return f'{where}, JAX {about["jax"]}{often}.'
