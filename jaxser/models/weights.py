"""Trees of arrays in safetensors files, with a hash and without pickle.

Every array lies under its path in the tree, 'params/head/kernel', in its own
type. The metadata holds what the caller adds, the paths of empty mappings, and
the hash of the content, so that a damaged file is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401, lets NumPy know bfloat16 by its name.
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from jaxser.core import files
from jaxser.core.errors import UserError
from jaxser.core.files import Path

Tree = Any


class ModelError(UserError):
  """A trained model cannot be written or used; says which, why, what to do."""


def write(path: Path, tree: Tree, metadata: Mapping[str, str]) -> None:
  """Writes nested dicts of arrays; equal content gives equal bytes."""
  flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')
  empty = {n for n, value in flat.items() if value is traverse_util.empty_node}
  names = sorted(flat.keys() - empty)
  arrays = {name: np.asarray(flat[name], order='C') for name in names}
  own = {'empty': json.dumps(sorted(empty)), 'sha256': _digest(arrays)}
  data = safetensors.numpy.save(arrays, {**metadata, **own})
  # The library orders the metadata differently in every process.
  end = 8 + int.from_bytes(data[:8], 'little')
  header = json.loads(data[8:end])
  header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
  text = json.dumps(header, separators=(',', ':'), ensure_ascii=False)
  files.write_bytes(path, data[:8] + text.encode().ljust(end - 8) + data[end:])


def read(path: Path) -> tuple[Tree, dict[str, str]]:
  """Returns the tree and the metadata that `write` got."""
  try:
    with safetensors.safe_open(str(path), framework='numpy') as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except FileNotFoundError:
    raise
  except OSError as error:
    raise ModelError(
      f'{path} cannot be read ({error.strerror or error}); it must be a '
      'readable file.'
    ) from error
  except (safetensors.SafetensorError, ValueError, TypeError) as error:
    raise _damaged(path, str(error)) from error
  if not metadata.keys() >= {'empty', 'sha256'}:
    raise ModelError(
      f'{path} holds no weights that this program wrote: its metadata are '
      f'{metadata}. Weights of others are read by --config.init_from.'
    )
  if metadata['sha256'] != _digest(arrays):
    raise _damaged(path, 'its content does not have the hash that it states')
  empty = dict.fromkeys(json.loads(metadata['empty']), traverse_util.empty_node)
  return traverse_util.unflatten_dict({**arrays, **empty}, sep='/'), metadata


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, value in sorted(arrays.items()):
    digest.update(f'{name} {value.dtype} {value.shape}\n'.encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def _damaged(path: Path, why: str) -> ModelError:
  """Returns the error for a file that was once written whole."""
  return ModelError(
    f'{path} is damaged or not a safetensors file ({why}). Copy it again, or '
    'delete it with the file of its fold in folds/ and run the training '
    'command again.'
  )
