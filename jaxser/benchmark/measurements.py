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
  system = workload.system
  if not dtypes:
    # CPUs emulate bfloat16.
    one = jax.default_backend() == 'cpu' or not programs.dtype_field(system)
    dtypes = [programs.dtype_of(system)] if one else programs.DTYPES
  typed = [programs.with_dtype(system, dtype) for dtype in dtypes]
  # First, so that what cannot be compared is said at once.
  others, notes = peers.steps(compare, workload, dtypes, works)
  ours, delays = [], {}
  for dtype, system in zip(dtypes, typed, strict=True):
    one = dataclasses.replace(workload, system=system)
    parallel = workload.config.parallel
    step = programs.Stack(one, parallel=parallel)
    single = programs.Stack(one, jax.local_devices()[:1], size=1)
    for work in works:
      ours.append(step.program([work]))
      if with_latency:
        delay = single.latency(work, settings.seconds)
        delays[f'{work} {dtype}'] = delay
  made = [*ours, *others]
  facts, turns = _measure(workload, made, settings)
  return {
    **facts,
    'batch_size': workload.size,
    'feature_shape': list(workload.shape),
    'accumulate': workload.micro_batches(),
    'about': workload.describe('per call') + workload.in_phase(),
    'programs': {
      program.name: timing.speed(
        program, turns[program.name], facts['ceilings']
      )
      for program in made
    },
    'ratios': timing.ratios(made, turns),
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
  parts = workload.micro_batches()
  made = {
    count: programs.Stack(
      workload,
      every[:count],
      size=count * workload.size,
      parts=parts,
      parallel=workload.config.parallel,
    ).program(['training'], f'{count} devices')
    for count in counts
  }
  facts, turns = _measure(workload, made.values(), settings)
  shared = every[0].platform == 'cpu'
  means = 'per device against that of the first row'
  if shared:
    means = (
      'against that of the first row; the devices are parts of one CPU, so more '
      'of them share the same cores'
    )
  about = workload.describe('per device') + workload.in_phase()
  return {
    **facts,
    'axis': 'devices',
    'about': f'training steps of {about}',
    'efficiency_means': f'Efficiency: throughput {means}; 100 % is the best.',
    'rows': _rows('devices', made, turns, facts, shared),
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
  facts, turns = _measure(workload, [*made.values(), *others], settings)
  rows = _rows('folds', made, turns, facts, shared=True)
  slower = [timing.speed(other, turns[other.name]) for other in others]
  runs, epochs = counts[-1], workload.config.epochs
  seconds = {
    row['maker']: count * epochs * row['milliseconds_per_call'] / 1e3
    for count, row in [(1, rows[-1]), *((runs, row) for row in slower)]
  }
  return {
    **facts,
    'axis': 'folds',
    'about': f'one epoch of {utterances} utterances of '
    f'{describe_shape(workload.shape)} in batches of {workload.size}, evaluation '
    f'included{workload.in_phase()}',
    'efficiency_means': 'Efficiency: throughput against that of the first row; '
    'above 100 % more runs at once use the device better than one.',
    'epochs': epochs,
    'rows': rows,
    'others': [{'folds': 1, **row} for row in slower],
    'ratios': [
      {
        'maker': other.implementation,
        'folds': count,
        **timing.ratio(turns[program.name], turns[other.name], count),
      }
      for other in others
      for count, program in made.items()
    ],
    'extrapolation': {
      'trainings': runs,
      'epochs': epochs,
      'seconds': seconds,
    },
  }


def _measure(
  workload: Workload, made: Sequence[Program], settings: Settings
) -> tuple[dict[str, Any], dict[str, list[timing.Turn]]]:
  """What the report begins with, and the turns."""
  seconds = settings.seconds / 2
  facts = {
    'system': workload.config.system,
    'environment': machine.environment(),
    'rounds': settings.rounds,
    'ceilings': machine.measure_peaks(seconds) if settings.peaks else None,
  }
  return facts, timing.measure(list(made), settings)


def _rows(
  axis: str,
  made: dict[int, Program],
  turns: dict[str, list[timing.Turn]],
  facts: dict[str, Any],
  shared: bool,
) -> list[dict[str, Any]]:
  """One row for each count; `shared`: all counts have the same hardware."""
  rows = []
  for count, program in made.items():
    row = timing.speed(program, turns[program.name], facts['ceilings'])
    rate = row['utterances_per_second'] / (1 if shared else count)
    rows.append({axis: count, **row, 'efficiency': rate})
  first = rows[0]['efficiency'] if rows[0]['quiet'] else None
  for row in rows:
    known = first and row['quiet']
    row['efficiency'] = row['efficiency'] / first if known else None
  return rows
