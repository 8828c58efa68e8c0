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

import functools
import os
import shlex
import sys
from typing import Any

from absl import flags, logging

from jaxser.core import command_line, files, runtime

# What imports JAX is imported late, so that --help is quick.

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_list = functools.partial(flags.DEFINE_list, flag_values=FLAGS)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_number = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_float = functools.partial(flags.DEFINE_float, flag_values=FLAGS)
_boolean = functools.partial(flags.DEFINE_boolean, flag_values=FLAGS)
command_line.define_config(FLAGS)
_number(
  'batch_size',
  0,
  'Utterances per step (per chip with --topology, per device or run with '
  '--scale); 0 is 64 for TIM-Net on the demo corpus, else what the recipe says. '
  'Micro-batches stay as large as the recipe has them.',
  lower_bound=0,
)
_number('classes', 7, 'Classes.', lower_bound=2)
_number('rounds', 10, 'Turns of each.', lower_bound=1)
_float('seconds', 1.0, 'Length of a turn.', lower_bound=0.0)
_enum('only', None, ['training', 'prediction'], 'Times only this.')
_list(
  'dtypes',
  [],
  'Types of the matmuls: float32, bfloat16 or both. Default: both where the '
  'system has both; on CPUs, which emulate bfloat16, that of the recipe.',
)
_others = ['none', 'keras', 'torch']
_enum('compare', 'none', _others, 'Times another implementation, too.')
_string('data_dir', '', 'Prepared corpora: times waiting for data.')
_enum('scale', None, ['devices', 'folds'], 'Measures scaling.')
_list('counts', [], 'Of devices (1,2,4,8) or folds (1,2,5,10).')
_list('topology', [], 'Compiles for TPU slices, such as v5e:2x2,v5e:4x4.')
_number('trainings', 0, 'Runs per chip of a topology; 0: one step.')
_float('effort', -1.0, "The compiler's for a topology: -1 (quick) to 1.")
_string('markdown', '', 'Page that gets a section of a topology.')
_string('checkpoint', '', 'Work folder of a run: times prediction of files.')
_number('files', 256, 'Files at a time.', lower_bound=1)
_boolean('ceilings', True, 'Measure the peaks of the machine.')
_boolean('latency', True, 'Time single utterances.')
_boolean('keep_heap', True, 'Reuse freed memory on Linux CPUs.')
_string(
  'into', '', 'PAGE#NAME: table between <!-- NAME --> and <!-- /NAME -->.'
)
_string('json', '', 'File for everything measured.')

_COMPILED = {'batch_size', 'classes', 'config'}
_TIMED = _COMPILED | {'ceilings', 'into', 'rounds', 'seconds'}
_OPTIONS = {
  'speed': _TIMED | {'compare', 'data_dir', 'dtypes', 'latency', 'only'},
  '--scale=devices': _TIMED | {'counts', 'scale'},
  '--scale=folds': _TIMED | {'compare', 'counts', 'scale'},
  '--topology': _COMPILED | {'effort', 'markdown', 'topology', 'trainings'},
  '--checkpoint': {'checkpoint', 'files', 'into'},
}
"""By measurement, its flags besides --json and --keep_heap."""


def main(arguments: list[str]) -> None:
  """Measures, prints the table and writes what was asked for."""
  del arguments
  if FLAGS.config is None and not FLAGS.checkpoint:
    raise command_line.UsageError(
      'give a recipe, as in --config=timnet, or --checkpoint=W. See --help.'
    )
  import jax

  from jaxser.benchmark import tables, topology

  # JAX logs which platforms it does not find at the level below.
  logging.set_verbosity(logging.WARNING)
  mode = _choose_measurement()
  kept = FLAGS.keep_heap and runtime.keep_freed_memory()
  if FLAGS.into:
    tables.check_page(FLAGS.into)
  if mode == '--topology':
    # Shapes alone are traced here; a TPU or GPU would only be in the way.
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_exec_time_optimization_effort', FLAGS.effort)
    report, made = topology.run(_experiment(), FLAGS.topology, FLAGS.trainings)
  else:
    report = _MEASURE[mode]()
    made = [tables.table(report)]
  words = sys.argv[1:]
  report['keep_heap'] = kept
  report['command'] = shlex.join(['python', '-m', 'jaxser.benchmark', *words])
  print('\n\n'.join(table.plain() for table in made))
  if FLAGS.json:
    files.write_json(FLAGS.json, report)
  if FLAGS.into:
    tables.write_into(FLAGS.into, made[0], words)
  if FLAGS.markdown:
    tables.write_section(FLAGS.markdown, made, words)


