"""From a config to a system."""

import importlib

import ml_collections

from jaxser.config import ConfigError
from jaxser.data.corpus import Corpus
from jaxser.systems.base import System

# Name -> module of this package; each defines `create(model, corpus)`.
SYSTEMS = ('timnet', 'dsnet', 'emosphere')


def create(config: ml_collections.ConfigDict, corpus: Corpus) -> System:
  """The system of `config.system` with the settings of `config.model`.

  Raises:
    ConfigError: for an unknown system, or a setting that it refuses.
  """
  if config.system not in SYSTEMS:
    raise ConfigError(
      f'--config.system={config.system!r} is unknown; choose one of '
      f'{", ".join(SYSTEMS)}.'
    )
  module = importlib.import_module(f'jaxser.systems.{config.system}')
  try:
    return module.create(dict(config.model), corpus)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'config.model does not fit: {error}') from error
