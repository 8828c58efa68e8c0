"""python -m jaxser.report WORKDIR ...: the page of one run, or of several.

Examples:
  python -m jaxser.report runs/emodb
      Writes runs/emodb/report.html again.
  python -m jaxser.report runs/timnet --baseline=docs/results/emodb_egemaps
      The same with the figures of another run as lines in its charts.
  python -m jaxser.report runs/timnet runs/dsnet runs/encoder --out=page.html
      Compares runs with the first one: differences on the utterances that both
      tested, confusion matrices, speakers, calibration, configs.
  python -m jaxser.report runs/timnet runs/functionals --out=figure.svg
      Draws the scores of runs, their intervals and published figures.
  python -m jaxser.report runs/dsnet runs/encoder --into=README.md#dsnet
      Writes their table between the marks <!-- dsnet --> and <!-- /dsnet -->.
  python -m jaxser.report runs/all --card --baseline=docs/results/emodb_compare
      Writes runs/all/MODEL_CARD.md again, with the figures of a baseline.

A WORKDIR is the folder of a finished run; results.json and predictions.jsonl
are enough.

Exit codes: 0 done; 2 a mistake that the message explains.
"""

import pathlib
import sys

from absl import flags

from jaxser.core import command_line
from jaxser.core.command_line import UsageError

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)
command_line.define_path(
  'out',
  None,
  'The page to write, or the figure, where it ends in .svg; default '
  'WORKDIR/report.html, or comparison.html in this folder for several runs.',
  FLAGS,
)
flags.DEFINE_string(
  'into',
  '',
  'PAGE#NAME: write a table between the marks of a page instead.',
  FLAGS,
)
command_line.define_path(
  'baseline',
  None,
  'A finished run on the same utterances, whose figures become lines in the '
  'charts of a single run, or stand in its card.',
  FLAGS,
)
flags.DEFINE_boolean(
  'card', False, 'Write MODEL_CARD.md of a single run instead.', FLAGS
)
flags.DEFINE_string(
  'selection',
  '',
  'Which weights to compare: last, ema_last, best_on_dev, best_on_test or '
  'init_from; '
  'default the most honest that all runs have, and all of them with --into.',
  FLAGS,
)


def main(arguments: list[str]) -> int:
  """Writes the page and prints its path; returns the exit code."""
  print(_write([pathlib.Path(folder).expanduser() for folder in arguments]))
  return 0


def _write(workdirs: list[pathlib.Path]) -> pathlib.Path:
  # Late, so that --help is quick.
  from jaxser.core import files
  from jaxser.report import card, insert, pages

  out, into, selection = FLAGS.out, FLAGS.into, FLAGS.selection
  page, _, name = into.partition('#')
  if not workdirs:
    raise UsageError('give the folder of a finished run.')
  if FLAGS.baseline and (into or len(workdirs) > 1):
    raise UsageError(
      '--baseline is for the page of one run; several are compared with the '
      'first of them.'
    )
  if into and out:
    raise UsageError(
      f'--into={into} writes into that page, --out={out} a page of its own; '
      'give one of them.'
    )
  if into and not name:
    raise UsageError(f'--into={into}: give the marks too: README.md#NAME.')
  if into:
    return insert.write_into(page, name, workdirs, selection)
  if FLAGS.card:
    if len(workdirs) > 1 or out or selection:
      raise UsageError('--card is for one run; only --baseline goes with it.')
    return card.write(workdirs[0], FLAGS.baseline)
  try:
    if out:
      files.check_writable(out)
  except OSError as error:
    raise UsageError(
      f'--out={out} cannot be written ({error.strerror or error}); give '
      'another file.'
    ) from error
  if out and out.suffix == '.svg':
    if selection or FLAGS.baseline:
      raise UsageError('a figure shows every selection of the runs given.')
    return pages.write_figure(workdirs, out)
  if len(workdirs) > 1:
    out = out or pathlib.Path('comparison.html')
    return pages.write_comparison(workdirs, out, selection)
  if selection:
    raise UsageError(
      '--selection is for several runs; the page of one has all.'
    )
  return pages.write_report(workdirs[0], out, FLAGS.baseline)


if __name__ == '__main__':
  sys.exit(command_line.run(main, FLAGS, positional='WORKDIR'))
