"""Weak scaling: each device, or each fold, brings its own work.

All counts take turns in one process, and with them the other library if there
is one, so what else happens on the machine meets all of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxser.benchmark import (
  ceilings,
  comparison,
  programs,
  speed,
  timing,
  workload,
)
from jaxser.benchmark import folds as folds_lib
from jaxser.benchmark.timing import BenchmarkError, Program, Turn
from jaxser.core import config as config_lib
from jaxser.systems import registry

_SHARED = (
  'Efficiency: throughput against that of the first row; the devices are parts '
  'of one CPU, so more of them share the same cores and 100 % is the best.'
)
_OWN = (
  'Efficiency: throughput per device against that of the first row; 100 % is '
  'the best.'
)
_FOLDS = (
  'Efficiency: throughput against that of the first row; above 100 % more '
  'trainings at once use the device better than one.'
)


def devices(
  config: Any,
  counts: Sequence[int],
  *,
  batch_size: int = 0,
  classes: int = 7,
  rounds: int = 10,
  seconds: float = 1.0,
  with_ceilings: bool = True,
) -> dict[str, Any]:
  """The training step over the first n devices, n in `counts`.

  Args:
    config: a recipe.
    counts: numbers of devices.
    batch_size: utterances per device; 0 is that of the recipe.
    classes: of the made-up corpus.
    rounds: turns of each count.
    seconds: of a turn.
    with_ceilings: whether to measure what the machine can do at best.

  Raises:
    BenchmarkError: if there are not so many devices.
  """
  config_lib.validate(config)
  every = jax.devices()
  if max(counts) > len(every):
    raise BenchmarkError(
      f'--scale=devices: there are {len(every)} devices, not {max(counts)}; '
      f'give --counts up to {len(every)}.'
    )
  shape = workload.feature_shape(config)
  size = batch_size or workload.usual_batch(config)
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  parts, made = workload.micro_batches(config, size), {}
  for count in counts:
    setup = programs.Setup.create(
      config, system, corpus, shape, size * count, every[:count], parts
    )
    made[count] = programs.training(setup, f'{count} devices')
  shared = every[0].platform == 'cpu'
  limits = ceilings.measure(seconds=seconds / 2) if with_ceilings else None
  times = timing.measure(list(made.values()), rounds, seconds)
  return {
    'axis': 'devices',
    'about': 'training steps of '
    + workload.described(size, shape, parts, 'per device')
    + workload.in_phase(config, system),
    'efficiency_means': _SHARED if shared else _OWN,
    **_facts(config, rounds, limits),
    'rows': _rows('devices', made, times, shared, limits),
  }


def folds(
  config: Any,
  counts: Sequence[int],
  *,
  batch_size: int = 0,
  classes: int = 7,
  rounds: int = 10,
  seconds: float = 1.0,
  utterances: int = 0,
  with_ceilings: bool = True,
  compare: str = 'none',
) -> dict[str, Any]:
  """One epoch of n trainings in one program, n in `counts`.

  The program is that of config.engine='folds', on features of real shape made
  up for as many utterances as EmoDB has, of which a tenth is tested. What is
  compared trains one fold after the other, so only its epoch of one is timed.

  Args:
    config: a recipe.
    counts: numbers of trainings.
    batch_size: utterances of a step of each; 0 is that of the recipe.
    classes: of the made-up corpus.
    rounds: turns of each count.
    seconds: of a turn.
    utterances: of the corpus; 0 is 535.
    with_ceilings: whether to measure what the machine can do at best.
    compare: 'none' or 'keras'.

  Returns:
    Among others 'extrapolation': how long all `epochs` of the last count of
    `trainings` take in 'seconds' by maker, compiling apart.

  Raises:
    BenchmarkError: if the comparison is not possible.
  """
  config_lib.validate(config)
  if compare not in ('none', 'keras'):
    raise BenchmarkError(
      f'--scale=folds has no --compare={compare}: give --compare=keras, or leave '
      'out --scale to compare single steps.'
    )
  shape = workload.feature_shape(config)
  size = batch_size or workload.usual_batch(config)
  utterances = utterances or workload.EMODB_UTTERANCES
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  others = []
  if compare == 'keras':
    # First, so that what cannot be compared is said at once.
    others.append(
      comparison.keras_fold(
        system,
        shape,
        size,
        *workload.fold_sizes(utterances),
      )
    )
  made = {
    # The compiler counts the bytes of a loop's body once, and all is loops here.
    count: dataclasses.replace(
      folds_lib.epoch(config, system, corpus, shape, count, utterances, size),
      bytes_accessed=None,
    )
    for count in counts
  }
  limits = ceilings.measure(seconds=seconds / 2) if with_ceilings else None
  times = timing.measure([*made.values(), *others], rounds, seconds)
  rows = _rows('folds', made, times, True, limits)
  last = rows[-1]
  each = {
    other.maker: timing.speed(other, times[other.name]) for other in others
  }
  calls = config.epochs / 1e3
  return {
    'axis': 'folds',
    'about': f'one epoch of {utterances} utterances of '
    f'{workload.shaped(shape)} in batches of {size}, evaluation included'
    + workload.in_phase(config, system),
    'efficiency_means': _FOLDS,
    'epochs': config.epochs,
    **_facts(config, rounds, limits),
    'rows': rows,
    'others': [{'folds': 1, **row} for row in each.values()],
    'ratios': [
      {
        'maker': other.maker,
        'folds': count,
        **timing.ratio(times[program.name], times[other.name], count),
      }
      for other in others
      for count, program in made.items()
    ],
    'extrapolation': {
      'trainings': last['folds'],
      'epochs': config.epochs,
      'seconds': {
        timing.OURS: calls * last['milliseconds_per_call'],
        **{
          maker: calls * last['folds'] * row['milliseconds_per_call']
          for maker, row in each.items()
        },
      },
    },
  }


def _facts(
  config: Any, rounds: int, limits: ceilings.Ceilings | None
) -> dict[str, Any]:
  return {
    'system': config.system,
    'environment': speed.environment(),
    'rounds': rounds,
    'ceilings': limits and limits._asdict(),
  }


def _rows(
  axis: str,
  made: dict[int, Program],
  times: dict[str, list[Turn]],
  shared: bool,
  limits: ceilings.Ceilings | None,
) -> list[dict[str, Any]]:
  """One for each count; `shared`: all counts have the same hardware."""
  rows, first = [], None
  for count, program in made.items():
    row = timing.speed(
      program,
      times[program.name],
      limits and limits.flops_per_second,
      limits and limits.bytes_per_second,
    )
    rate = row['utterances_per_second'] / (1 if shared else count)
    first = first or rate
    rows.append({axis: count, **row, 'efficiency': rate / first})
  return rows
