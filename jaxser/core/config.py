"""Checks a resolved config before anything starts, and keeps it with a run."""

import json
import re
import types
from collections.abc import Collection, Mapping
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
  'parallel': ('jit', 'pmap'),
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
  default: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[tuple[str, Any, Any]]:
  """Returns (field, before, now) where they differ; `default` fills gaps."""
  old, new = ({**default, **flatten(config)} for config in (before, now))
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
  for name in _AT_LEAST_ONE:
    if flat[name] < 1:
      raise ConfigError(f'--config.{name}={flat[name]} must be at least 1.')
  for name in ('runs_at_once', 'memory_gib'):
    if flat[name] < 0:
      raise ConfigError(
        f'--config.{name}={flat[name]} must be 0, which lets the program '
        'choose, or more.'
      )
  if flat['profile']:
    steps = re.fullmatch(r'(\d+):(\d+)', flat['profile'])
    if not steps or not 1 <= int(steps[1]) <= int(steps[2]):
      raise ConfigError(
        f'--config.profile={flat["profile"]} must be FIRST:LAST, two numbers of '
        'steps from 1 on, such as 10:20.'
      )
  if flat['batch_size'] % flat['accumulate']:
    raise ConfigError(
      f'--config.batch_size={flat["batch_size"]} must be a multiple of '
      f'--config.accumulate={flat["accumulate"]}.'
    )
  check_optimizer(config)
  if not 0 <= flat['ema'] < 1:
    raise ConfigError(
      f'--config.ema={flat["ema"]} must be at least 0 and less than 1, such as '
      '0.999; 0 keeps no average of the weights.'
    )
  warmup = flat['schedule.warmup_epochs']
  if not (warmup == 0 or 0 < warmup < flat['epochs']):
    raise ConfigError(
      f'--config.schedule.warmup_epochs={warmup} must be at least 0 and less '
      f'than --config.epochs={flat["epochs"]}.'
    )


def check_optimizer(config: Config, given: Collection[str] = ()) -> None:
  from jaxser.core import optimizers  # Late, so that --help is quick.

  optimizers.check(config.optimizer.to_dict(), given)


def to_json(config: Config) -> dict[str, Any]:
  return json.loads(config.to_json())
