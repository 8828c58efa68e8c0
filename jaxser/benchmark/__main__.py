"""python -m jaxser.benchmark --config=configs/timnet.py: how fast a system is.

Times the very training step and prediction that the engine runs, on made-up
features of the real shape, so no corpus is needed and no TensorFlow. Compiling
is timed apart. What is compared takes turns (A B A B ...), because other work
on the machine comes and goes; each turn's speed is kept, and the processor time
beside the time on the clock. Beside it stand the ceilings of the machine,
measured in the same run.

Examples:
  python -m jaxser.benchmark --config=configs/timnet.py
      TIM-Net, 64 utterances of 188 frames (EmoDB): throughput, latency, shares
      of the ceilings, memory.
  python -m jaxser.benchmark --config=configs/timnet.py --compare=keras
      The same network in Keras takes turns with it; the ratio is reported.
  python -m jaxser.benchmark --config=configs/dsnet.py:size=paper --compare=torch
      The same network in PyTorch, eager and torch.compile.
  python -m jaxser.benchmark --compare=torch --batch_size=16 \\
      --config=configs/emosphere.py:encoder=wavlm,weights=random,size=large
      Fine-tuning WavLM-large: one batch of 16 x 12 s, the recipe's micro-batch.
  python -m jaxser.benchmark --config=configs/timnet.py --data_dir=DIR
      Also how long a step waits for the prepared corpus of the recipe.
  python -m jaxser.benchmark --config=configs/timnet.py --scale=devices
      Weak scaling over 1, 2, 4, 8 devices (virtual ones of a CPU, if need be);
      --scale=folds: over trainings in one program; with --compare=keras an
      epoch of one fold in Keras takes turns with them, and both are extrapolated
      to all folds and epochs of the recipe.
  python -m jaxser.benchmark --config=configs/dsnet.py:size=paper \\
      --topology=v5e:2x2,v5e:4x4
      Compiles the training step for TPU slices, without a TPU: memory, FLOPs,
      collectives. --trainings=10 compiles the program of all folds instead.

  python -m jaxser.benchmark --checkpoint=W
      Prediction with the run in folder W: files per second, latency of the
      first file and of the next ones, features on the host and on the device.

Any recipe and any override (--config.FIELD=VALUE) of jaxser.main; --json=FILE
keeps everything that was measured, --into=README.md#NAME writes a short table
into a page (a topology's has --markdown=PAGE).
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxser.benchmark import comparison, into, modes, programs, tables, timing
from jaxser.core import command_line, files, runtime
from jaxser.core import config as config_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Recipe, such as configs/timnet.py; see jaxser.main.'
)
_BATCH = flags.DEFINE_integer(
  'batch_size',
  0,
  'Utterances per step (per chip with --topology, per device or training with '
  '--scale); 0 is 64 for TIM-Net on the demo corpus, else what the recipe says. '
  'Micro-batches stay as large as the recipe has them.',
  lower_bound=0,
)
_CLASSES = flags.DEFINE_integer('classes', 7, 'Classes.', lower_bound=2)
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Turns of each.', lower_bound=1)
_SECONDS = flags.DEFINE_float(
  'seconds', 1.0, 'A turn repeats its program for so long.', lower_bound=0.0
)
_DTYPES = flags.DEFINE_list(
  'dtypes',
  [],
  'Types of the products: float32, bfloat16 or both. Default: both where the '
  'system has both; on CPUs, which emulate bfloat16, that of the recipe.',
)
_COMPARE = flags.DEFINE_enum(
  'compare',
  'none',
  comparison.COMPARISONS,
  'Another implementation to time too: keras (TIM-Net), torch (DSNet, WavLM); '
  'with --scale=folds keras.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', '', 'Prepared corpora: measures the time waiting for data.'
)
_SCALE = flags.DEFINE_enum(
  'scale', None, ['devices', 'folds'], 'Measures scaling instead.'
)
_COUNTS = flags.DEFINE_list(
  'counts', [], 'Numbers of devices or folds; default 1,2,4,8 or 1,2,5,10.'
)
_TOPOLOGY = flags.DEFINE_list(
  'topology', [], 'Compiles for TPU slices instead, such as v5e:2x2,v5e:4x4.'
)
_TRAININGS = flags.DEFINE_integer(
  'trainings',
  0,
  'With --topology: trainings per chip in the program of all folds; 0 compiles '
  'the training step.',
  lower_bound=0,
)
_EFFORT = flags.DEFINE_float(
  'effort',
  -1.0,
  "With --topology: the compiler's, -1 is quick, 0 is what a run uses.",
  lower_bound=-1.0,
  upper_bound=1.0,
)
_MARKDOWN = flags.DEFINE_string(
  'markdown', '', 'With --topology: page whose section of this recipe is made.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', '', 'Work folder of a run: times prediction from wav files.'
)
_FILES = flags.DEFINE_integer(
  'files', 256, 'With --checkpoint: files at a time.', lower_bound=1
)
_CEILINGS = flags.DEFINE_boolean(
  'ceilings', True, 'Measure what the machine can do at best.'
)
_LATENCY = flags.DEFINE_boolean('latency', True, 'Time single utterances.')
_KEEP_HEAP = flags.DEFINE_boolean(
  'keep_heap',
  True,
  'Reuse freed memory on Linux CPUs, see jaxser.core.runtime.',
)
_INTO = flags.DEFINE_string(
  'into',
  '',
  'PAGE#NAME: also writes a short table with this command into a Markdown page, '
  'between its marks <!-- NAME --> and <!-- /NAME -->.',
)
_JSON = flags.DEFINE_string('json', '', 'File for everything measured.')


def main(argv: Sequence[str]) -> int:
  """Prints the table; returns the exit code."""
  if len(argv) > 1:
    return command_line.fail(
      f'unexpected arguments {list(argv[1:])}; see --help.'
    )
  if _CONFIG.value is None and not _CHECKPOINT.value:
    print(__doc__)
    return 0
  # JAX narrates which platforms it does not find at the level below.
  logging.set_verbosity(logging.WARNING)
  try:
    mode = modes.choose(_given())
    kept = _KEEP_HEAP.value and runtime.keep_freed_memory()
    if _INTO.value:
      into.check(_INTO.value)
    if mode == modes.CHECKPOINT:
      report, text = _prediction(_CHECKPOINT.value)
    elif mode == modes.TOPOLOGY:
      report, text = _topology(_CONFIG.value)
    elif mode == modes.SPEED:
      report, text = _speed(_CONFIG.value)
    else:
      report, text = _scale(_CONFIG.value)
    report['keep_heap'] = bool(kept)
    report['command'] = _command()
    print(text)
    if _JSON.value:
      files.write_json(_JSON.value, report)
    if _INTO.value:
      into.write(_INTO.value, mode, report, sys.argv[1:])
  except (config_lib.ConfigError, timing.BenchmarkError) as error:
    return command_line.fail(str(error))
  return 0


def _given() -> dict[str, str]:
  """The flags that were typed, by name; an empty one counts as left out."""
  found = {name: flags.FLAGS[name] for name in modes.every_flag()}
  return {
    # The value of a config is all its fields.
    name: '--config' if name == 'config' else flag.serialize()
    for name, flag in found.items()
    if flag.present and flag.value not in ('', [])
  }


def _batch_size() -> int:
  """Of --batch_size, else of an override of the recipe's; 0 is the usual one."""
  holder = flags.FLAGS['config']
  if 'batch_size' in config_flags.get_override_values(holder):
    return _BATCH.value or _CONFIG.value.batch_size
  return _BATCH.value


