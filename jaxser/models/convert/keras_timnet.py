"""Published TIM-Net weights: Keras HDF5 files, one per fold, often in a zip.

Layer numbers go on from fold to fold, so layers are matched by the order in
which they were created: sorted by number, convolutions are forward stem,
backward stem, then per block forward 1, forward 2, backward 1, backward 2;
BatchNorms likewise without the stems. Kernels are [width, in, out] with the
older sample first, as here.
"""

import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

from jaxser.core.errors import ConvertError
from jaxser.systems.timnet import DIRECTIONS, TimNet

Tree = Any
_FOLD = re.compile(r'_(\d+)\.(?:hdf5|h5)$')
# Our leaf -> theirs.
_NORM = {
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}
# A published file has 0.5 MB; far more is not one, and a zip may lie about it.
_MAX_BYTES = 64 * 2**20


def names(system: TimNet) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
  """Our name for every tensor -> (path in the tree, shape here).

  Paths start with 'params' or 'batch_stats'. Order: that of creation.
  """
  width, inputs = system.filters, system.num_coefficients
  found = {}

  def convolution(name, path, size, channels):
    shapes = {'kernel': (size, channels, width), 'bias': (width,)}
    for leaf, shape in shapes.items():
      found[f'{name}.{leaf}'] = (('params', *path, leaf), shape)

  for direction in DIRECTIONS:
    convolution(f'stem.{direction}', (f'stem_{direction}',), 1, inputs)
  for block in range(system.num_blocks):
    for direction in DIRECTIONS:
      for number in (1, 2):
        convolution(
          f'block{block}.{direction}.conv{number}',
          (f'block{block}_{direction}', f'conv{number}'),
          system.kernel_size,
          width,
        )
        for leaf, theirs in _NORM.items():
          root = 'batch_stats' if leaf in ('mean', 'var') else 'params'
          path = (root, f'block{block}_{direction}', f'norm{number}', leaf)
          name = f'block{block}.{direction}.norm{number}.{theirs}'
          found[name] = (path, (width,))
  found['fusion.kernel'] = (('params', 'fusion'), (system.num_blocks, 1))
  classes = system.num_classes
  found['head.kernel'] = (('params', 'head', 'kernel'), (width, classes))
  found['head.bias'] = (('params', 'head', 'bias'), (classes,))
  return found


def from_named(
  tensors: Mapping[str, np.ndarray],
  system: TimNet,
  source: str = 'the given tensors',
) -> tuple[Tree, Tree]:
  """(params, state) of tensors under the names of `names`.

  Raises:
    ConvertError: listing what is missing, unknown, or of another shape.
  """
  wanted = names(system)
  wrong = [
    f'{name}: here {wanted[name][1] if name in wanted else "absent"}, there '
    f'{np.shape(tensors[name]) if name in tensors else "absent"}'
    for name in sorted(wanted.keys() | tensors.keys())
    if name not in wanted
    or name not in tensors
    or np.shape(tensors[name]) != wanted[name][1]
  ]
  if wrong:
    more = f'; and {len(wrong) - 8} more' if len(wrong) > 8 else ''
    raise ConvertError(
      f'{source} does not fit TIM-Net with {system.num_blocks} blocks of '
      f'{system.filters} filters and {system.num_classes} classes: '
      f'{"; ".join(wrong[:8])}{more}. Set config.model to what the file holds, '
      'or choose the corpus that it was trained on.'
    )
  trees: dict[str, Any] = {'params': {}, 'batch_stats': {}}
  for name, (path, _) in wanted.items():
    node = trees
    for part in path[:-1]:
      node = node.setdefault(part, {})
    value = jnp.asarray(tensors[name], jnp.float32)
    node[path[-1]] = value[:, 0] if name == 'fusion.kernel' else value
  return trees['params'], {'batch_stats': trees['batch_stats']}


def to_named(params: Tree, state: Tree | None = None) -> dict[str, np.ndarray]:
  """The inverse of `from_named`; parameters only where there is no state."""
  blocks = {key.partition('_')[0] for key in params if key.startswith('block')}
  system = TimNet(
    num_classes=params['head']['bias'].shape[0],
    num_coefficients=params['stem_forward']['kernel'].shape[1],
    filters=params['stem_forward']['bias'].shape[0],
    kernel_size=params['block0_forward']['conv1']['kernel'].shape[0],
    num_blocks=len(blocks),
  )
  trees = {'params': params, **(state or {})}
  found = {}
  for name, (path, shape) in names(system).items():
    if path[0] in trees:
      node: Any = trees
      for part in path:
        node = node[part]
      found[name] = np.asarray(node).reshape(shape)
  return found


def load(
  path: os.PathLike[str] | str, system: TimNet
) -> list[tuple[Tree, Tree]]:
  """Reads a weight file, or a zip of one per fold, in fold order.

  Raises:
    ConvertError: if the file is missing, is neither, or does not fit.
  """
  if system.ablation != 'none':
    raise ConvertError(
      f'{path}: published weights are of the whole network; they do not go with '
      f'ablation={system.ablation}.'
    )
  path = pathlib.Path(path)
  if not path.is_file():
    raise ConvertError(f'{path}: no such file; check --config.init_from.')
  if not zipfile.is_zipfile(path):
    return [_read(path.read_bytes(), system, str(path))]
  try:
    return _read_archive(path, system)
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    # RuntimeError is what zipfile raises for a member with a password.
    raise ConvertError(
      f'{path} is a damaged or encrypted zip file ({error}); fetch it again.'
    ) from error


