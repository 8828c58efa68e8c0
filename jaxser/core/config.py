"""Checks a resolved config before anything starts, and keeps it with a run."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxser.core import files
from jaxser.core.errors import UserError

PROTOCOLS = (
  'published',
  'speaker_independent',
  'official',
  'cross_corpus',
  'emobox',
  'all',
)
# Fields that change neither the model nor its predictions.
FREE = (
  'data_dir',
  'tensorboard',
  'embeddings',
  'checkpoint_every',
  'data.cache_gib',
  'runs_at_once',
  'memory_gib',
  'profile',
  # Decides on `epochs`, which is compared.
  'epochs_from',
  # Of earlier versions, whose work folders can still be shown again.
  'engine',
  'folds_at_once',
  'folds_memory_gib',
)
_CHOICES = {
  'protocol': PROTOCOLS,
  'cross_corpus_train': ('all', 'held_out', 'speakers'),
  'parallel': ('jit', 'pmap'),
  'optimizer.name': ('adam', 'adamw'),
  'schedule.name': ('constant', 'plateau'),
  'schedule.metric': ('uar', 'war', 'f1', 'ccc_mean'),
  'selection_metric': ('uar', 'war', 'f1', 'ccc_mean'),
}
_AT_LEAST_ONE = (
  'epochs',
  'seeds',
  'batch_size',
  'accumulate',
  'eval_batch_size',
  'eval_every',
  'checkpoint_every',
)


class ConfigError(UserError):
  """A config has an impossible value; the message lists the possible ones."""


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'model': {'dropout': .1}} -> {'model.dropout': .1}."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def difference(
  before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Returns (field, value before, value now) where nested settings differ."""
  old, new = map(flatten, (before, now))
  fields = [(name, old.get(name), new.get(name)) for name in {**old, **new}]
  return [field for field in fields if field[1] != field[2]]


def validate(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError naming the field, its value and the valid values."""
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


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as plain dicts and lists."""
  return json.loads(config.to_json())


def claim(
  config: ml_collections.ConfigDict, workdir: os.PathLike[str] | str
) -> None:
  """Writes config.json, or checks that the run to be continued is this one.

  Raises:
    ConfigError: if the folder holds a run of another config, and the message
      lists the fields that differ; or if it cannot be written.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    check_same(config, workdir)
    files.write_json(path, to_json(config))
  except OSError as error:
    raise unwritable(workdir, error) from error


def unwritable(workdir: os.PathLike[str] | str, error: OSError) -> ConfigError:
  """Returns the error to raise where a work folder cannot be written."""
  return ConfigError(
    f'--workdir={workdir} cannot be written ({error.strerror or error}); give '
    'a folder that can be made, or one of your own.'
  )


def is_free(workdir: os.PathLike[str] | str) -> bool:
  """Returns whether a folder holds no result, weight or checkpoint of a run."""
  kept = (
    'results.json',
    'predictions.jsonl',
    'folds/*.json*',
    'models/*.safetensors',
    'checkpoints/*/*',
  )
  return not any(any(pathlib.Path(workdir).glob(name)) for name in kept)


def check_same(
  config: ml_collections.ConfigDict, workdir: os.PathLike[str] | str
) -> None:
  """Checks, writing nothing, that `claim` would accept the folder.

  Raises:
    UserError: as `claim` does, or if its config.json is damaged.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if is_free(workdir) or not path.exists():
    return
  found = difference(files.read_json(path), to_json(config))
  differing = [
    f'{name}: there {before!r}, now {now!r}'
    for name, before, now in sorted(found)
    if name not in FREE
  ]
  if differing:
    raise ConfigError(
      f'{path.parent} holds a run of another config ({"; ".join(differing)}).'
      ' Give another --workdir, or the same config to continue that run.'
    )