def _speed(config: Any) -> tuple[dict[str, Any], str]:
  from jaxser.benchmark import speed

  if _COMPARE.value == 'torch':
    # Two libraries share a GPU; neither may take all of it at its start.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  unknown = [d for d in _DTYPES.value if d not in programs.DTYPES]
  if unknown:
    raise timing.BenchmarkError(
      f'--dtypes={",".join(unknown)}: choose from {", ".join(programs.DTYPES)}.'
    )
  report = speed.run(
    config,
    batch_size=_batch_size(),
    classes=_CLASSES.value,
    rounds=_ROUNDS.value,
    seconds=_SECONDS.value,
    compare=_COMPARE.value,
    dtypes=_DTYPES.value,
    with_ceilings=_CEILINGS.value,
    with_latency=_LATENCY.value,
  )
  if _DATA_DIR.value:
    from jaxser.benchmark import waiting

    with _explained():
      report['waiting'] = waiting.run(config, _DATA_DIR.value)
  return report, tables.speed(report)


def _prediction(workdir: str) -> tuple[dict[str, Any], str]:
  from jaxser.benchmark import speed
  from jaxser.models import audio_features as hearing
  from jaxser.models import ensemble as members
  from jaxser.models import saved as models
  from jaxser.models import timing as predict_timing

  with _explained():
    description = models.open(workdir)
    chosen = members.load(description, members.choose(description))
  report, lines = {'environment': speed.environment(), 'notes': []}, []
  for place in ('host', 'device'):
    try:
      report[place] = predict_timing.measure(
        description, chosen, features_on=place, files=_FILES.value
      )
      lines += predict_timing.lines(report[place])
    except hearing.InputError as error:
      report['notes'].append(f'Not measured on the {place}: {error}')
  if not lines:
    raise timing.BenchmarkError(' '.join(report['notes']))
  lines += report['notes']
  return report, '\n'.join([tables.machine(report['environment']), *lines])


