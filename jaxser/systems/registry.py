"""From a config to a system."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from jaxser.core.config import ConfigError
from jaxser.core.errors import ConvertError
from jaxser.systems.base import System, Tree

SYSTEMS = {
  'timnet': 'jaxser.systems.timnet:TimNet',
  'dsnet': 'jaxser.systems.dsnet:DSNet',
  'emosphere': 'jaxser.systems.emosphere:EmoSphere',
  'baseline': 'jaxser.systems.baseline:Baseline',
  'baseline_vad': 'jaxser.systems.baseline:BaselineVad',
}
"""Names of the systems of this package. Any other is named by its class."""


def find(name: str) -> type[System]:
  """Returns a system's class by a name of `SYSTEMS` or 'package.module:Class'."""
  module, colon, kind = SYSTEMS.get(name, name).partition(':')
  reason = 'no such name'
  try:
    found = getattr(importlib.import_module(module), kind) if colon else None
  except (ImportError, AttributeError, ValueError) as error:
    found, reason = None, str(error)
  if isinstance(found, type) and issubclass(found, System):
    return found
  if found is not None:
    reason = 'not a subclass of jaxser.systems.base.System'
  raise ConfigError(
    f'--config.system={name!r} is unknown ({reason}); choose one of '
    f'{", ".join(SYSTEMS)}, or name a class of your own as '
    "'my_package.my_module:MySystem'."
  )


def task(config: ml_collections.ConfigDict) -> str:
  """Returns 'classification' or 'regression', before there is a corpus."""
  return find(config.system).task


def build(name: str, settings: Mapping[str, Any]) -> System:
  """Returns the system of this name with the settings of `System.settings`."""
  system = find(name)(**_hashable(settings))
  system.validate()
  return system


def create(config: ml_collections.ConfigDict, corpus: Any) -> System:
  """Returns the system of `config.system` with the settings of `config.model`."""
  kind = find(config.system)
  with _refusals('config.model does not fit: {}'):
    system = kind.create(_hashable(config.model.to_dict()), corpus)
    system.validate()
  return system


def check(system: System, corpus: Any, lengths: np.ndarray) -> None:
  """Refuses a corpus that the system cannot learn from, see `System.check`."""
  with _refusals(f'corpus {corpus.name!r}: {{}}.'):
    system.check(corpus, lengths)


def pretrained(
  config: ml_collections.ConfigDict, system: System
) -> Callable[[Tree], Tree] | None:
  """Returns what puts pretrained weights, but of init_from, into parameters."""
  if config.init_from:
    return None
  with _refusals('config.model does not fit: {}.'):
    return system.pretrained(config.model.to_dict())


@contextlib.contextmanager
def _refusals(text: str) -> Iterator[None]:
  """Turns what a system says against its settings into a ConfigError."""
  try:
    yield
  except ConvertError:
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError(text.format(error)) from error


def _hashable(value: Any) -> Any:
  """Turns lists, also those of JSON, into the tuples that settings hold."""
  if isinstance(value, Mapping):
    return {name: _hashable(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return tuple(map(_hashable, value))
  return value
