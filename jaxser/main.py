"""python -m jaxser.main --config=timnet: train, evaluate, report.

Examples:
  python -m jaxser.main --config=timnet
      TIM-Net on the built-in demo corpus, in about a minute.
  python -m jaxser.main --config=timnet:corpus=emodb --workdir=W
      EmoDB, prepared before with `python -m data_prep`; leaves one speaker out.
  python -m jaxser.main --config=timnet:corpus=emodb,protocol=published \\
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

import functools
import pathlib
import sys

from absl import flags

from jaxser.core import command_line, runtime

FLAGS = flags.FlagValues()
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_text = functools.partial(flags.DEFINE_string, flag_values=FLAGS)

command_line.define_config(FLAGS)
command_line.define_path(
  'workdir',
  None,
  'Folder for everything the run writes; default workdir/SYSTEM-CORPUS-PROTOCOL.',
  FLAGS,
)
_enum(
  'mode',
  'train',
  ['train', 'evaluate'],
  'evaluate tests the weights of --config.init_from without training.',
)
_enum(
  'distributed',
  'off',
  ['off', 'auto'],
  'auto finds the other processes by SLURM, TPU pod or Open MPI.',
)
_text('coordinator', None, 'HOST:PORT on which process 0 of several listens.')
_integer('num_processes', None, 'How many processes run as one.')
_integer('process_id', None, 'Number of this process, from 0.')
_integer('lost_after', 30, 'Seconds after which a silent process is lost.', 1)


def main(arguments: list[str]) -> int:
  """Joins the other processes, if any, and runs; returns the exit code."""
  if FLAGS.config is None:
    raise command_line.UsageError('give a recipe, as in --config=timnet.')
  runtime.prepare()
  # Imported late, so that --help is quick.
  from jaxser.engine import distributed

  return distributed.run(lambda: command_line.exit_code(_run))


def _run() -> int:
  from jaxser import report
  from jaxser.engine import distributed, interruption, train

  config = FLAGS.config
  # workdir/timnet-emodb-speaker_independent, in the current folder.
  corpus = '-'.join(filter(None, (config.corpus, config.test_corpus)))
  name = f'{config.system}-{corpus}-{config.protocol}'
  workdir = FLAGS.workdir or pathlib.Path('workdir', name)
  names = 'coordinator', 'num_processes', 'process_id', 'lost_after'
  others = {name: FLAGS[name].value for name in names}
  distributed.initialize(FLAGS.distributed, **others)
  try:
    results = train.run(config, workdir, FLAGS.mode)
  except interruption.Interrupted as stop:
    print(f'\n{stop}', file=sys.stderr)
    return stop.exit_code
  if distributed.is_main():
    # Without a test split there is nothing to tabulate.
    if results:
      print(report.format_table(results))
    print(report.next_steps(config, workdir))
  return 0


if __name__ == '__main__':
  sys.exit(command_line.run(main, FLAGS))
