"""Writes the report of a run again: `python -m jaxser.report WORKDIR`."""

import argparse
import sys
from collections.abc import Sequence

from jaxser.predictions import PredictionsError
from jaxser.report.page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes WORKDIR/report.html; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m jaxser.report',
    description='Writes WORKDIR/report.html from the files of a finished run.',
  )
  parser.add_argument(
    'workdir', help='folder with results.json and predictions.jsonl'
  )
  options = parser.parse_args(arguments)
  try:
    path = write_report(options.workdir)
  except PredictionsError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print(path)
  return 0


if __name__ == '__main__':
  sys.exit(main())
