"""Trees of arrays in safetensors files, with a hash and without pickle.

Every array lies under its path in the tree, 'params/head/kernel', in its own
type. The metadata holds what the caller adds, the paths of empty mappings, and
the hash of the content, so that a damaged file is noticed.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxser.core import files
from jaxser.core.errors import UserError

Tree = Any

_TYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'U32': np.dtype(np.uint32),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}


class ModelError(UserError):
  """A trained model cannot be written or used; says which, why, what to do."""


def write(
  path: os.PathLike[str] | str, tree: Tree, metadata: Mapping[str, str]
) -> None:
  """Writes nested dicts of arrays, whole or not at all; see `flatten`."""
  arrays, empty = flatten(tree)
  own = {'empty': json.dumps(empty), 'sha256': _digest(arrays)}
  files.write_bytes(path, _serialize(arrays, {**metadata, **own}))


def _serialize(
  arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
  """A safetensors file; equal content gives equal bytes.

  The library's writer orders the metadata differently in every process.
  """
  kinds = {dtype: name for name, dtype in _TYPES.items()}
  # Wide types first, so that each array is aligned.
  order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
  header, offset = {'__metadata__': dict(sorted(metadata.items()))}, 0
  for name in order:
    value = arrays[name]
    end = offset + value.nbytes
    header[name] = {
      'dtype': kinds[value.dtype],
      'shape': list(value.shape),
      'data_offsets': [offset, end],
    }
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  parts = [len(text).to_bytes(8, 'little'), text]
  return b''.join([*parts, *(_raw(arrays[name]) for name in order)])


def _raw(value: np.ndarray) -> memoryview:
  """The bytes of an array; NumPy itself cannot export bfloat16."""
  return np.atleast_1d(value).view(np.uint8).data


def read(path: os.PathLike[str] | str) -> tuple[Tree, dict[str, str]]:
  """The inverse of `write`: the tree and the metadata.

  Raises:
    FileNotFoundError: if there is no such file.
    ModelError: if it cannot be read, is damaged, or was not written by `write`.
  """
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    raise
  except OSError as error:
    raise ModelError(
      f'{path} cannot be read ({error.strerror}); it must be a readable file.'
    ) from error
  arrays, metadata = _parse(data, path)
  if not metadata.keys() >= {'empty', 'sha256'}:
    raise ModelError(
      f'{path} holds no weights that this program wrote: its metadata are '
      f'{metadata}. Weights of others are read by --config.init_from.'
    )
  if metadata['sha256'] != _digest(arrays):
    raise damaged(path, 'its content does not have the hash that it states')
  try:
    tree = unflatten(arrays, json.loads(metadata['empty']))
  except (ValueError, TypeError, AttributeError) as error:
    raise damaged(path, f'{type(error).__name__}: {error}') from error
  return tree, metadata


def flatten(tree: Tree) -> tuple[dict[str, np.ndarray], list[str]]:
  """Arrays by 'a/b/c' path, sorted, and the paths of mappings without any.

  Raises:
    ModelError: if the tree has anything but mappings with plain names.
  """
  arrays, empty = {}, []

  def walk(node: Tree, prefix: str) -> None:
    if not isinstance(node, Mapping):
      if not hasattr(node, 'dtype'):
        raise ModelError(
          f'{prefix} is a {type(node).__name__}; a model is made of mappings '
          'and arrays.'
        )
      arrays[prefix] = np.ascontiguousarray(node).reshape(np.shape(node))
      if arrays[prefix].dtype not in _TYPES.values():
        raise ModelError(
          f'{prefix} has type {arrays[prefix].dtype}; a model can hold '
          f'{", ".join(str(t) for t in _TYPES.values())}.'
        )
      return
    if not node:
      empty.append(prefix)
    for name, value in node.items():
      if not isinstance(name, str) or not name or '/' in name:
        raise ModelError(
          f'{prefix} holds the name {name!r}; names of parameters and state '
          'must be text without "/".'
        )
      walk(value, f'{prefix}/{name}' if prefix else name)

  walk(tree, '')
  return dict(sorted(arrays.items())), sorted(empty)


def unflatten(
  arrays: Mapping[str, np.ndarray], empty: Iterable[str] = ()
) -> dict[str, Any]:
  """The inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path in empty:
    functools.reduce(
      lambda n, part: n.setdefault(part, {}), path.split('/'), tree
    )
  for path, value in arrays.items():
    *parents, leaf = path.split('/')
    functools.reduce(lambda n, part: n.setdefault(part, {}), parents, tree)[
      leaf
    ] = value
  return tree


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, value in sorted(arrays.items()):
    digest.update(f'{name} {value.dtype} {value.shape}\n'.encode())
    digest.update(_raw(value))
  return digest.hexdigest()


def _parse(
  data: bytes, path: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Arrays and metadata of a safetensors file."""
  try:
    tensors = safetensors.deserialize(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
  except (safetensors.SafetensorError, ValueError) as error:
    raise damaged(path, str(error)) from error
  arrays = {}
  for name, entry in tensors:
    if entry['dtype'] not in _TYPES:
      raise damaged(path, f'{name} has the unknown type {entry["dtype"]}')
    arrays[name] = np.frombuffer(entry['data'], _TYPES[entry['dtype']]).reshape(
      entry['shape']
    )
  return arrays, header.get('__metadata__') or {}


def damaged(path: pathlib.Path, why: str) -> ModelError:
  """The error for a file that was once written whole and no longer is."""
  return ModelError(
    f'{path} is damaged or not a safetensors file ({why}). Copy it again, or '
    'delete it with the file of its fold in folds/ and run the training '
    'command again.'
  )
