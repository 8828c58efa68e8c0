"""python -m jaxser.benchmark --config=configs/timnet.py: how fast a system is.

Times the very training step and prediction that the engine runs, on made-up
features of the real shape, so no corpus is needed and no TensorFlow. Compiling
is timed apart. What is compared takes turns (A B A B ...), because other work
on the machine comes and goes; each turn's speed is kept, and the processor time
beside the time on the clock.

Examples:
  python -m jaxser.benchmark --config=configs/timnet.py
      TIM-Net, 64 utterances of 188 frames (EmoDB).
  python -m jaxser.benchmark --config=configs/timnet.py --compare=keras
      The same network in Keras takes turns with it; the ratio is reported.
  python -m jaxser.benchmark --config=configs/dsnet.py:size=paper --json=OUT.json
      Any recipe and any override (--config.FIELD=VALUE) of jaxser.main.
"""

import dataclasses
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from jaxser import command_line, files, heap, mesh, step, workload
from jaxser import config as config_lib
from jaxser.data.corpus import Corpus
from jaxser.systems import registry
from jaxser.systems.base import System

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Recipe, such as configs/timnet.py; see jaxser.main.'
)
_BATCH = flags.DEFINE_integer(
  'batch_size',
  0,
  'Utterances per step; 0 is 64 for TIM-Net and else what the recipe says.',
  lower_bound=0,
)
_CLASSES = flags.DEFINE_integer('classes', 7, 'Classes.', lower_bound=2)
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Turns of each.', lower_bound=1)
_SECONDS = flags.DEFINE_float(
  'seconds', 1.0, 'A turn repeats its program for so long.', lower_bound=0.0
)
_COMPARE = flags.DEFINE_enum(
  'compare', 'none', ['none', 'keras'], 'Another implementation to time too.'
)
_KEEP_HEAP = flags.DEFINE_boolean(
  'keep_heap', True, 'Reuse freed memory on Linux CPUs, see jaxser.heap.'
)
_JSON = flags.DEFINE_string('json', '', 'File for everything measured.')

_TIMNET_BATCH = 64


