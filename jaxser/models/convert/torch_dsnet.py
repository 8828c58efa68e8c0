"""Checkpoints of DSNet's authors: five PyTorch state dicts, E, C, T, T2 and D.

Encoder, classifier, irrelevant and relevant projection, decoder. Only `load`
needs PyTorch.
"""

import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.core.files import Path
from jaxser.models import convert
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


def shapes(system: DSNet) -> Tree:
  """Returns our tree with shapes for leaves."""
  if system.variant != 'dsnet':
    raise ConvertError(
      f'A checkpoint of DSNet does not fit variant {system.variant!r}; use '
      "variant 'dsnet'."
    )
  # A subclass may have batches of another shape, but the same parameters.
  return convert.shapes_of(DSNet(**system.settings()), 1, system.bins)


def load(path: Path, system: DSNet) -> list[tuple[Tree, Tree]]:
  """Returns [(params, state)] of an authors' checkpoint: it holds one model.

  Raises:
    ConvertError: PyTorch is missing, or the file is missing, damaged, holds
      anything but tensors, or does not fit the system.
  """
  tensors = tensors_lib.open_torch(path)
  return [convert.from_named(tensors, NAMING, shapes(system))]
