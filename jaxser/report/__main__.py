"""python -m jaxser.report WORKDIR ...: the page of one run, or of several.

Examples:
  python -m jaxser.report runs/emodb
      Writes runs/emodb/report.html again.
  python -m jaxser.report runs/timnet runs/dsnet runs/encoder --out=page.html
      Compares runs with the first one: differences on the utterances that both
      tested, confusion matrices, speakers, calibration, configs.
  python -m jaxser.report runs/dsnet runs/encoder --into=README.md#dsnet
      Writes their table between the marks <!-- dsnet --> and <!-- /dsnet -->.

Exit codes: 0 done; 2 a mistake that the message explains.
"""

import argparse
import sys
from collections.abc import Sequence

from jaxser.core import files
from jaxser.evaluation.predictions import SELECTIONS, PredictionsError
from jaxser.report.comparison import write_comparison
from jaxser.report.insert import write_into
from jaxser.report.page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the page and prints its path; returns the exit status."""
  given = sys.argv[1:] if arguments is None else arguments
  if not given:
    print(__doc__)
    return 0
  options = parser().parse_args(given)
  several = len(options.workdir) > 1
  if options.into and options.out:
    parser().error(
      f'--into={options.into} writes into that page, --out={options.out} a '
      'page of its own; give one of them'
    )
  try:
    if options.out:
      files.check_writable(options.out)
  except OSError as error:
    parser().error(
      f'--out={options.out} cannot be written ({error.strerror or error}); give '
      'another file'
    )
  try:
    if options.into:
      page, _, name = options.into.partition('#')
      if not name:
        parser().error(
          f'--into={options.into}: give the marks too, as in README.md#NAME'
        )
      path = write_into(page, name, options.workdir, options.selection)
    elif several:
      path = write_comparison(
        options.workdir,
        options.out or 'comparison.html',
        options.selection,
      )
    elif options.selection:
      parser().error('--selection is for several runs; the page of one has all')
    else:
      path = write_report(options.workdir[0], options.out)
  except (PredictionsError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(path)
  return 0


def parser() -> argparse.ArgumentParser:
  """The arguments this program takes."""
  parser = argparse.ArgumentParser(
    prog='python -m jaxser.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'workdir',
    nargs='+',
    help='folder of a finished run, with results.json and predictions.jsonl',
  )
  parser.add_argument(
    '--out',
    metavar='FILE',
    help='the page to write; default WORKDIR/report.html, or comparison.html '
    'in this folder for several runs',
  )
  parser.add_argument(
    '--into',
    metavar='PAGE#NAME',
    help='write a table into a Markdown page instead, between its marks',
  )
  parser.add_argument(
    '--selection',
    choices=list(SELECTIONS),
    default='',
    help='which weights to compare; default the most honest that all runs have, '
    'and all of them with --into',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
