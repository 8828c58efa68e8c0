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

# Module of the system -> module that reads its authors' files, and the names
# that those have in a folder.
_READERS = {
  'jaxser.systems.timnet': ('keras_timnet', ('**/*_*.hdf5', '**/*_*.h5')),
  'jaxser.systems.dsnet': ('torch_dsnet', ()),
  'jaxser.systems.emosphere': ('torch_emosphere', ('best_*.pt',)),
}


def is_authors_folder(system: System, path: os.PathLike[str] | str) -> bool:
  """Returns whether a folder holds files that the authors' training leaves."""
  _, patterns = _READERS.get(type(system).__module__, ('', ()))
  folder = pathlib.Path(path).expanduser()
  return any(any(folder.glob(pattern)) for pattern in patterns)


def load(system: System, path: os.PathLike[str] | str) -> list[tuple[Any, Any]]:
  """Returns (params, model_state) of every model in a file, in fold order.

  Raises:
    ConvertError: if the file is missing, of another format, or does not fit.
  """
  name, _ = _READERS.get(type(system).__module__, ('', ()))
  if not name:
    return system.load_foreign(path)
  reader = importlib.import_module(f'jaxser.models.convert.{name}')
  return reader.load(path, system)
