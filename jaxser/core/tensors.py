"""Named tensors in the files of others, which are never executed."""

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
from flax import traverse_util

from jaxser.core.errors import ConvertError
from jaxser.core.files import Path

Tree = Any
Shapes = Mapping[str, tuple[int, ...]]

_FLOATS = ('F64', 'F32', 'F16', 'BF16')
_MOST_LISTED = 8


@dataclasses.dataclass(frozen=True)
class Tensors:
  """Named arrays, whose shapes are known before anything is read."""

  source: str
  shapes: Shapes
  read: Callable[[str], np.ndarray]

  def renamed(self, names: Mapping[str, str]) -> 'Tensors':
    """Returns the tensors of `names` (new name -> name here) only."""
    shapes = {new: self.shapes[old] for new, old in names.items()}
    return Tensors(self.source, shapes, lambda new: self.read(names[new]))


def from_arrays(
  arrays: Mapping[str, np.ndarray], source: str = 'the given arrays'
) -> Tensors:
  shapes = {name: np.shape(array) for name, array in arrays.items()}
  return Tensors(source, shapes, arrays.__getitem__)


def open_safetensors(path: Path) -> Tensors:
  """Opens a safetensors file; tensors are read when asked for."""
  try:
    file = safetensors.safe_open(str(path), framework='numpy')
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    kinds = {name: part.get_dtype() for name, part in slices.items()}
  except (OSError, safetensors.SafetensorError) as error:
    raise ConvertError(
      f'{path} cannot be read as safetensors ({error}). Copy it again.'
    ) from error
  for name, kind in kinds.items():
    if kind not in _FLOATS:
      raise ConvertError(
        f'{path}: tensor {name} has type {kind}; parameters must be one of '
        f'{", ".join(_FLOATS)}.'
      )
  return Tensors(str(path), shapes, file.get_tensor)


