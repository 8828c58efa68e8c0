"""python -m jaxser.benchmark --config=configs/timnet.py: how fast a system is.

Times the training step and the prediction that the engine runs, on synthetic
features of the real shape, so no corpus is needed and no TensorFlow. What is
compared takes turns (A B A B ...); a turn beside work of other processes is
repeated, and left out if that does not help. Compiling is timed apart, and the
peaks of the machine are measured in the same run.

  --config=configs/timnet.py --compare=keras
      TIM-Net, 64 utterances of 188 frames (EmoDB): throughput, latency, shares of
      the peaks, memory; and the same network in Keras. --only=training or
      --only=prediction times one of the two alone.
  --config=configs/dsnet.py:size=paper --compare=torch
      DSNet, and the same network in PyTorch, eager and torch.compile.
  --config=configs/timnet.py --data_dir=DIR
      Also how long a step waits for the prepared corpus of the recipe.
  --config=configs/timnet.py --scale=devices
      Weak scaling over 1, 2, 4, 8 devices (virtual ones of a CPU, if need be).
      --scale=folds: over runs in one program; with --compare=keras, both are
      extrapolated to all folds and epochs of the recipe.
  --config=configs/dsnet.py:size=paper --topology=v5e:2x2,v5e:4x4
      Compiles the training step for TPU slices, without a TPU: memory, FLOPs,
      collectives. --trainings=10 compiles the program of all folds instead.
  --checkpoint=W
      Prediction with the run in folder W: files per second, latency of the
      first file and of the next ones, features on the host and on the device.

Any recipe and any override (--config.FIELD=VALUE) of jaxser.main; --json=FILE
keeps everything that was measured, --into=README.md#NAME writes the table into a
page (a topology's has --markdown=PAGE).
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxser.benchmark import measurements, peers, programs, tables
from jaxser.benchmark.timing import BenchmarkError, Settings
from jaxser.benchmark.workload import Workload
from jaxser.core import command_line, errors, files, runtime

config_flags.DEFINE_config_file('config', None, 'Recipe; see jaxser.main.')
flags.DEFINE_integer(
  'batch_size',
  0,
  'Utterances per step (per chip with --topology, per device or run with '
  '--scale); 0 is 64 for TIM-Net on the demo corpus, else what the recipe says. '
  'Micro-batches stay as large as the recipe has them.',
  lower_bound=0,
)
flags.DEFINE_integer('classes', 7, 'Classes.', lower_bound=2)
flags.DEFINE_integer('rounds', 10, 'Turns of each.', lower_bound=1)
flags.DEFINE_float('seconds', 1.0, 'Length of a turn.', lower_bound=0.0)
flags.DEFINE_enum('only', None, measurements.WORKS, 'Times only this.')
flags.DEFINE_list(
  'dtypes',
  [],
  'Types of the matmuls: float32, bfloat16 or both. Default: both where the '
  'system has both; on CPUs, which emulate bfloat16, that of the recipe.',
)
flags.DEFINE_enum(
  'compare', 'none', peers.COMPARISONS, 'Times another implementation, too.'
)
flags.DEFINE_string('data_dir', '', 'Prepared corpora: times waiting for data.')
flags.DEFINE_enum('scale', None, ['devices', 'folds'], 'Measures scaling.')
flags.DEFINE_list('counts', [], 'Of devices (1,2,4,8) or folds (1,2,5,10).')
flags.DEFINE_list('topology', [], 'TPU slices, such as v5e:2x2,v5e:4x4.')
flags.DEFINE_integer(
  'trainings', 0, 'Runs per chip of a topology; 0: one step.', lower_bound=0
)
flags.DEFINE_float(
  'effort', -1.0, "The compiler's for a topology: -1 (quick) to 1; runs have 0."
)
flags.DEFINE_string('markdown', '', 'Page that gets a section of a topology.')
flags.DEFINE_string('checkpoint', '', 'Work folder: times prediction of files.')
flags.DEFINE_integer('files', 256, 'Files at a time.', lower_bound=1)
flags.DEFINE_boolean('ceilings', True, 'Measure the peaks of the machine.')
flags.DEFINE_boolean('latency', True, 'Time single utterances.')
flags.DEFINE_boolean('keep_heap', True, 'Reuse freed memory on Linux CPUs.')
flags.DEFINE_string(
  'into', '', 'PAGE#NAME: table between <!-- NAME --> and <!-- /NAME --> there.'
)
flags.DEFINE_string('json', '', 'File for everything measured.')

_TIMED = {'batch_size', 'ceilings', 'classes', 'config', 'into', 'rounds'}
_TIMED |= {'seconds'}
_COMPILED = {'batch_size', 'classes', 'config', 'effort', 'markdown'}
_FLAGS = {
  'speed': _TIMED | {'compare', 'data_dir', 'dtypes', 'latency', 'only'},
  '--scale=devices': _TIMED | {'counts', 'scale'},
  '--scale=folds': _TIMED | {'compare', 'counts', 'scale'},
  '--topology': _COMPILED | {'topology', 'trainings'},
  '--checkpoint': {'checkpoint', 'files', 'into'},
}
"""By measurement, its flags besides --json and --keep_heap."""

Measured = tuple[dict[str, Any], list[tables.Table]]


def main(argv: Sequence[str]) -> int:
  """Prints the table; returns the exit code."""
  options, words = flags.FLAGS, sys.argv[1:]
  if len(argv) > 1:
    return command_line.fail(
      f'unexpected arguments {list(argv[1:])}; see --help.'
    )
  if options.config is None and not options.checkpoint:
    print(__doc__)
    return 0
  # JAX logs which platforms it does not find at the level below.
  logging.set_verbosity(logging.WARNING)
  try:
    measure = _MEASURE[choose_measurement(_given(options))]
    kept = options.keep_heap and runtime.keep_freed_memory()
    if options.into:
      tables.check_page(options.into)
    report, made = measure(options)
    report['keep_heap'] = bool(kept)
    report['command'] = shlex.join(['python', '-m', 'jaxser.benchmark', *words])
    print('\n\n'.join(table.text() for table in made))
    if options.json:
      files.write_json(options.json, report)
    if options.into:
      tables.write_into(options.into, made[0], words)
    if options.markdown:
      tables.write_section(options.markdown, made, words)
  except errors.UserError as error:
    return command_line.fail(str(error))
  return 0


def _given(options: flags.FlagValues) -> dict[str, str]:
  """The flags of this command that were typed; an empty one was not."""
  return {
    # The value of a config is all its fields.
    flag.name: '--config' if flag.name == 'config' else flag.serialize()
    for flag in options.get_flags_for_module(sys.argv[0])
    if flag.present and flag.value not in ('', [])
  }


def choose_measurement(given: Mapping[str, str]) -> str:
  """Returns the measurement that the flags ask for, a key of `_FLAGS`.

  Args:
    given: flags by name, as they were typed: {'scale': '--scale=folds'}.

  Raises:
    BenchmarkError: if one of them would have no effect on it.
  """
  mode = given.get('scale', 'speed')
  for name in ('topology', 'checkpoint'):
    mode = f'--{name}' if name in given else mode
  for name in sorted(given.keys() - _FLAGS[mode] - {'json', 'keep_heap'}):
    if mode != 'speed':
      raise BenchmarkError(
        f'{given[name]} has no effect with {mode}; leave out one of the two.'
      )
    needed = ' or '.join(place for place, has in _FLAGS.items() if name in has)
    raise BenchmarkError(
      f'{given[name]} has no effect without {needed}; leave it out, or add '
      f'{needed}.'
    )
  return mode


def _workload(options: flags.FlagValues) -> Workload:
  size = options.batch_size
  # A batch that was typed as an override is the one that is timed.
  if 'batch_size' in config_flags.get_override_values(options['config']):
    size = size or options.config.batch_size
  return Workload.create(options.config, size, options.classes)


def _settings(options: flags.FlagValues) -> Settings:
  return Settings(options.rounds, options.seconds, options.ceilings)


def _counts(options: flags.FlagValues, default: list[int]) -> list[int]:
  if not all(value.isdigit() and int(value) for value in options.counts):
    raise BenchmarkError(
      f'--counts={",".join(options.counts)} must be positive numbers, as in '
      '--counts=1,2,4.'
    )
  return [int(value) for value in options.counts] or default


def _speed(options: flags.FlagValues) -> Measured:
  if options.compare == 'torch':
    # Two libraries share a GPU; neither may take all of it at its start.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if not set(options.dtypes) <= {*programs.DTYPES}:
    raise BenchmarkError(
      f'--dtypes={",".join(options.dtypes)}: choose from '
      f'{", ".join(programs.DTYPES)}.'
    )
  report = measurements.speed(
    _workload(options),
    _settings(options),
    compare=options.compare,
    dtypes=options.dtypes,
    works=[options.only] if options.only else measurements.WORKS,
    with_latency=options.latency,
  )
  if options.data_dir:
    report['waiting'] = programs.waiting(options.config, options.data_dir)
  return report, [tables.speed(report)]


def _devices(options: flags.FlagValues) -> Measured:
  counts = _counts(options, [1, 2, 4, 8])
  # A CPU alone is cut into so many devices, unless the user has done so.
  done = 'xla_force_host_platform_device_count'
  if done not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', max(counts))
  report = measurements.devices(_workload(options), counts, _settings(options))
  return report, [tables.scaling(report)]


def _folds(options: flags.FlagValues) -> Measured:
  counts = _counts(options, [1, 2, 5, 10])
  report = measurements.folds(
    _workload(options), counts, _settings(options), compare=options.compare
  )
  return report, [tables.scaling(report)]


def _topology(options: flags.FlagValues) -> Measured:
  from jaxser.benchmark import topology

  # Shapes alone are traced here; a TPU or GPU would only be in the way.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_exec_time_optimization_effort', options.effort)
  report = topology.run(_workload(options), options.topology, options.trainings)
  report['effort'] = options.effort
  return report, tables.topology(report)


def _checkpoint(options: flags.FlagValues) -> Measured:
  from jaxser.benchmark import machine
  from jaxser.models import audio_features, ensemble, saved, timing

  description = saved.open(options.checkpoint)
  models = ensemble.load(description, ensemble.choose(description))
  report = {'environment': machine.environment(), 'notes': []}
  for place in ('host', 'device'):
    try:
      report[place] = timing.measure(
        description, models, features_on=place, files=options.files
      )
    except audio_features.InputError as error:
      report['notes'].append(f'Not measured on the {place}: {error}')
  if len(report['notes']) == 2:
    raise BenchmarkError(' '.join(report['notes']))
  return report, [tables.prediction(report)]


_MEASURE = {
  'speed': _speed,
  '--scale=devices': _devices,
  '--scale=folds': _folds,
  '--topology': _topology,
  '--checkpoint': _checkpoint,
}


if __name__ == '__main__':
  app.run(main, flags_parser=command_line.parse_or_exit)
