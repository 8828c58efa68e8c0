"""Measurements of programs that take turns: speed, devices, folds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxser.benchmark import machine, peers, programs, timing
from jaxser.benchmark.timing import BenchmarkError, Program, Settings
from jaxser.benchmark.workload import (
  EMODB_UTTERANCES,
  Workload,
  describe_shape,
)

WORKS = ('training', 'prediction')


def speed(
  workload: Workload,
  settings: Settings,
  *,
  compare: str = 'none',
  dtypes: Sequence[str] = (),
  works: Sequence[str] = WORKS,
  with_latency: bool = True,
) -> dict[str, Any]:
  """Measures training steps and predictions; see the flags for the arguments.

  Raises:
    BenchmarkError: for a type of matmuls that the system lacks, or a comparison
      that is not possible.
  """
  possible = programs.dtypes(workload.system)
  if not dtypes:
    # CPUs emulate bfloat16.
    own_only = jax.default_backend() == 'cpu'
    dtypes = [*possible][:1] if own_only else sorted(possible, reverse=True)
  for dtype in dtypes:
    if dtype not in possible:
      raise BenchmarkError(
        f'--dtypes={dtype}: {type(workload.system).__name__} computes in '
        f'{" or ".join(sorted(possible, reverse=True))}.'
      )
  # First, so that what cannot be compared is said at once.
  others, notes = peers.steps(compare, workload, dtypes, works)
  ours, delays = [], {}
  for dtype in dtypes:
    one = dataclasses.replace(workload, system=possible[dtype])
    step = programs.Stack(one, parallel=workload.config.parallel)
    single = programs.Stack(one, jax.local_devices()[:1], size=1)
    for work in works:
      ours.append(step.program([work]))
      if with_latency:
        delay = single.latency(work, settings.seconds)
        delays[f'{work} {dtype}'] = delay
  report, turns = _measure(workload, [*ours, *others], settings)
  for other in others:
    same = f'{timing.OURS} {other.work} {other.dtype}'
    ratio = timing.ratio(turns[same], turns[other.name])
    report['programs'][other.name]['ratio'] = ratio
  return {
    **report,
    'batch_size': workload.size,
    'feature_shape': list(workload.shape),
    'accumulate': workload.micro_batches(),
    'about': workload.describe('per call') + workload.in_phase(),
    'latency': delays,
    'peak_device_bytes': machine.peak_device_bytes(),
    'notes': notes,
  }


def devices(
  workload: Workload, counts: Sequence[int], settings: Settings
) -> dict[str, Any]:
  """Measures the training step over the first n devices, n in `counts`.

  Weak scaling: each device has the whole batch of the workload.

  Raises:
    BenchmarkError: if there are not so many devices.
  """
  every = jax.devices()
  if max(counts) > len(every):
    raise BenchmarkError(
      f'--scale=devices: there are {len(every)} devices, not {max(counts)}; '
      f'give --counts up to {len(every)}.'
    )
  made = {
    count: programs.Stack(
      workload,
      every[:count],
      size=count * workload.size,
      parallel=workload.config.parallel,
    ).program(['training'], f'{count} devices')
    for count in counts
  }
  report, _ = _measure(workload, [*made.values()], settings)
  shared = every[0].platform == 'cpu'
  means = 'per device against that of the first row'
  if shared:
    means = (
      'against that of the first row; the devices are parts of one CPU, so more '
      'of them share the same cores'
    )
  about = workload.describe('per device') + workload.in_phase()
  return {
    **report,
    'axis': 'devices',
    'about': f'training steps of {about}',
    'efficiency_means': f'Efficiency: throughput {means}; 100 % is the best.',
    'rows': _rows('devices', made, report, shared),
  }


def folds(
  workload: Workload,
  counts: Sequence[int],
  settings: Settings,
  utterances: int = EMODB_UTTERANCES,
  compare: str = 'none',
) -> dict[str, Any]:
  """Measures one epoch of n runs in one program, n in `counts`.

  On as many utterances as EmoDB has, of which a tenth is tested. What is compared
  trains one fold after the other, so only its epoch of one fold is timed.

  Returns:
    Among others 'extrapolation': the 'seconds' by implementation that all
    `epochs` of the last count take, compiling apart.

  Raises:
    BenchmarkError: if the comparison is not possible.
  """
  # First, so that what cannot be compared is said at once.
  others = peers.epochs(compare, workload, *programs.fold_sizes(utterances))
  made = {
    n: programs.Stack(workload, runs=n, utterances=utterances).program(
      WORKS, f'{n} folds'
    )
    for n in counts
  }
  report, turns = _measure(workload, [*made.values(), *others], settings)
  rows = _rows('folds', made, report, shared=True)
  slower = [{'folds': 1, **report['programs'][other.name]} for other in others]
  for other in others:
    for row, (count, program) in zip(rows, made.items(), strict=True):
      row['ratio'] = timing.ratio(turns[program.name], turns[other.name], count)
  runs, epochs = counts[-1], workload.config.epochs
  seconds = {
    row['maker']: count * epochs * row['milliseconds_per_call'] / 1e3
    for count, row in [(1, rows[-1]), *((runs, row) for row in slower)]
  }
  return {
    **report,
    'axis': 'folds',
    'about': f'one epoch of {utterances} utterances of '
    f'{describe_shape(workload.shape)} in batches of {workload.size}, evaluation '
    f'included{workload.in_phase()}',
    'efficiency_means': 'Efficiency: throughput against that of the first row; '
    'above 100 % more runs at once use the device better than one.',
    'epochs': epochs,
    'rows': rows,
    'others': slower,
    'extrapolation': {
      'trainings': runs,
      'epochs': epochs,
      'seconds': seconds,
    },
  }


def _measure(
  workload: Workload, made: Sequence[Program], settings: Settings
) -> tuple[dict[str, Any], dict[str, list[timing.Turn]]]:
  """What every report has, with a row of each program, and the turns."""
  environment, peaks = machine.environment(), None
  if settings.peaks:
    peaks = machine.measure_peaks(settings.seconds / 2)
  turns = timing.measure(made, settings)
  return {
    'system': workload.config.system,
    'environment': environment,
    'rounds': settings.rounds,
    'ceilings': peaks,
    'programs': {
      program.name: timing.speed(program, turns[program.name], peaks)
      for program in made
    },
  }, turns


def _rows(
  axis: str, made: dict[int, Program], report: dict[str, Any], shared: bool
) -> list[dict[str, Any]]:
  """One row for each count; `shared`: all counts have the same hardware."""
  rows = []
  for count, program in made.items():
    row = report['programs'][program.name]
    rate = row['utterances_per_second'] / (1 if shared else count)
    first = rows[0] if rows else {**row, 'rate': rate}
    known = row['quiet'] and first['quiet']
    efficiency = rate / first['rate'] if known else None
    rows.append({axis: count, **row, 'rate': rate, 'efficiency': efficiency})
  return rows