def _read_archive(
  path: pathlib.Path, system: TimNet
) -> list[tuple[Tree, Tree]]:
  """Reads members into memory; nothing is unpacked, so no name can escape."""
  with zipfile.ZipFile(path) as archive:
    members = {}
    for member in archive.infolist():
      fold = _FOLD.search(member.filename)
      if fold is None or member.is_dir():
        continue
      if int(fold[1]) in members:
        raise ConvertError(
          f'{path} holds fold {fold[1]} twice: {members[int(fold[1])].filename}'
          f' and {member.filename}.'
        )
      if member.file_size > _MAX_BYTES:
        raise ConvertError(
          f'{path}: {member.filename} has {member.file_size} bytes unpacked; no '
          'TIM-Net weight file is as large.'
        )
      members[int(fold[1])] = member
    if sorted(members) != list(range(1, len(members) + 1)) or not members:
      raise ConvertError(
        f'{path} holds weight files of folds {sorted(members)}; expected '
        '..._1.hdf5, ..._2.hdf5 and so on without a gap.'
      )
    return [
      _read(
        archive.read(members[fold]),
        system,
        f'{path}, {members[fold].filename}',
      )
      for fold in sorted(members)
    ]


def _read(data: bytes, system: TimNet, source: str) -> tuple[Tree, Tree]:
  """One weight file."""
  try:
    with h5py.File(io.BytesIO(data), 'r') as file:
      layers = _layers(file, source)
  except (OSError, RuntimeError) as error:
    raise ConvertError(
      f'{source} is not an HDF5 file or is damaged ({error}).'
    ) from error
  tensors = {}
  order = [
    f'block{block}.{direction}'
    for block in range(system.num_blocks)
    for direction in DIRECTIONS
  ]
  groups = {
    'conv1d': [f'stem.{direction}' for direction in DIRECTIONS]
    + [f'{place}.conv{number}' for place in order for number in (1, 2)],
    'batch_normalization': [
      f'{place}.norm{number}' for place in order for number in (1, 2)
    ],
    'weight_layer': ['fusion'],
    'dense': ['head'],
  }
  for kind, places in groups.items():
    found = layers.get(kind, [])
    if len(found) != len(places):
      raise ConvertError(
        f'{source} has {len(found)} {kind} layers, TIM-Net with '
        f'{system.num_blocks} blocks has {len(places)}; set '
        'config.model.num_blocks to what the file was trained with.'
      )
    for place, weights in zip(places, found, strict=True):
      tensors |= {f'{place}.{leaf}': value for leaf, value in weights.items()}
  return from_named(tensors, system, source)


def _layers(
  file: h5py.File, source: str
) -> dict[str, list[dict[str, np.ndarray]]]:
  """Kind of layer -> its layers with weights, in order of creation."""
  if 'layer_names' not in file.attrs:
    raise ConvertError(
      f'{source} has no attribute layer_names, so it is not a weight file of '
      'Keras.'
    )
  found: dict[str, list[tuple[int, dict[str, np.ndarray]]]] = {}
  for layer in map(_text, file.attrs['layer_names']):
    kind, _, number = layer.rpartition('_')
    if not number.isdigit():
      kind, number = layer, '0'
    group = file.get(layer)
    if not isinstance(group, h5py.Group):
      raise ConvertError(f'{source} names layer {layer} but does not hold it.')
    names = map(_text, group.attrs.get('weight_names', ()))
    weights = {
      name.rsplit('/', 1)[-1].partition(':')[0]: _values(group, name, source)
      for name in names
    }
    if weights:
      found.setdefault(kind, []).append((int(number), weights))
  return {
    kind: [weights for _, weights in sorted(layers, key=lambda x: x[0])]
    for kind, layers in found.items()
  }


def _values(group: h5py.Group, name: str, source: str) -> np.ndarray:
  """One tensor, if it is a plain one that lies in the file itself."""
  link = group.get(name, getlink=True)
  dataset = group.get(name) if isinstance(link, h5py.HardLink) else None
  if (
    not isinstance(dataset, h5py.Dataset)
    # Both would read other files of this machine.
    or dataset.external
    or dataset.is_virtual
    or dataset.dtype.kind != 'f'
    or dataset.nbytes > _MAX_BYTES
  ):
    raise ConvertError(
      f'{source}: {group.name}/{name} is missing or is not an array of floats '
      'in the file.'
    )
  values = np.asarray(dataset, np.float32)
  if not np.isfinite(values).all():
    raise ConvertError(f'{source}: {group.name}/{name} has NaN or infinity.')
  return values


def _text(name: bytes | str) -> str:
  return name.decode() if isinstance(name, bytes) else str(name)
