"""Measurements of programs that take turns: speed, devices, folds.

Each returns a report: what it is 'about', its 'rows', 'notes' and, for JSON, all
else that was found; `tables.table` shows it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxser.benchmark import machine, peers, programs, timing
from jaxser.benchmark.programs import Case
from jaxser.benchmark.timing import BenchmarkError, Program, Settings, Turn
from jaxser.engine import memory
from jaxser.engine.experiment import Experiment


def speed(
  experiment: Experiment,
  settings: Settings,
  *,
  compare: str = 'none',
  dtypes: Sequence[str] = (),
  works: Sequence[str] = programs.WORKS,
  with_latency: bool = True,
) -> dict[str, Any]:
  """Measures training steps and predictions; see the flags for the arguments."""
  possible = programs.dtypes(experiment.system)
  known = sorted(possible, reverse=True)
  # CPUs emulate bfloat16.
  dtypes = dtypes or (
    [*possible][:1] if jax.default_backend() == 'cpu' else known
  )
  if wrong := [dtype for dtype in dtypes if dtype not in possible]:
    raise BenchmarkError(
      f'--dtypes={wrong[0]}: {type(experiment.system).__name__} computes in '
      f'{" or ".join(known)}.'
    )
  # First, so that what cannot be compared is said at once.
  others, comments = peers.steps(compare, experiment, dtypes, works)
  ours, notes = {}, []
  for dtype in dtypes:
    one = dataclasses.replace(experiment, system=possible[dtype])
    alone = programs.changed(one, batch_size=1, accumulate=1, parallel='jit')
    step, single = Case(one), Case(alone, jax.local_devices()[:1])
    for work in works:
      ours[work, dtype] = step.program(work)
      if with_latency:
        delay = single.latency(work, settings.seconds)
        notes.append(
          f'One utterance, {work} {dtype}: {delay["median"]:.1f} ms (90 % within '
          f'{delay["p90"]:.1f} ms; the first, compiled on the way, '
          f'{delay["first"]:.0f} ms).'
        )
  made = {f'{p.maker} {p.work} {p.dtype}': p for p in [*ours.values(), *others]}
  about = programs.describe(experiment, 'per call')
  report, turns = _measure(experiment, about, 'program', made, settings)
  same = dict(zip(ours, turns, strict=False))
  for row, program, its in zip(
    report['rows'], made.values(), turns, strict=True
  ):
    if program in others:
      mine = same[program.work, program.dtype]
      row['jaxser is'] = timing.ratio(mine, its)
  if jax.default_backend() != 'cpu':
    notes.append(f'Peak device memory: {memory.show(memory.peak())}.')
  return {**report, 'notes': notes + comments}


def devices(
  experiment: Experiment, counts: Sequence[int], settings: Settings
) -> dict[str, Any]:
  """Measures the training step over the first n devices, n in `counts`.

  Weak scaling: each device has the whole batch of the experiment.
  """
  every, size = jax.devices(), experiment.config.batch_size
  if max(counts) > len(every):
    raise BenchmarkError(
      f'--scale=devices: there are {len(every)} devices, not {max(counts)}; '
      f'give --counts up to {len(every)}.'
    )
  made = {}
  for n in counts:
    case = Case(programs.changed(experiment, batch_size=n * size), every[:n])
    made[str(n)] = case.program('training')
  about = f'training steps of {programs.describe(experiment, "per device")}'
  report, _ = _measure(experiment, about, 'devices', made, settings)
  shares, means = counts, 'per device against that of the first row'
  if every[0].platform == 'cpu':
    shares = [1] * len(counts)
    means = (
      'against that of the first row; the devices are parts of one CPU, so more '
      'of them share the same cores'
    )
  _add_efficiency(report['rows'], shares)
  note = f'Efficiency: throughput {means}; 100 % is the best.'
  return {**report, 'notes': [note]}


def folds(
  experiment: Experiment,
  counts: Sequence[int],
  settings: Settings,
  compare: str = 'none',
) -> dict[str, Any]:
  """Measures one epoch of n runs in one program, n in `counts`.

  A tenth of the utterances is tested. What is compared trains one fold after the
  other, so only its epoch of one fold is timed. 'hours', by implementation, are
  those of all epochs of the last count, compiling apart.
  """
  # First, so that what cannot be compared is said at once.
  others = peers.epochs(compare, experiment)
  spread = programs.changed(experiment, parallel='jit')
  made, last = {}, counts[-1]
  for n in counts:
    case = Case(spread, runs=n, resident=True)
    made['jaxser, ' * bool(others) + str(n)] = case.program(*programs.WORKS)
  made |= {f'{other.maker}, 1': other for other in others}
  config = experiment.config
  about = (
    f'one epoch of {len(experiment.source.corpus.table)} utterances of '
    f'{programs.describe_shape(experiment)} in batches of {config.batch_size}, '
    'evaluation included'
  )
  report, turns = _measure(experiment, about, 'folds', made, settings)
  rows, number = report['rows'], len(counts)
  _add_efficiency(rows[:number], [1] * number)
  takes = {'jaxser': rows[number - 1]['ms per call']}
  for i, other in enumerate(others, number):
    takes[other.maker] = last * rows[i]['ms per call']
    for row, ours, count in zip(rows, turns, counts, strict=False):
      row[f'against {other.maker}'] = timing.ratio(ours, turns[i], count)
  hours = {maker: ms * config.epochs / 3.6e6 for maker, ms in takes.items()}
  every = ', '.join(f'{each:.2f} h in {maker}' for maker, each in hours.items())
  notes = [
    'Efficiency: throughput against that of the first row; above 100 % more runs '
    'at once use the device better than one.',
    f'At this speed {last} runs of {config.epochs} epochs take {every}, compiling '
    'apart.',
  ]
  return {**report, 'hours': hours, 'notes': notes}


def _measure(
  experiment: Experiment,
  about: str,
  title: str,
  made: dict[str, Program],
  settings: Settings,
) -> tuple[dict[str, Any], list[list[Turn]]]:
  """What every report has, with a row of each program, and the turns."""
  environment, peaks = machine.environment(), None
  if settings.peaks:
    peaks = machine.measure_peaks(settings.seconds / 2)
  turns = timing.measure([*made.values()], settings)
  system, phase = experiment.config.system, programs.in_phase(experiment)
  return {
    'about': f'{system}, {about}{phase}',
    'environment': environment,
    'rounds': settings.rounds,
    'peaks': peaks,
    'rows': [
      {title: name, **timing.row(program, its, peaks)}
      for (name, program), its in zip(made.items(), turns, strict=True)
    ],
  }, turns


def _add_efficiency(
  rows: Sequence[dict[str, Any]], shares: Sequence[int]
) -> None:
  """Compares throughput, divided by the row's share, with that of the first."""
  rates = [row['utterances/s'] / n for row, n in zip(rows, shares, strict=True)]
  for row, rate in zip(rows, rates, strict=True):
    if row['turns']['quiet'] and rows[0]['turns']['quiet']:
      row['efficiency, %'] = 100 * (rate / rates[0])