def open_torch(path: Path) -> Tensors:
  """Opens a `torch.save` file; tensors of nested dicts are named 'E.a.b'."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise ConvertError(f'{path} does not exist.')
  try:
    import torch
  except ModuleNotFoundError as error:
    raise ConvertError(
      f'{path} is a PyTorch file; reading it needs PyTorch (a CPU build '
      "suffices): pip install -e '.[parity]'"
    ) from error
  try:
    mmap = zipfile.is_zipfile(path)  # Older files cannot be mapped.
    content = torch.load(path, 'cpu', weights_only=True, mmap=mmap)
  except Exception as error:  # PyTorch promises no narrower type.
    raise ConvertError(
      f'{path} is no file of tensors that can be read without running code '
      f'({str(error).splitlines()[0]}). Save it as safetensors, or as '
      'torch.save(model.state_dict(), FILE).'
    ) from error
  found = {}

  def collect(value: Any, name: str) -> None:
    if isinstance(value, Mapping):
      for key, part in value.items():
        collect(part, f'{name}.{key}' if name else str(key))
    elif isinstance(value, torch.Tensor):
      found[name] = value
    else:
      raise ConvertError(
        f'{path}: {name or "the content"} is a {type(value).__name__}, not a '
        'tensor or a state dict of tensors.'
      )

  collect(content, '')

  def read(name: str) -> np.ndarray:
    return found[name].detach().to(torch.float32).numpy()

  shapes = {name: tuple(value.shape) for name, value in found.items()}
  return Tensors(str(path), shapes, read)


@dataclasses.dataclass(frozen=True)
class Naming:
  """How a tree of ours is named and laid out in the files of others.

  A path 'params/head/kernel' becomes their name by regular expressions. '{}' in
  a name stands for the layer of a stack: our leading axis. Kernels are `(out,
  in, *window)` there and `(*window, in, out)` here, unless not `transposed`.
  `axes` are indices that add the axes of length 1 of their arrays, by name.
  """

  rules: tuple[tuple[str, str], ...]
  axes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
  ignored: str = '$^'
  transposed: bool = True

  def name(self, path: str) -> str:
    for pattern, replacement in self.rules:
      path = re.sub(pattern, replacement, path)
    return path.replace('/', '.')

  def to_theirs(self, path: str, value: np.ndarray) -> np.ndarray:
    """Returns an array of ours as others lay it out."""
    if self._is_kernel(path, value.ndim):
      value = value.transpose(-1, -2, *range(value.ndim - 2))
    name = self.name(path)
    for pattern, index in self.axes.items():
      if re.search(pattern, name):
        value = value[index]
    return value

  def from_theirs(self, path: str, value: np.ndarray, shape) -> np.ndarray:
    if not self._is_kernel(path, len(shape)):
      return value.reshape(shape)
    value = value.reshape(shape[-1], shape[-2], *shape[:-2])
    return value.transpose(*range(2, value.ndim), 1, 0)

  def _is_kernel(self, path: str, ndim: int) -> bool:
    kernel = path.endswith('/kernel') or ndim > 2
    return self.transposed and kernel


def leaves_of(tree: Tree) -> dict[str, Any]:
  """Returns the leaves of nested dicts by 'a/b/c' path."""
  return {
    '/'.join(str(part.key) for part in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def expected(naming: Naming, tree: Tree) -> dict[str, tuple[int, ...]]:
  """Returns their name -> shape of everything in a tree of ours."""
  shapes = {}
  for path, leaf in leaves_of(tree).items():
    name, shape, layers = naming.name(path), leaf.shape, [None]
    if '{}' in name:
      shape, layers = shape[1:], range(shape[0])
    # One byte, broadcast: no memory for parameters that are only counted.
    theirs = naming.to_theirs(path, np.broadcast_to(np.int8(0), shape)).shape
    shapes |= {name.format(layer): theirs for layer in layers}
  return shapes


def convert(tensors: Tensors, naming: Naming, tree: Tree, hint='') -> Tree:
  """Returns the tensors as float32 arrays in the places of a tree of ours."""
  wanted = expected(naming, tree)
  shapes = {
    name: shape
    for name, shape in tensors.shapes.items()
    if name in wanted or not re.search(naming.ignored, name)
  }
  check(tensors.source, shapes, wanted, hint)

  def read(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    value = np.asarray(tensors.read(name), np.float32)
    # A sum passes on what is not finite, without a mask as large as the array.
    if not np.isfinite(value.sum()):
      raise ConvertError(
        f'{tensors.source}: {name} holds NaN or infinity; the training that '
        'wrote it had diverged.'
      )
    return naming.from_theirs(path, value, shape)

  found = {}
  for path, leaf in leaves_of(tree).items():
    name = naming.name(path)
    if '{}' in name:
      value = np.empty(leaf.shape, np.float32)
      for layer in range(len(value)):
        value[layer] = read(path, name.format(layer), leaf.shape[1:])
    else:
      value = np.ascontiguousarray(read(path, name, leaf.shape))
    found[path] = value
  return traverse_util.unflatten_dict(found, sep='/')


def check(source: str, shapes: Shapes, wanted: Shapes, hint: str) -> None:
  differing = [
    f'{name}: file {shapes[name]}, model {shape}'
    for name, shape in sorted(wanted.items())
    if shapes.get(name, shape) != shape
  ]
  parts = []
  for title, names in (
    ('In the model but not in the file', sorted(wanted.keys() - shapes.keys())),
    ('In the file but not in the model', sorted(shapes.keys() - wanted.keys())),
    ('Different shapes', differing),
  ):
    if names:
      shown = names[:_MOST_LISTED]
      if len(names) > len(shown):
        shown.append(f'and {len(names) - len(shown)} more')
      parts.append(f'{title} ({len(names)}):\n    ' + '\n    '.join(shown))
  if parts:
    title = f'{source} does not fit the model. {hint}'.rstrip()
    raise ConvertError('\n  '.join([title, *parts]))
