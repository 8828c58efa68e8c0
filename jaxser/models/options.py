"""Options that say which of a run's weights are used; none of them loads JAX."""

import argparse
from typing import Any

from jaxser.evaluation.predictions import SELECTIONS


def add_to(parser: argparse.ArgumentParser) -> None:
  """Adds --fold, --seed and --selection."""
  for name in ('fold', 'seed'):
    parser.add_argument(
      f'--{name}',
      type=int,
      action='append',
      default=[],
      help=f'use this {name} only; may be repeated',
    )
  parser.add_argument(
    '--selection',
    metavar='NAME',
    help='best_on_dev (default), last (default where there is no development '
    'side), or best_on_test. The last is never taken unasked: its epoch was '
    'chosen on the test data, so its results there say little about others',
  )


def problem(options: argparse.Namespace) -> str:
  """What is wrong with them, '' if nothing is."""
  if options.selection is not None and options.selection not in SELECTIONS:
    return (
      f'--selection={options.selection} is not valid; choose one of '
      f'{", ".join(SELECTIONS)}.'
    )
  return ''


def choose(options: argparse.Namespace, description: Any) -> list[Any]:
  """The trainings asked for, see `jaxser.models.ensemble.choose`."""
  from jaxser.models import ensemble as members

  return members.choose(
    description,
    seeds=options.seed,
    folds=options.fold,
    selection=options.selection,
  )
