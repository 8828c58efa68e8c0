"""Named tensors in files of others, read one at a time and never executed."""

import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping

import ml_dtypes
import numpy as np

from jaxser.core.errors import ConvertError


class Tensors(Mapping[str, np.ndarray]):
  """Name -> float32 array; shapes are known before anything is read.

  Attributes:
    source: file the tensors come from, for messages.
    shapes: name -> shape.
  """

  def __init__(
    self,
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
  ) -> None:
    """Wraps `read`, which returns the array of a name."""
    self.source = source
    self.shapes = dict(shapes)
    self._read = read

  def __getitem__(self, name: str) -> np.ndarray:
    return self._read(name)

  def __iter__(self) -> Iterator[str]:
    return iter(self.shapes)

  def __len__(self) -> int:
    return len(self.shapes)

  def renamed(self, names: Mapping[str, str]) -> 'Tensors':
    """The tensors of `names` (new name -> name here) only."""
    return Tensors(
      self.source,
      {new: self.shapes[old] for new, old in names.items()},
      lambda new: self[names[new]],
    )


def from_arrays(
  arrays: Mapping[str, np.ndarray], source: str = 'the given arrays'
) -> Tensors:
  """Wraps arrays that are in memory."""
  return Tensors(
    source,
    {name: tuple(array.shape) for name, array in arrays.items()},
    lambda name: np.asarray(arrays[name], np.float32),
  )


# Element types of the safetensors format that hold parameters.
_DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}


def open_safetensors(path: os.PathLike[str] | str) -> Tensors:
  """Opens a safetensors file; tensors are read when asked for.

  Raises:
    ConvertError: if the file is missing, damaged, or holds integers.
  """
  import safetensors

  path = pathlib.Path(path)
  try:
    file = safetensors.safe_open(str(path), framework='numpy')
    shapes, kinds = {}, {}
    for name in file.keys():  # noqa: SIM118, the handle is not iterable
      part = file.get_slice(name)
      shapes[name] = tuple(part.get_shape())
      kinds[name] = part.get_dtype()
  except (OSError, safetensors.SafetensorError) as error:
    raise ConvertError(
      f'{path} cannot be read as safetensors ({error}). Copy it again.'
    ) from error
  for name, kind in kinds.items():
    if kind not in _DTYPES:
      raise ConvertError(
        f'{path}: tensor {name} has type {kind}; parameters must be one of'
        f' {", ".join(_DTYPES)}.'
      )
  return Tensors(
    str(path), shapes, lambda name: file.get_tensor(name).astype(np.float32)
  )


def open_torch(path: os.PathLike[str] | str) -> Tensors:
  """Opens a `torch.save` state dict with `weights_only`: no code runs.

  Raises:
    ConvertError: if PyTorch is missing, or the file is missing, damaged, or
      holds anything but named tensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ConvertError(f'{path} does not exist.')
  try:
    import torch
  except ModuleNotFoundError as error:
    raise ConvertError(
      f'{path} is a PyTorch file; reading it needs PyTorch (pip install torch).'
      ' A safetensors file needs none.'
    ) from error
  try:
    content = torch.load(
      path,
      map_location='cpu',
      weights_only=True,
      mmap=zipfile.is_zipfile(path),  # Older files cannot be mapped.
    )
  except Exception as error:  # PyTorch promises no narrower type.
    raise ConvertError(
      f'{path} is not a state dict of tensors that can be read without running'
      f' code ({str(error).splitlines()[0]}). Save it as safetensors, or as'
      ' torch.save(model.state_dict(), FILE).'
    ) from error
  if not isinstance(content, Mapping) or not content:
    raise ConvertError(
      f'{path} holds a {type(content).__name__}, not a state dict of tensors.'
    )
  for name, value in content.items():
    if not isinstance(value, torch.Tensor) or not isinstance(name, str):
      raise ConvertError(
        f'{path}: entry {name!r} is a {type(value).__name__}, not a tensor.'
      )
  return Tensors(
    str(path),
    {name: tuple(value.shape) for name, value in content.items()},
    lambda name: content[name].detach().to(torch.float32).numpy(),
  )


def check(
  tensors: Tensors,
  wanted: Mapping[str, tuple[int, ...]],
  optional: frozenset[str] = frozenset(),
) -> None:
  """Compares names and shapes, and reports every difference on both sides.

  Args:
    tensors: what the file has.
    wanted: name -> shape that the model needs.
    optional: names that the file may have and the model ignores.

  Raises:
    ConvertError: listing what is missing, what is left over, and every shape
      that differs.
  """
  missing = sorted(wanted.keys() - tensors.shapes.keys())
  left = sorted(tensors.shapes.keys() - wanted.keys() - optional)
  differing = [
    f'{name}: file {tensors.shapes[name]}, model {tuple(shape)}'
    for name, shape in sorted(wanted.items())
    if name in tensors.shapes and tensors.shapes[name] != tuple(shape)
  ]
  if not (missing or left or differing):
    return
  parts = [f'{tensors.source} does not fit the model.']
  for title, names in (
    ('In the model but not in the file', missing),
    ('In the file but not in the model', left),
    ('Different shapes', differing),
  ):
    if names:
      parts.append(f'{title} ({len(names)}):\n    ' + '\n    '.join(names))
  raise ConvertError('\n  '.join(parts))