def _choose_measurement() -> str:
  """The measurement that the flags ask for; each must have an effect on it."""
  given = {
    flag.name: flag.serialize()
    for flag in map(FLAGS.__getitem__, FLAGS)
    if flag.present and flag.value not in ('', []) and '.' not in flag.name
  }
  if FLAGS.config:
    given['config'] = '--config'  # Its value is all its fields.
  mode = given.get('scale', 'speed')
  for name in ('topology', 'checkpoint'):
    mode = f'--{name}' if name in given else mode
  for name in sorted(given.keys() - _OPTIONS[mode] - {'json', 'keep_heap'}):
    needed = ' or '.join(m for m, names in _OPTIONS.items() if name in names)
    cause = f'without {needed}' if mode == 'speed' else f'with {mode}'
    raise command_line.UsageError(
      f'{given[name]} has no effect {cause}; leave it out.'
    )
  return mode


def _experiment() -> Any:
  from jaxser.benchmark import programs

  size, override = FLAGS.batch_size, 'config.batch_size'
  # A batch that was typed as an override is the one that is timed.
  if override in FLAGS and FLAGS[override].present:
    size = size or FLAGS.config.batch_size
  return programs.create(FLAGS.config, size, FLAGS.classes)


def _settings() -> Any:
  from jaxser.benchmark.timing import Settings

  return Settings(FLAGS.rounds, FLAGS.seconds, FLAGS.ceilings)


def _counts(default: list[int]) -> list[int]:
  if not all(value.isdigit() and int(value) for value in FLAGS.counts):
    raise command_line.UsageError(
      f'--counts={",".join(FLAGS.counts)} must be positive numbers, as in '
      '--counts=1,2,4.'
    )
  return [int(value) for value in FLAGS.counts] or default


def _speed() -> dict[str, Any]:
  from jaxser.benchmark import measurements, programs

  if FLAGS.compare == 'torch':
    # Two libraries share a GPU; neither may take all of it at its start.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  report = measurements.speed(
    _experiment(),
    _settings(),
    compare=FLAGS.compare,
    dtypes=FLAGS.dtypes,
    works=[FLAGS.only] if FLAGS.only else programs.WORKS,
    with_latency=FLAGS.latency,
  )
  if FLAGS.data_dir:
    report['notes'].append(programs.waiting(FLAGS.config, FLAGS.data_dir))
  return report


def _devices() -> dict[str, Any]:
  import jax

  from jaxser.benchmark import measurements

  counts = _counts([1, 2, 4, 8])
  # A CPU alone is cut into so many devices, unless the user has done so.
  done = 'xla_force_host_platform_device_count'
  if done not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', max(counts))
  return measurements.devices(_experiment(), counts, _settings())


def _folds() -> dict[str, Any]:
  from jaxser.benchmark import measurements

  counts = _counts([1, 2, 5, 10])
  return measurements.folds(_experiment(), counts, _settings(), FLAGS.compare)


def _checkpoint() -> dict[str, Any]:
  from jaxser.benchmark import machine
  from jaxser.models import audio_features, latency, predictor

  rows, notes = [], []
  for place in ('host', 'device'):
    try:
      model = predictor.load(FLAGS.checkpoint, features_on=place)
      found = latency.measure(model, files=FLAGS.files)
    except audio_features.InputError as error:
      notes.append(f'Not measured on the {place}: {error}')
      continue
    rows.append(
      {
        'features on the': place,
        'first file, ms': 1e3 * found['first_latency_s'],
        'next files, ms': 1e3 * found['warm_latency_s'],
        'files/s': found['files_per_s'],
        'times real time': found['times_real_time'],
        'found': found,
      }
    )
  if not rows:
    raise command_line.UsageError(' '.join(notes))
  return {
    'about': f'{found["system"]}, {found["members"]} models, from wav files of '
    f'{found["seconds"]:g} s, {FLAGS.files} at a time; the first with compiling',
    'environment': machine.environment(),
    'notes': notes,
    'rows': rows,
  }


_MEASURE = {
  'speed': _speed,
  '--scale=devices': _devices,
  '--scale=folds': _folds,
  '--checkpoint': _checkpoint,
}


if __name__ == '__main__':
  sys.exit(command_line.run(main, FLAGS))
