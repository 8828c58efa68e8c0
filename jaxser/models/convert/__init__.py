"""Checkpoints of others, read without executing them.

`load` finds the reader by the system; readers themselves are importable on
their own and need only what their format needs (h5py, safetensors, PyTorch).
"""

import importlib
import os
import pathlib
from typing import Any

from jaxser.core.errors import ConvertError
from jaxser.systems.base import System

__all__ = ['ConvertError', 'is_authors_folder', 'load']

# Module of the system -> module that reads its authors' files.
_READERS = {
  'jaxser.systems.timnet': 'jaxser.models.convert.keras_timnet',
  'jaxser.systems.dsnet': 'jaxser.models.convert.torch_dsnet',
  'jaxser.systems.emosphere': 'jaxser.models.convert.torch_emosphere',
}


def is_authors_folder(system: System, path: os.PathLike[str] | str) -> bool:
  """Whether a folder holds one of the files that the authors' training leaves."""
  module = _READERS.get(type(system).__module__)
  reader = importlib.import_module(module) if module else None
  names = getattr(reader, 'FILES', {}).values()
  return any((pathlib.Path(path) / name).is_file() for name in names)


def load(system: System, path: os.PathLike[str] | str) -> list[tuple[Any, Any]]:
  """(params, model_state) of every model in a file, in fold order.

  Raises:
    ConvertError: if the file is missing, of another format, or does not fit.
  """
  module = _READERS.get(type(system).__module__)
  if module is None:
    return system.load_foreign(path)
  return importlib.import_module(module).load(path, system)
