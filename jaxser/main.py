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

from absl import flags, logging

from jaxser.core import command_line

FLAGS = flags.FlagValues()
command_line.define_config(FLAGS)
command_line.define_path(
  'workdir',
  None,
  'Folder for everything the run writes; default workdir/SYSTEM-CORPUS-PROTOCOL.',
  FLAGS,
)
flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate'],
  'evaluate tests the weights of --config.init_from without training.',
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  'distributed',
  'off',
  ['off', 'auto'],
  'auto: find the other processes through SLURM, the TPU pod or Open MPI.',
  flag_values=FLAGS,
)
flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT on which process 0 of several listens.',
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  'num_processes', None, 'How many processes run as one.', flag_values=FLAGS
)
flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.', flag_values=FLAGS
)
flags.DEFINE_integer(
  'lost_after',
  30,
  'Seconds without a sign of life until a process counts as lost.',
  lower_bound=1,
  flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
  """Joins the other processes, if any, and runs; returns the exit code."""
  del arguments
  if FLAGS.config is None:
    raise command_line.UsageError(
      'give a recipe, as in --config=timnet. See --help.'
    )
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # Orbax logs every checkpoint at the level below.
  logging.set_verbosity(logging.WARNING)
  # Imported late, so that --help is quick.
  from jaxser.engine import distributed

  return distributed.run(lambda: command_line.exit_code(_run))


def _run() -> int:
  from jaxser import report, train
  from jaxser.core import runtime
  from jaxser.engine import distributed, interruption

  runtime.keep_freed_memory()
  runtime.quiet_without_tpu()
  runtime.enable_compilation_cache()
  config = FLAGS.config
  workdir = FLAGS.workdir or default_workdir(config)
  distributed.initialize(
    FLAGS.distributed,
    FLAGS.coordinator,
    FLAGS.num_processes,
    FLAGS.process_id,
    FLAGS.lost_after,
  )
  try:
    results = train.run(config, workdir, FLAGS.mode)
  except interruption.Interrupted as stop:
    print(f'\n{stop}', file=sys.stderr)
    return stop.exit_code
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
  sys.exit(command_line.run(main, FLAGS))
