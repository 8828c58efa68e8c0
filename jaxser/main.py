"""python -m jaxser.main --config=configs/timnet.py: train, evaluate, report.

Examples:
  python -m jaxser.main --config=configs/timnet.py
      TIM-Net on the built-in demo corpus, in about a minute.
  python -m jaxser.main --config=configs/timnet.py:corpus=emodb --workdir=W
      EmoDB, prepared before with `python -m data_prep`; leaves one speaker out.
  python -m jaxser.main --config=configs/timnet.py:corpus=emodb,protocol=published \\
      --config.epochs=50 --workdir=W2
      The paper's ten folds; any field of the config can be overridden.

The same command continues a run that was interrupted. Ctrl-C and SIGTERM save
first; the exit codes are then 130 and 143. Errors exit with 2.

Several processes run as one when each is told where process 0 listens, or
--distributed=auto lets the cluster tell them; launch/ has scripts for one
machine, GPU nodes, SLURM and TPUs. Their --workdir must be a folder that they
share. A signal to one stops and saves all; if one is lost, the others end within
a minute, with 75 or 134, and the same commands continue.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from jaxser.core import command_line, runtime
from jaxser.engine import distributed

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Recipe, such as configs/timnet.py:corpus=emodb. Override a field with '
  '--config.FIELD=VALUE.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for everything the run writes; default workdir/SYSTEM-CORPUS-PROTOCOL.',
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate'],
  'evaluate tests the weights of --config.init_from without training.',
)
_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'off',
  ['off', 'auto'],
  'auto: find the other processes through SLURM, the TPU pod or Open MPI.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT on which process 0 of several listens.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes run as one.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.'
)
_LOST_AFTER = flags.DEFINE_integer(
  'lost_after',
  30,
  'Seconds without a sign of life until a process counts as lost.',
  lower_bound=1,
)


def main(argv: Sequence[str]) -> int:
  """Joins the other processes, if any, and runs; returns the exit code."""
  if len(argv) > 1:
    return command_line.fail(
      f'unexpected arguments {list(argv[1:])}; see --help.'
    )
  if _CONFIG.value is None:
    print(__doc__)
    return 0
  return distributed.run(_run)


def _run() -> int:
  # Orbax narrates every checkpoint at the level below.
  logging.set_verbosity(logging.WARNING)
  runtime.keep_freed_memory()
  runtime.quiet_without_tpu()
  # Imported late, so that --help is quick.
  from jaxser import report, train
  from jaxser.core import errors
  from jaxser.engine import interruption

  runtime.enable_compilation_cache()
  config = _CONFIG.value
  config.lock()
  workdir = pathlib.Path(_WORKDIR.value or default_workdir(config))
  try:
    distributed.initialize(
      _DISTRIBUTED.value,
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      _LOST_AFTER.value,
    )
    results = train.run(config, workdir, _MODE.value)
  except interruption.Interrupted as stop:
    print(f'\n{stop}', file=sys.stderr)
    return stop.exit_code
  except errors.UserError as error:
    return command_line.fail(str(error))
  if distributed.is_main():
    print(report.format_table(results))
    print(closing_lines(config, workdir))
  return 0


def default_workdir(config) -> pathlib.Path:
  """workdir/timnet-emodb-speaker_independent, in the current folder."""
  corpus = '-'.join(filter(None, (config.corpus, config.test_corpus)))
  return pathlib.Path('workdir', f'{config.system}-{corpus}-{config.protocol}')


def closing_lines(config, workdir: pathlib.Path) -> str:
  """Where the results lie and, after the demo, how to go on with speech."""
  weights = ' --weights=DIR' if config.features.name == 'wavlm' else ''
  lines = [
    f'Results: {workdir}/results.json, predictions.jsonl and report.html',
    'What it says of a recording:',
    f'  python -m jaxser.predict --checkpoint={workdir}{weights} FILE.wav',
  ]
  if config.corpus == 'demo':
    recipe = f'configs/{config.system}.py'
    # One with the labels that the system learns.
    corpus = 'emotale' if config.system == 'emosphere' else 'emodb'
    lines += [
      'The same on a real corpus:',
      f'  python -m data_prep --corpus={corpus} --audio_dir=DIR '
      f'--features={config.features.name}',
      f'  python -m jaxser.main --config={recipe}:corpus={corpus}',
    ]
  return '\n'.join(lines)


if __name__ == '__main__':
  app.run(main, flags_parser=command_line.parse_or_exit)
