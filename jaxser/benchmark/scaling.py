"""Weak scaling: each device, or each fold, brings its own work.

All counts take turns in one process, so what else happens on the machine meets
all of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxser import ceilings
from jaxser import config as config_lib
from jaxser.benchmark import folds as folds_lib
from jaxser.benchmark import programs, speed, timing, workload
from jaxser.benchmark.timing import BenchmarkError, Program
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
  made = {}
  for count in counts:
    setup = programs.Setup.create(
      config, system, corpus, shape, size * count, every[:count]
    )
    made[count] = programs.training(setup, f'{count} devices')
  shared = every[0].platform == 'cpu'
  return {
    'axis': 'devices',
    'about': f'{size} utterances of {_times(shape)} per device and step',
    'efficiency_means': _SHARED if shared else _OWN,
    **_measured(
      config, 'devices', made, rounds, seconds, shared, with_ceilings
    ),
  }


def folds(
  config: Any,
  counts: Sequence[int],
  *,
  classes: int = 7,
  rounds: int = 10,
  seconds: float = 1.0,
  utterances: int = 0,
  with_ceilings: bool = True,
) -> dict[str, Any]:
  """One epoch of n trainings in one program, n in `counts`.

  The program is that of config.engine='folds', on features of real shape made
  up for as many utterances as EmoDB has, of which a tenth is tested.

  Args:
    config: a recipe.
    counts: numbers of trainings.
    classes: of the made-up corpus.
    rounds: turns of each count.
    seconds: of a turn.
    utterances: of the corpus; 0 is 535.
    with_ceilings: whether to measure what the machine can do at best.
  """
  config_lib.validate(config)
  shape = workload.feature_shape(config)
  utterances = utterances or workload.EMODB_UTTERANCES
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  made = {
    # The compiler counts the bytes of a loop's body once, and all is loops here.
    count: dataclasses.replace(
      folds_lib.epoch(config, system, corpus, shape, count, utterances),
      bytes_accessed=None,
    )
    for count in counts
  }
  return {
    'axis': 'folds',
    'about': f'one epoch of {utterances} utterances of {_times(shape)}, '
    'evaluation included',
    'efficiency_means': _FOLDS,
    'epochs': config.epochs,
    **_measured(config, 'folds', made, rounds, seconds, True, with_ceilings),
  }


def _measured(
  config: Any,
  axis: str,
  made: dict[int, Program],
  rounds: int,
  seconds: float,
  shared: bool,
  with_ceilings: bool,
) -> dict[str, Any]:
  """Rows by count; `shared`: all counts have the same hardware."""
  limits = ceilings.measure(seconds=seconds / 2) if with_ceilings else None
  times = timing.measure(list(made.values()), rounds, seconds)
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
    rows.append(
      {
        axis: count,
        **row,
        'processor_milliseconds_per_utterance': row[
          'processor_milliseconds_per_call'
        ]
        / program.utterances,
        'efficiency': rate / first,
      }
    )
  return {
    'system': config.system,
    'environment': speed.environment(),
    'rounds': rounds,
    'ceilings': limits and limits._asdict(),
    'rows': rows,
  }


def _times(shape: Sequence[int]) -> str:
  return ' x '.join(map(str, shape))
