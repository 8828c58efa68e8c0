"""python -m jaxser.tables configs/tables/X.py --workdir=W: a paper's table.

Runs every cell whose corpus is prepared, each as a run of jaxser in its own
folder below W, and writes W/table.md, table.html and table.json. The same
command continues where it stopped; finished cells are read, not run again.

Examples:
  python -m jaxser.tables configs/tables/timnet_single_corpus.py --list
      What would run, and what is missing with the command that prepares it.
  python -m jaxser.tables configs/tables/timnet_single_corpus.py --workdir=W
      The whole table, for the corpora that are there.
  python -m jaxser.tables configs/tables/timnet_ablation.py --workdir=W --demo \\
      --set=epochs=5
      The ablations on the demo corpus, to see that everything works.

Exit codes: 0 done (cells whose corpus is not prepared are no error); 1 a cell
failed, the others were run; 2 a mistake that the message explains; 130 and 143
stopped by Ctrl-C and SIGTERM with the position saved.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the table; returns the exit code."""
  given = sys.argv[1:] if arguments is None else arguments
  if not given:
    print(__doc__)
    return 0
  options = parser().parse_args(given)
  # Imported late, so that --help is quick.
  from jaxser.engine import interruption
  from jaxser.report.tables import program, spec

  try:
    return program.run(
      options.table,
      workdir=options.workdir,
      data_dir=options.data_dir,
      only=[n for text in options.only for n in text.split(',') if n],
      sets=options.set,
      demo=options.demo,
      list_only=options.list,
    )
  except spec.TableError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  except interruption.Interrupted as stop:
    print(f'\n{stop}', file=sys.stderr)
    return stop.exit_code
  except KeyboardInterrupt:
    print('\nstopped; the same command continues', file=sys.stderr)
    return 130


def parser() -> argparse.ArgumentParser:
  """The arguments this program takes."""
  summary, _, rest = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    prog='python -m jaxser.tables',
    description=f'{summary}\n{rest.rstrip()}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('table', help='a file of configs/tables')
  parser.add_argument(
    '--workdir',
    help='folder for the cells and the table; default workdir/NAME-OF-TABLE',
    type=pathlib.Path,
  )
  parser.add_argument(
    '--data_dir',
    default='',
    help='where stores lie; default $JAXSER_DATA_DIR, or ~/jaxser_data',
  )
  parser.add_argument(
    '--only',
    action='append',
    default=[],
    metavar='CELL,...',
    help='run these cells only; the others are shown as they are',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='FIELD=VALUE',
    help='override a field of every config, as in --set=epochs=60; the table '
    "then says that it is not the paper's budget",
  )
  parser.add_argument(
    '--demo', action='store_true', help='the cells on the demo corpus instead'
  )
  parser.add_argument(
    '--list', action='store_true', help='show the cells; run and write nothing'
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
