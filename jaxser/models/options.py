"""Flags that say which of a run's weights are used; none of them loads JAX."""

from typing import Any

from absl import flags

from data_prep import command_line
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.models import builtin


def define(values: flags.FlagValues) -> None:
  """Defines --checkpoint, --fold, --seed and --selection."""
  command_line.define_path(
    'checkpoint',
    builtin.DEFAULT,
    'Work folder of a training run, or a model that comes with jaxser: '
    f'{", ".join(builtin.ABOUT)}.',
    values,
  )
  for name in ('fold', 'seed'):
    flags.DEFINE_multi_integer(
      name, [], f'Use this {name} only; may be repeated.', flag_values=values
    )
  flags.DEFINE_enum(
    'selection',
    None,
    list(SELECTIONS),
    'best_on_dev (default), last (default where there is no development '
    'split), ema_last, or best_on_test. The last is never taken unasked: its '
    'epoch was chosen on the test data, so its results there say little about '
    'others.',
    flag_values=values,
  )


def chosen(values: flags.FlagValues) -> dict[str, Any]:
  """Returns what to load as arguments of `jaxser.models.predictor.load`."""
  return {
    'checkpoint': builtin.find(values.checkpoint or builtin.DEFAULT),
    'seeds': values.seed,
    'folds': values.fold,
    'selection': values.selection,
  }
