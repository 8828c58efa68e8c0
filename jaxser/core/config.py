"""Checks a resolved config before anything starts, and keeps it with a run."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_collections

from jaxser.core.errors import ConfigError as ConfigError

Config = ml_collections.ConfigDict

PROTOCOLS = (
  *('published', 'speaker_independent', 'official'),
  *('cross_corpus', 'emobox', 'all'),
)
_SCORES = ('uar', 'war', 'f1', 'ccc_mean')
# Fields that change neither the model nor its predictions.
FREE = (
  *('data_dir', 'tensorboard', 'embeddings', 'checkpoint_every', 'profile'),
  *('data.cache_gib', 'runs_at_once', 'memory_gib'),
  'epochs_from',  # Decides on `epochs`, which is compared.
  # Of earlier versions, whose work folders can still be shown again.
  *('engine', 'folds_at_once', 'folds_memory_gib'),
)
_CHOICES = {
  'protocol': PROTOCOLS,
  'cross_corpus_train': ('all', 'held_out', 'speakers'),
  'parallel': ('jit', 'pmap', 'fsdp'),
  'schedule.name': ('constant', 'cosine', 'linear', 'plateau'),
  'schedule.metric': _SCORES,
  'selection_metric': _SCORES,
}
_AT_LEAST_ONE = (
  *('epochs', 'seeds', 'batch_size', 'accumulate', 'eval_batch_size'),
  *('eval_every', 'checkpoint_every'),
)


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'model': {'dropout': .1}} -> {'model.dropout': .1}."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, Mapping | Config):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def difference(
  before: Mapping[str, Any],
  now: Mapping[str, Any],
  default: Mapping[str, Any] | None = None,
) -> list[tuple[str, Any, Any]]:
  """Returns (field, before, now) where they differ; `default` fills gaps."""
  known = default or {}
  old, new = ({**known, **flatten(config)} for config in (before, now))
  fields = [(name, old.get(name), new.get(name)) for name in {**old, **new}]
  return [field for field in fields if field[1] != field[2]]


def validate(config: Config) -> None:
  flat = flatten(config)
  for name, valid in _CHOICES.items():
    if flat[name] not in valid:
      shown = ', '.join(repr(v) for v in valid)
      raise ConfigError(
        f'--config.{name}={flat[name]!r} is not valid; choose one of {shown}.'
      )
  for name, fits, wanted in _ranges(flat):
    if not fits:
      raise ConfigError(f'--config.{name}={flat[name]} must be {wanted}.')
  check_optimizer(config)


def _ranges(flat: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
  """Yields (field, whether its value fits, what it must be)."""
  for name in _AT_LEAST_ONE:
    yield name, flat[name] >= 1, 'at least 1'
  for name in ('runs_at_once', 'memory_gib'):
    wanted = '0, which lets the program choose, or more'
    yield name, flat[name] >= 0, wanted
  steps = re.fullmatch(r'(\d+):(\d+)', flat['profile'] or '1:1')
  fits = bool(steps) and 1 <= int(steps[1]) <= int(steps[2])
  wanted = 'FIRST:LAST, two numbers of steps from 1 on, such as 10:20'
  yield 'profile', fits, wanted
  parts, epochs = flat['accumulate'], flat['epochs']
  wanted = f'a multiple of --config.accumulate={parts}'
  yield 'batch_size', flat['batch_size'] % parts == 0, wanted
  wanted = 'at least 0 and less than 1, such as 0.999; 0 keeps no average of '
  yield 'ema', 0 <= flat['ema'] < 1, wanted + 'the weights'
  warmup = flat['schedule.warmup_epochs']
  wanted = f'at least 0 and less than --config.epochs={epochs}'
  yield 'schedule.warmup_epochs', warmup == 0 or 0 < warmup < epochs, wanted


def check_optimizer(config: Config, given: Collection[str] = ()) -> None:
  from jaxser.core import optimizers  # Late, so that --help is quick.

  optimizers.check(config.optimizer.to_dict(), given)


def to_json(config: Config) -> dict[str, Any]:
  return json.loads(config.to_json())
