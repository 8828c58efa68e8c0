"""What was measured, as tables for people."""

from collections.abc import Sequence
from typing import Any

from jaxser.benchmark import collectives, workload

GIB, MIB = 2**30, 2**20


def number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
  """A figure in units of `scale`, or a dash where there is none."""
  return '-' if value is None else f'{value / scale:.{digits}f}'


def percent(value: float | None) -> str:
  """A share, or a dash."""
  return '-' if value is None else f'{100 * value:.1f} %'


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Columns, the first flush left, the others flush right."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  return [
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in (header, *rows)
  ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """The same in Markdown."""
  rule = ['---', *['---:'] * (len(header) - 1)]
  return ['| ' + ' | '.join(row) + ' |' for row in (header, rule, *rows)]


def machine(about: dict[str, Any]) -> str:
  """'1 cpu device(s) (cpu, 2 cores, load 0.3)'."""
  return (
    f'{about["devices"]} {about["platform"]} device(s) ({about["device"]}, '
    f'{about["cpu_cores"]} cores, load {about["load_average"]:.1f})'
  )


def speed(report: dict[str, Any]) -> str:
  """Of `speed.run`."""
  lines = [
    f'{report["system"]}, {report["about"]}, on '
    f'{machine(report["environment"])}',
    '',
    *plain(
      (
        '',
        'utterances/s',
        'best',
        'ms/call',
        'core-ms',
        'GFLOP/s',
        'of peak',
        'GB/s',
        'of peak',
        'compile s',
        'memory MiB',
      ),
      [
        (
          name,
          number(row['utterances_per_second']),
          number(row['best_utterances_per_second']),
          number(row['milliseconds_per_call']),
          number(row['processor_milliseconds_per_call']),
          number(row['flop_per_second'], 1e9),
          percent(row['share_of_matrix_peak']),
          number(row['bytes_per_second'], 1e9),
          percent(row['share_of_bandwidth']),
          number(row['compile_seconds']),
          number(row['memory_bytes'].get('peak'), MIB),
        )
        for name, row in report['programs'].items()
      ],
    ),
  ]
  for name, row in report['latency'].items():
    lines.append(
      f'{name}, one utterance: {row["median_milliseconds"]:.1f} ms (best '
      f'{row["best_milliseconds"]:.1f}, 90 % within '
      f'{row["p90_milliseconds"]:.1f}); the first, compiled on the way, '
      f'{row["first_milliseconds"]:.0f} ms'
    )
  for row in report['ratios']:
    lines.append(
      f'{row["work"]} {row["dtype"]}: {row["median"]:.2f} times as fast as '
      f'{row["maker"]} (median of the rounds; best against best '
      f'{row["best"]:.2f}, processor time {row["processor"]:.2f})'
    )
  lines += _ceilings(report['ceilings'])
  if report['peak_device_bytes']:
    lines.append(
      f'Peak device memory: {report["peak_device_bytes"] / GIB:.2f} GiB'
    )
  lines.append(waiting(report.get('waiting')))
  return '\n'.join([*lines, *report['notes']])


def _ceilings(found: dict[str, Any] | None) -> list[str]:
  """What the machine can do at best, if it was measured."""
  if not found:
    return []
  peaks = ', '.join(
    f'{number(value, 1e9)} GFLOP/s {name}'
    for name, value in found['flops_per_second'].items()
  )
  return [
    f'Ceilings measured beside it: {peaks}; '
    f'{number(found["bytes_per_second"], 1e9)} GB/s'
  ]


def waiting(found: dict[str, Any] | None) -> str:
  """Of `waiting.run`."""
  if found is None:
    return 'Time waiting for data: not measured; give --data_dir.'
  return (
    f'Time waiting for data ({found["corpus"]}, {found["steps"]} steps): '
    f'{percent(found["share_waiting"])} of the time of a step; '
    f'{found["step_milliseconds"]:.1f} ms per step on data that is there, '
    f'{found["together_milliseconds"]:.1f} ms with the pipeline, which alone '
    f'takes {found["pipeline_milliseconds"]:.1f} ms per batch'
  )


def scaling(report: dict[str, Any]) -> str:
  """Of `scaling.devices` and `scaling.folds`."""
  what = report['axis']
  lines = [
    f'{report["system"]}, {report["about"]}, on '
    f'{machine(report["environment"])}',
    '',
    *plain(
      (
        what,
        'utterances/s',
        'ms/call',
        'core-ms/utterance',
        'efficiency',
        'GFLOP/call',
        'of peak',
        'GB/call',
        'of peak',
      ),
      [
        (
          str(row[what]),
          number(row['utterances_per_second']),
          number(row['milliseconds_per_call']),
          number(row['processor_milliseconds_per_utterance'], digits=3),
          percent(row['efficiency']),
          number(row['flop_per_call'], 1e9),
          percent(row['share_of_matrix_peak']),
          number(row['bytes_per_call'], 1e9),
          percent(row['share_of_bandwidth']),
        )
        for row in report['rows']
      ]
      + [
        (
          f'{row["maker"]}, {row[what]}',
          number(row['utterances_per_second']),
          number(row['milliseconds_per_call']),
          number(row['processor_milliseconds_per_utterance'], digits=3),
          *['-'] * 5,
        )
        for row in report.get('others', [])
      ],
    ),
    report['efficiency_means'],
    *_ceilings(report['ceilings']),
  ]
  if what == 'folds':
    lines += _extrapolation(report)
  return '\n'.join(lines)