@contextlib.contextmanager
def _explained() -> Iterator[None]:
  """Errors of what is read from files end the program with their message."""
  # Knows of corpora and features, which no other measurement needs.
  from jaxser.core import errors

  try:
    yield
  except errors.UserError as error:
    raise timing.BenchmarkError(str(error)) from error


def _scale(config: Any) -> tuple[dict[str, Any], str]:
  from jaxser.benchmark import scaling

  counts = _integers('counts', _COUNTS.value)
  settings = {
    'batch_size': _batch_size(),
    'classes': _CLASSES.value,
    'rounds': _ROUNDS.value,
    'seconds': _SECONDS.value,
    'with_ceilings': _CEILINGS.value,
  }
  if _SCALE.value == 'devices':
    counts = counts or [1, 2, 4, 8]
    _virtual_devices(max(counts))
    report = scaling.devices(config, counts, **settings)
  else:
    report = scaling.folds(
      config,
      counts or [1, 2, 5, 10],
      compare=_COMPARE.value,
      **settings,
    )
  return report, tables.scaling(report)


def _virtual_devices(count: int) -> None:
  """Where there is only a CPU it is cut into so many devices.

  Works only before JAX has looked for devices, and not against XLA_FLAGS.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', count)


def _topology(config: Any) -> tuple[dict[str, Any], str]:
  from jaxser.benchmark import pages, topology

  # Shapes alone are traced here; a TPU or GPU would only be in the way.
  jax.config.update('jax_platforms', 'cpu')
  report = topology.run(
    config,
    _TOPOLOGY.value,
    per_device=_batch_size(),
    classes=_CLASSES.value,
    trainings=_TRAININGS.value,
    effort=_EFFORT.value,
  )
  if _MARKDOWN.value:
    pages.update(_MARKDOWN.value, report, into.typed(sys.argv[1:]))
  return report, tables.topology(report)


def _command() -> str:
  """What to type for this run."""
  return shlex.join(['python', '-m', 'jaxser.benchmark', *sys.argv[1:]])


def _integers(flag: str, values: Sequence[str]) -> list[int]:
  if not all(value.isdigit() and int(value) for value in values):
    raise timing.BenchmarkError(
      f'--{flag}={",".join(values)} must be positive numbers, as in '
      f'--{flag}=1,2,4.'
    )
  return [int(value) for value in values]


if __name__ == '__main__':
  app.run(main, flags_parser=command_line.parse_or_exit)
