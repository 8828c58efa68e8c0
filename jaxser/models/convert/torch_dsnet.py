"""Checkpoints of DSNet's authors: five PyTorch state dicts, E, C, T, T2 and D.

`load` reads a `torch.save` file without executing it (`weights_only=True`). The
table of names and both directions of the conversion need no PyTorch.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core.errors import ConvertError
from jaxser.models.convert.tensors import check, from_arrays
from jaxser.systems.base import Tree
from jaxser.systems.dsnet import DSNet

PARTS = ('E', 'C', 'T', 'T2', 'D')
"""Encoder, classifier, irrelevant and relevant projection, decoder."""

_IGNORED = 'num_batches_tracked'
_STATISTICS = 'batch_stats'


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor on both sides.

  Attributes:
    name: PyTorch's, with the part in front: 'E.layer1.bn0.weight'.
    path: keys in our tree, the collection first: ('params', 'encoder', ...).
    kind: 'same', 'linear' (transposed), 'conv1d' (one tap, transposed) or
      'conv2d' (OIHW to HWIO).
  """

  name: str
  path: tuple[str, ...]
  kind: str = 'same'

  def to_jax(self, value: np.ndarray) -> np.ndarray:
    """PyTorch's layout to ours."""
    if self.kind == 'linear':
      return value.T
    if self.kind == 'conv1d':
      return value[:, :, 0].T
    if self.kind == 'conv2d':
      return value.transpose(2, 3, 1, 0)
    return value

  def to_torch(self, value: np.ndarray) -> np.ndarray:
    """Our layout to PyTorch's."""
    if self.kind == 'linear':
      return value.T
    if self.kind == 'conv1d':
      return value.T[:, :, None]
    if self.kind == 'conv2d':
      return value.transpose(3, 2, 0, 1)
    return value

  def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """PyTorch's shape of our tensor of this shape."""
    return self.to_torch(np.empty(shape, np.int8)).shape


def _norm(name: str, *path: str) -> list[Entry]:
  return [
    Entry(f'{name}.weight', ('params', *path, 'scale')),
    Entry(f'{name}.bias', ('params', *path, 'bias')),
    Entry(f'{name}.running_mean', (_STATISTICS, *path, 'mean')),
    Entry(f'{name}.running_var', (_STATISTICS, *path, 'var')),
  ]


def _linear(name: str, *path: str, kind: str = 'linear') -> list[Entry]:
  return [
    Entry(f'{name}.weight', ('params', *path, 'kernel'), kind),
    Entry(f'{name}.bias', ('params', *path, 'bias')),
  ]


def table(stages: int = 4) -> list[Entry]:
  """Every tensor of a checkpoint whose encoder has so many stages."""
  entries = _norm('E.layer1.bn0', 'encoder', 'bn0')
  for i in range(1, stages + 1):
    block, stage = f'E.layer1.conv_block{i}', f'stage{i}'
    entries.append(
      Entry(
        f'{block}.conv1.weight', ('params', 'encoder', stage, 'conv'), 'conv2d'
      )
    )
    entries += _norm(f'{block}.bn1', 'encoder', stage, 'bn')
  for part in ('att', 'cla'):
    entries += _linear(
      f'E.layer2.{part}', 'encoder', 'attention', part, kind='conv1d'
    )
  entries += _norm('E.layer2.bn_att', 'encoder', 'attention', 'bn_att')
  entries += _linear('C.fc1', 'classifier', 'fc1')
  entries.append(
    Entry('C.activation.weight', ('params', 'classifier', 'prelu'))
  )
  entries += _norm('C.bn', 'classifier', 'bn')
  entries += _linear('C.fc2', 'classifier', 'fc2')
  for part, ours in (('T', 'irrelevant'), ('T2', 'relevant')):
    for layer in ('layer1', 'layer2'):
      for theirs, name in (
        ('attention.0', 'gate1'),
        ('attention.2', 'gate2'),
        ('fc.0', 'fc'),
      ):
        entries += _linear(f'{part}.{layer}.{theirs}', ours, layer, name)
  entries += _linear('D.linear.0', 'decoder', 'linear1')
  entries += _linear('D.linear.2', 'decoder', 'linear2')
  return entries


def _lookup(tree: Tree, path: tuple[str, ...]):
  for key in path:
    tree = tree[key]
  return tree