class BenchmarkError(workload.WorkloadError):
  """What was asked for cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Program:
  """One thing to be timed.

  Attributes:
    name: such as 'jaxser training'.
    utterances: per call.
    compile_seconds: time of the first call or of the compiler.
    run: runs so many calls, one after the other, and waits for the last.
    flops: floating point operations of one call, or None where unknown.
    temporary_bytes: memory beside arguments and results, or None.
  """

  name: str
  utterances: int
  compile_seconds: float
  run: Callable[[int], None]
  flops: float | None = None
  temporary_bytes: int | None = None


def jaxser_programs(
  config: Any, system: System, corpus: Corpus, shape: Sequence[int], size: int
) -> list[Program]:
  """The engine's training step and prediction, compiled."""
  placement = mesh.Placement(config.parallel)
  optimizer = step.make_optimizer(config.optimizer)
  padded = placement.padded(size, config.accumulate)
  host = workload.made_up_batch(system, corpus, shape, size, padded)
  state = step.create_state(system, optimizer, jax.random.key(0), host)
  state = state.replace(
    model_state=system.prepare(
      state.model_state, corpus.table.vad, corpus.table.labels
    )
  )
  state, batch = placement.put_state(state), placement.put_batch(host)
  train = placement.compile_train(
    system,
    optimizer,
    steps_per_epoch=max(1, len(corpus.table) // size),
    accumulate=config.accumulate,
    phase=system.phase(config.epochs - 1),
  )
  answer = 'scores' if system.task == 'classification' else 'vad'
  predict = placement.compile_predict(system, answer)
  # Training donates its state, so prediction has its own.
  fixed = jax.tree.map(lambda x: x.copy(), (state.params, state.model_state))

  trained, train_facts = _compiled(train, state, batch)
  predicted, predict_facts = _compiled(predict, *fixed, batch)
  carried = state

  def run_training(calls):
    nonlocal carried
    for _ in range(calls):
      carried, metrics = trained(carried, batch)
    jax.block_until_ready((carried, metrics))

  def run_prediction(calls):
    for _ in range(calls):
      scores = predicted(*fixed, batch)
    jax.block_until_ready(scores)

  return [
    Program('jaxser training', size, run=run_training, **train_facts),
    Program('jaxser prediction', size, run=run_prediction, **predict_facts),
  ]


def _compiled(function: Any, *args: Any) -> tuple[Callable, dict[str, Any]]:
  """Compiles ahead of time: the program, and what the compiler says of it."""
  start = time.perf_counter()
  lowered = function.lower(*args)
  program = lowered.compile()
  seconds = time.perf_counter() - start
  # Of the program as written: after optimisation, products that XLA hands to a
  # library are no longer counted.
  cost, memory = lowered.cost_analysis(), program.memory_analysis()
  return program, {
    'compile_seconds': seconds,
    'flops': cost.get('flops') if cost else None,
    'temporary_bytes': memory.temp_size_in_bytes if memory else None,
  }


def keras_programs(
  system: System, shape: Sequence[int], size: int
) -> list[Program]:
  """The same network in Keras, trained and asked in batches of the same size.

  Keras gets ready-made coefficients; jaxser's own step computes them.

  Raises:
    BenchmarkError: if there is no Keras, or no such network in Keras.
  """
  # Only this comparison needs TensorFlow.
  from jaxser import benchmark_keras
  from jaxser.systems import timnet

  if not isinstance(system, timnet.TimNet):
    raise BenchmarkError(
      f'--compare=keras has TIM-Net only, not {type(system).__name__}; use '
      '--config=configs/timnet.py.'
    )
  try:
    model = benchmark_keras.build(system, shape[0])
  except (benchmark_keras.NoKerasError, ValueError) as error:
    raise BenchmarkError(str(error)) from error
  rng = np.random.default_rng(0)
  x = rng.standard_normal((size, shape[0], system.num_coefficients), np.float32)
  y = np.eye(system.num_classes, dtype=np.float32)[
    np.arange(size) % system.num_classes
  ]
  programs = []
  for name, call in (
    ('Keras training', lambda: model.train_on_batch(x, y)),
    ('Keras prediction', lambda: model.predict_on_batch(x)),
  ):

    def run(calls, call=call):
      for _ in range(calls):
        call()

    start = time.perf_counter()
    run(1)
    seconds = time.perf_counter() - start
    programs.append(Program(name, size, seconds, run))
  return programs


class Turn(NamedTuple):
  """One turn of a program: seconds per call, by the clock and of all cores."""

  clock: float
  processor: float


def measure(
  programs: Sequence[Program], rounds: int, seconds: float
) -> dict[str, list[Turn]]:
  """Times of every program, one per round.

  In every round each program runs once, for about `seconds`.
  """
  calls = {}
  for program in programs:
    program.run(1)
    start = time.perf_counter()
    program.run(1)
    once = time.perf_counter() - start
    calls[program.name] = max(1, math.ceil(seconds / once))
  times: dict[str, list[Turn]] = {program.name: [] for program in programs}
  for _ in range(rounds):
    for program in programs:
      count = calls[program.name]
      start = time.perf_counter(), time.process_time()
      program.run(count)
      end = time.perf_counter(), time.process_time()
      times[program.name].append(
        Turn((end[0] - start[0]) / count, (end[1] - start[1]) / count)
      )
  return times


def summary(
  programs: Sequence[Program], times: dict[str, list[Turn]]
) -> dict[str, Any]:
  """Speeds of every program, and ratios between those that took turns."""
  speeds = {}
  for program in programs:
    clock, processor = zip(*times[program.name], strict=True)
    middle = statistics.median(clock)
    speeds[program.name] = {
      'utterances_per_second': program.utterances / middle,
      'best_utterances_per_second': program.utterances / min(clock),
      'milliseconds_per_call': 1e3 * middle,
      'processor_milliseconds_per_call': 1e3 * statistics.median(processor),
      'compile_seconds': program.compile_seconds,
      'gflop_per_call': program.flops and program.flops / 1e9,
      'gflop_per_second': program.flops and program.flops / middle / 1e9,
      'temporary_mib': program.temporary_bytes
      and program.temporary_bytes / 2**20,
      'seconds_per_call': clock,
      'processor_seconds_per_call': processor,
    }
  ratios = {}
  for work in ('training', 'prediction'):
    if f'Keras {work}' in times:
      ours, theirs = times[f'jaxser {work}'], times[f'Keras {work}']
      pairs = list(zip(ours, theirs, strict=True))
      ratios[work] = {
        'median': statistics.median(b.clock / a.clock for a, b in pairs),
        'best': min(b.clock for b in theirs) / min(a.clock for a in ours),
        'processor': statistics.median(
          b.processor / a.processor for a, b in pairs
        ),
      }
  return {'programs': speeds, 'ratio_to_keras': ratios}


def environment() -> dict[str, Any]:
  """What the figures depend on."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'devices': jax.device_count(),
    'cpu_cores': os.cpu_count(),
    # Above the number of cores, others were working too.
    'load_average': os.getloadavg()[0],
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def format_table(report: dict[str, Any]) -> str:
  """The report for people."""
  about = report['environment']
  shape = ' x '.join(map(str, report['feature_shape']))
  lines = [
    f'{report["system"]}, {report["batch_size"]} utterances of {shape} per call,'
    f' float32, on {about["devices"]} {about["platform"]} device(s) '
    f'({about["device"]}, {about["cpu_cores"]} cores, load '
    f'{about["load_average"]:.1f})',
    '',
    f'{"":19}{"utterances/s":>13}{"best":>7}{"ms/call":>9}{"core-ms":>9}'
    f'{"GFLOP/s":>9}{"compile s":>11}{"temporary MiB":>15}',
  ]
  for name, row in report['programs'].items():
    lines.append(
      f'{name:19}{row["utterances_per_second"]:13.0f}'
      f'{row["best_utterances_per_second"]:7.0f}'
      f'{row["milliseconds_per_call"]:9.1f}'
      f'{row["processor_milliseconds_per_call"]:9.1f}'
      f'{_or_dash(row["gflop_per_second"]):>9}'
      f'{row["compile_seconds"]:11.1f}{_or_dash(row["temporary_mib"]):>15}'
    )
  for work, ratio in report['ratio_to_keras'].items():
    lines.append(
      f'{work}: {ratio["median"]:.2f} times as fast as Keras (median of the '
      f'rounds; best against best {ratio["best"]:.2f}, processor time '
      f'{ratio["processor"]:.2f})'
    )
  return '\n'.join(lines)


def _or_dash(value: float | None) -> str:
  return '-' if value is None else f'{value:.1f}'


def run(
  config: Any,
  *,
  batch_size: int = 0,
  classes: int = 7,
  rounds: int = 10,
  seconds: float = 1.0,
  compare: str = 'none',
) -> dict[str, Any]:
  """Measures the system of a config; see the flags for the arguments.

  Raises:
    ConfigError: for a config that no system takes.
    WorkloadError: for features of unknown shape; the comparison not possible.
  """
  config_lib.validate(config)
  shape = workload.feature_shape(config)
  # The demo corpus trains in smaller batches than what is published.
  usual = config.batch_size if config.system != 'timnet' else _TIMNET_BATCH
  size = batch_size or usual
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  # First, so that what cannot be compared is said at once.
  others = keras_programs(system, shape, size) if compare == 'keras' else []
  programs = jaxser_programs(config, system, corpus, shape, size) + others
  times = measure(programs, rounds, seconds)
  return {
    'system': config.system,
    'batch_size': size,
    'feature_shape': list(shape),
    'rounds': rounds,
    'environment': environment(),
    **summary(programs, times),
  }


def main(argv: Sequence[str]) -> int:
  """Prints the table; returns the exit code."""
  if len(argv) > 1:
    return _fail(f'unexpected arguments {list(argv[1:])}; see --help.')
  if _CONFIG.value is None:
    print(__doc__)
    return 0
  # JAX narrates which platforms it does not find at the level below.
  logging.set_verbosity(logging.WARNING)
  kept = _KEEP_HEAP.value and heap.keep_freed_memory()
  try:
    report = run(
      _CONFIG.value,
      batch_size=_BATCH.value,
      classes=_CLASSES.value,
      rounds=_ROUNDS.value,
      seconds=_SECONDS.value,
      compare=_COMPARE.value,
    )
  except (config_lib.ConfigError, workload.WorkloadError) as error:
    return _fail(str(error))
  report['keep_heap'] = bool(kept)
  print(format_table(report))
  if _JSON.value:
    files.write_json(_JSON.value, report)
  return 0


def parse_flags(argv: Sequence[str]) -> list[str]:
  """absl's parser; a wrong config, field or value ends with one message."""
  try:
    return command_line.parse(argv)
  except command_line.ConfigError as error:
    sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
  print(f'Error: {message}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
