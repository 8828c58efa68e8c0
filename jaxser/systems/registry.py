"""From a config to a system."""

import importlib
import types
from collections.abc import Callable

import ml_collections
import numpy as np

from jaxser.core.config import ConfigError
from jaxser.core.errors import ConvertError
from jaxser.data.corpus import Corpus
from jaxser.systems.base import System, Tree

# Name, which is a module of this package, -> task of its systems.
SYSTEMS = {
  'timnet': 'classification',
  'dsnet': 'classification',
  'emosphere': 'regression',
}
# Where it is another one that sets the system up. It defines `create(model,
# corpus)` and, where there is something to it, `check(system, corpus, lengths,
# bins)` and `pretrained(model, system)`.
_SETUP = {'emosphere': 'emosphere_setup'}


def _module(name: str) -> types.ModuleType:
  """What sets the system of this name up."""
  return importlib.import_module(f'jaxser.systems.{_SETUP.get(name, name)}')


def task(config: ml_collections.ConfigDict) -> str:
  """'classification' or 'regression'; the first for an unknown system.

  Before there is a corpus, and so a system that could be asked.
  """
  return SYSTEMS.get(config.system, 'classification')


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
  try:
    return _module(config.system).create(dict(config.model), corpus)
  except ConvertError:
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError(f'config.model does not fit: {error}') from error


def check(
  config: ml_collections.ConfigDict,
  system: System,
  corpus: Corpus,
  lengths: np.ndarray,
) -> None:
  """Refuses a corpus that the system cannot learn from, naming utterances.

  Args:
    config: of the run.
    system: made of it.
    corpus: of the run.
    lengths: int [n], frames or samples of its utterances as batches have them.

  Raises:
    ConfigError: with the reason.
  """
  function = getattr(_module(config.system), 'check', None)
  if function is None:
    return
  bins = corpus.feature_shape[1] if len(corpus.feature_shape) > 1 else None
  try:
    function(system, corpus, lengths, bins)
  except ValueError as error:
    raise ConfigError(f'corpus {corpus.name!r}: {error}.') from error


def pretrained(
  config: ml_collections.ConfigDict, system: System
) -> Callable[[Tree], Tree] | None:
  """What puts pretrained weights into fresh parameters, None without any.

  Nothing does where all weights are those of config.init_from.

  Raises:
    ConfigError: if the system needs weights and the config names none.
    ConvertError: if the weights cannot be read, or do not fit.
  """
  function = getattr(_module(config.system), 'pretrained', None)
  if function is None or config.init_from:
    return None
  try:
    return function(dict(config.model), system)
  except ConvertError:
    raise
  except ValueError as error:
    raise ConfigError(f'config.model does not fit: {error}.') from error
