"""Checkpoints of DSNet's authors: five PyTorch state dicts, E, C, T, T2 and D.

Encoder, classifier, irrelevant and relevant projection, decoder. The naming and
both directions of the conversion need no PyTorch.
"""

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.systems.base import Tree
from jaxser.systems.dsnet import DSNet

PARTS = ('E', 'C', 'T', 'T2', 'D')

NAMING = tensors_lib.Naming(
  rules=(
    ('^(params|batch_stats)/', ''),
    ('^encoder/attention/', 'E.layer2/'),
    (r'^encoder/stage(\d+)/conv$', r'E.layer1.conv_block\1.conv1.weight'),
    (r'^encoder/stage(\d+)/bn/', r'E.layer1.conv_block\1.bn1/'),
    ('^encoder/', 'E.layer1/'),
    ('^classifier/prelu$', 'C.activation.weight'),
    ('^classifier/', 'C/'),
    ('^irrelevant/', 'T/'),
    ('^relevant/', 'T2/'),
    ('/gate1/', '/attention.0/'),
    ('/gate2/', '/attention.2/'),
    ('/fc/', '/fc.0/'),
    ('^decoder/linear1/', 'D.linear.0/'),
    ('^decoder/linear2/', 'D.linear.2/'),
    ('/(kernel|scale)$', '/weight'),
    ('/(mean|var)$', r'/running_\1'),
  ),
  axes={r'^E\.layer2\.(att|cla)\.weight$': np.s_[:, :, None]},
  ignored='num_batches_tracked$',
)


def expected_shapes(system: DSNet) -> dict[str, tuple[int, ...]]:
  """Returns name -> shape of every tensor in a checkpoint of the system."""
  return tensors_lib.expected(NAMING, _shapes(system))


def _shapes(system: DSNet) -> Tree:
  """Returns our tree with shapes for leaves."""
  if system.variant != 'dsnet':
    raise ConvertError(
      f'A checkpoint of DSNet does not fit variant {system.variant!r}; use '
      "variant 'dsnet'."
    )
  batch = {
    'features': jnp.zeros((1, 1, system.bins)),
    'length': jnp.ones(1, jnp.int32),
  }
  # A subclass may have batches of another shape, but the same parameters.
  plain = DSNet(**system.settings())
  params, state = jax.eval_shape(plain.init, jax.random.key(0), batch)
  return {'params': params, **state}


def from_torch(
  arrays: Mapping[str, np.ndarray],
  system: DSNet,
  source: str = 'the given arrays',
) -> tuple[Tree, Tree]:
  """Returns (params, state) of `system` from named PyTorch tensors.

  Args:
    arrays: name ('E.layer1.bn0.weight') -> array in PyTorch's layout.
    system: DSNet with the checkpoint's sizes and classes.
    source: where they come from, for messages.

  Raises:
    ConvertError: names or shapes differ, or a tensor is not finite.
  """
  if not isinstance(arrays, tensors_lib.Tensors):
    arrays = tensors_lib.from_arrays(arrays, source)
  tree = tensors_lib.convert(arrays, NAMING, _shapes(system))
  return tree.pop('params'), tree


def to_torch(params: Tree, state: Tree, system: DSNet) -> dict[str, np.ndarray]:
  """Returns name -> array in PyTorch's layout, the inverse of `from_torch`."""
  del system
  return tensors_lib.to_theirs(NAMING, {'params': params, **state})


def load(
  path: os.PathLike[str] | str, system: DSNet
) -> list[tuple[Tree, Tree]]:
  """Returns [(params, state)] of an authors' checkpoint: it holds one model.

  Raises:
    ConvertError: PyTorch is missing, or the file is missing, damaged, holds
      anything but tensors, or does not fit the system.
  """
  return [from_torch(tensors_lib.open_torch(path), system)]