def _extrapolation(report: dict[str, Any]) -> list[str]:
  """How long the whole of what is published would take, and in Keras."""
  found = report['extrapolation']
  what = f'{found["trainings"]} trainings of {found["epochs"]} epochs'
  compiling = {
    row['maker']: row['compile_seconds']
    for row in [*report['rows'], *report['others']]
  }
  lines = [
    f'At this speed {what} take {seconds:.0f} s in {maker}, and compiling '
    f'{compiling[maker]:.0f} s.'
    for maker, seconds in found['seconds'].items()
  ]
  for row in report['ratios']:
    lines.append(
      f'{row["folds"]} at once: {row["median"]:.2f} times as fast as one after '
      f'the other in {row["maker"]} (median of the rounds; best against best '
      f'{row["best"]:.2f}, processor time {row["processor"]:.2f})'
    )
  return lines


_TOPOLOGY_HEADER = (
  'topology',
  'chips',
  'hosts',
  'memory GiB',
  'of it temporary',
  'fits',
  'TFLOP',
  'GB accessed',
  'compiler s',
  'estimate s',
  'collectives',
)


def topology_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
  """Of `topology.run`, per chip."""
  rows = []
  for row in report['rows']:
    memory = row['memory_bytes']
    sent = ', '.join(
      f'{found["runs"]} {kind} of {found["bytes"] / MIB:.2f} MiB'
      for kind, found in row.get('collectives', {}).items()
    )
    rows.append(
      (
        row['topology'],
        str(row['chips']),
        str(row['hosts']),
        number(memory['peak'], GIB, 2),
        number(memory.get('temporary'), GIB, 2),
        'yes' if row['fits'] else 'no',
        number(row['flop'], 1e12, 3),
        number(row.get('bytes'), 1e9, 1),
        number(row.get('compiler_seconds'), 1, 4),
        number(row.get('estimated_seconds'), 1, 4),
        sent or ('none' if 'collectives' in row else '-'),
      )
    )
  return rows


def topology_about(report: dict[str, Any]) -> str:
  """One line on what was compiled."""
  batch = report['batch_per_chip'], report['feature_shape']
  if report['program'] == 'folds':
    return (
      f'{report["system"]}: the program of all folds and seeds, '
      f'{report["trainings_per_chip"]} trainings per chip in batches of '
      f'{batch[0]} utterances of {workload.shaped(batch[1])}, '
      f'{report["dtype"]}'
    )
  about = workload.described(*batch, report['accumulate'], 'per chip')
  return f'{report["system"]}: one training step of {about}, {report["dtype"]}'


def topology(report: dict[str, Any]) -> str:
  """Of `topology.run`."""
  table = plain(_TOPOLOGY_HEADER, topology_rows(report))
  lines = [topology_about(report), '', *table, *_phases(report)]
  for places, groups in _sent(report):
    lines += ['', _SENT + places, '', *plain(_SENT_HEADER, groups)]
  return '\n'.join(lines)


def topology_markdown(report: dict[str, Any], command: str) -> str:
  """Of a section of a page below its title: the command and the table."""
  table = markdown(_TOPOLOGY_HEADER, topology_rows(report))
  lines = [f'    {command}', '', *table]
  if phases := _phases(report):
    lines += ['', *phases]
  for places, groups in _sent(report):
    lines += ['', _SENT + places, '', *markdown(_SENT_HEADER, groups)]
  return '\n'.join([*lines, ''])


_SENT = 'Collectives of '
_SENT_HEADER = (
  'from',
  'kind',
  'instructions',
  'runs of each',
  'arrays',
  'MiB per step',
)


def _phases(report: dict[str, Any]) -> list[str]:
  """Which phase of the loss the rows are of, if there are several."""
  lines = []
  for row in report['rows']:
    peaks = row.get('phase_peak_bytes', {})
    if len(peaks) > 1:
      every = ', '.join(
        f'{phase} {number(peak, GIB, 2)} GiB' for phase, peak in peaks.items()
      )
      lines.append(
        f'{row["topology"]} is of phase {row["phase"]}, which needs the most '
        f'memory: {every}.'
      )
  return lines


def _sent(
  report: dict[str, Any],
) -> list[tuple[str, list[tuple[str, ...]]]]:
  """What is sent on which topologies; those that send the same are together."""
  found: dict[tuple[tuple[str, ...], ...], list[str]] = {}
  for row in report['rows']:
    rows = tuple(
      (
        group['origin'],
        group['kind'],
        str(group['instructions']),
        str(group['times']),
        str(group['arrays']),
        number(group['bytes_per_step'], MIB, 4),
      )
      for group in collectives.grouped(row.get('collective_list', []))
    )
    if rows:
      found.setdefault(rows, []).append(row['topology'])
  return [(', '.join(names), list(rows)) for rows, names in found.items()]