def _expected(system: DSNet) -> Tree:
  """Our tree with shapes for leaves."""
  if system.variant != 'dsnet':
    raise ConvertError(
      f'A checkpoint of DSNet does not fit variant {system.variant!r}; use '
      "variant 'dsnet'."
    )
  batch = {
    'features': jnp.zeros((1, 1, system.bins)),
    'length': jnp.ones(1, jnp.int32),
  }
  params, state = jax.eval_shape(system.init, jax.random.key(0), batch)
  return {'params': params, **state}


def from_torch(
  arrays: Mapping[str, np.ndarray],
  system: DSNet,
  source: str = 'the given arrays',
) -> tuple[Tree, Tree]:
  """Named PyTorch tensors to (params, state) of `system`.

  Args:
    arrays: name ('E.layer1.bn0.weight') -> array in PyTorch's layout;
      'num_batches_tracked' counters are ignored.
    system: DSNet with the checkpoint's sizes and classes.
    source: where they come from, for messages.

  Raises:
    ConvertError: names or shapes differ, naming all of them on both sides, or a
      tensor is not finite.
  """
  tensors = from_arrays(
    {
      name: value
      for name, value in arrays.items()
      if not name.endswith(_IGNORED)
    },
    source,
  )
  expected, entries = _expected(system), table(len(system.channels))
  check(
    tensors,
    {
      entry.name: entry.torch_shape(_lookup(expected, entry.path).shape)
      for entry in entries
    },
  )
  tree: dict = {'params': {}, _STATISTICS: {}}
  for entry in entries:
    value = tensors[entry.name]
    if not np.all(np.isfinite(value)):
      raise ConvertError(
        f'{source}: {entry.name} holds NaN or infinity; the training that wrote '
        'it had diverged.'
      )
    place = tree
    for key in entry.path[:-1]:
      place = place.setdefault(key, {})
    place[entry.path[-1]] = jnp.asarray(entry.to_jax(value))
  return tree['params'], {_STATISTICS: tree[_STATISTICS]}


def to_torch(params: Tree, state: Tree, system: DSNet) -> dict[str, np.ndarray]:
  """The inverse of `from_torch`: name -> float32 array in PyTorch's layout."""
  _expected(system)
  tree = {'params': params, **state}
  return {
    entry.name: np.ascontiguousarray(
      entry.to_torch(np.asarray(_lookup(tree, entry.path)))
    )
    for entry in table(len(system.channels))
  }


def read(path: os.PathLike[str] | str) -> dict[str, np.ndarray]:
  """Tensors of an authors' checkpoint by name, read without executing it.

  Raises:
    ConvertError: PyTorch is missing, or the file is missing, damaged, or does
      not hold the five state dicts.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ConvertError(f'{path} does not exist.')
  try:
    import torch
  except ModuleNotFoundError as error:
    raise ConvertError(
      f'{path} is a PyTorch file; reading it needs PyTorch (a CPU build '
      "suffices): pip install 'jaxser[parity]'"
    ) from error
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # PyTorch promises no narrower type.
    raise ConvertError(
      f'{path} is not a checkpoint that can be read without running code '
      f'({str(error).splitlines()[0]}). Save the state dicts alone, as '
      "torch.save({'E': E.state_dict(), ...}, FILE)."
    ) from error
  if not isinstance(content, Mapping) or set(content) != set(PARTS):
    found = (
      ', '.join(sorted(map(str, content)))
      if isinstance(content, Mapping)
      else f'a {type(content).__name__}'
    )
    raise ConvertError(
      f'{path} must hold the five state dicts {", ".join(PARTS)}; it holds '
      f'{found}.'
    )
  arrays = {}
  for part in PARTS:
    for name, value in content[part].items():
      if not isinstance(value, torch.Tensor):
        raise ConvertError(
          f'{path}: {part}.{name} is a {type(value).__name__}, not a tensor.'
        )
      arrays[f'{part}.{name}'] = value.detach().to(torch.float32).numpy()
  return arrays


def load(
  path: os.PathLike[str] | str, system: DSNet
) -> list[tuple[Tree, Tree]]:
  """[(params, state)] of an authors' checkpoint, which holds one model.

  Raises:
    ConvertError: see `read` and `from_torch`.
  """
  return [from_torch(read(path), system, str(path))]
