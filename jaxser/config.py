"""Checks a resolved config before anything starts, and keeps it with a run."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxser import files
from jaxser.data import protocols
from jaxser.mesh import PARALLEL

# Fields that change neither the model nor its predictions.
_FREE = ('data_dir', 'tensorboard', 'checkpoint_every', 'data.cache_gib')
_CHOICES = {
  'protocol': protocols.PROTOCOLS,
  'parallel': PARALLEL,
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


class ConfigError(ValueError):
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
    ConfigError: if the folder holds a run of another config; the message lists
      the fields that differ.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if path.exists():
    before, now = (
      flatten(json.loads(path.read_text())),
      flatten(to_json(config)),
    )
    differing = [
      f'{name}: there {before.get(name)!r}, now {now.get(name)!r}'
      for name in sorted(before.keys() | now.keys())
      if before.get(name) != now.get(name) and name not in _FREE
    ]
    if differing:
      raise ConfigError(
        f'{path.parent} holds a run of another config ({"; ".join(differing)}).'
        ' Give another --workdir, or the same config to continue that run.'
      )
  files.write_json(path, to_json(config))
