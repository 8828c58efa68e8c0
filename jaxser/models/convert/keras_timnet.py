"""Published TIM-Net weights: Keras HDF5 files, one per fold, often in a zip.

Layer numbers go on from fold to fold, so layers are matched by the order in
which they were created: sorted by number, convolutions are forward stem,
backward stem, then per block forward 1, forward 2, backward 1, backward 2;
BatchNorms likewise without the stems. Kernels are [width, in, out] with the
older sample first, as here.
"""

import io
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable

import h5py
import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.core.files import Path
from jaxser.models import convert
from jaxser.systems.base import Tree
from jaxser.systems.timnet import DIRECTIONS, TimNet

NAMING = tensors_lib.Naming(
  rules=(
    ('^(params|batch_stats)/', ''),
    ('^(stem|block[0-9]+)_', r'\1.'),
    ('/scale$', '/gamma'),
    ('(/norm[12])/bias$', r'\1/beta'),
    ('/mean$', '/moving_mean'),
    ('/var$', '/moving_variance'),
    ('^fusion$', 'fusion/kernel'),
  ),
  axes={'^fusion': np.s_[:, None]},
  transposed=False,
)
"""Our paths -> names such as 'block0.forward.norm1.gamma'."""

_FOLD = re.compile(r'_(\d+)\.(?:hdf5|h5)$')
# A published file has 0.5 MB; far more is not one, and a zip may lie about it.
_MAX_BYTES = 64 * 2**20


def shapes(system: TimNet) -> Tree:
  """Returns our tree with shapes for leaves."""
  return convert.shapes_of(system, 2, system.num_coefficients)


def load(path: Path, system: TimNet) -> list[tuple[Tree, Tree]]:
  """Reads a weight file, or a zip or folder of one per fold, in fold order.

  Raises:
    ConvertError: if the file is missing, is neither, or does not fit.
  """
  if system.ablation != 'none':
    raise ConvertError(
      f'{path}: published weights are of the whole network; they do not go with '
      f'ablation={system.ablation}.'
    )
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    files = sorted(p for p in path.rglob('*') if p.is_file())
    return _read_folds(
      path, ((p.name, p.stat().st_size, p.read_bytes) for p in files), system
    )
  if not path.is_file():
    raise ConvertError(f'{path}: no such file; check --config.init_from.')
  with path.open('rb') as file:
    is_zip = file.read(2) == b'PK'
  if not is_zip:
    return [_read(path.read_bytes(), system, str(path))]
  try:
    # Members are read into memory; nothing is unpacked, so no name can escape.
    with zipfile.ZipFile(path) as archive:
      members = (
        (m.filename, m.file_size, lambda m=m: archive.read(m))
        for m in archive.infolist()
      )
      return _read_folds(path, members, system)
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    # RuntimeError is what zipfile raises for a member with a password.
    raise ConvertError(
      f'{path} is a truncated, damaged or encrypted zip file ({error}); fetch it '
      'again.'
    ) from error


def _read_folds(
  path: pathlib.Path,
  members: Iterable[tuple[str, int, Callable[[], bytes]]],
  system: TimNet,
) -> list[tuple[Tree, Tree]]:
  """Reads those of the (name, bytes, read) that are weights of a fold."""
  folds: dict[int, tuple[str, Callable[[], bytes]]] = {}
  for name, size, read in members:
    fold = _FOLD.search(name)
    if fold is None or name.rpartition('/')[2].startswith('.'):
      continue
    number = int(fold[1])
    if number in folds:
      raise ConvertError(
        f'{path} holds fold {number} twice: {folds[number][0]} and {name}.'
      )
    if size > _MAX_BYTES:
      raise ConvertError(
        f'{path}: {name} has {size} bytes unpacked; no TIM-Net weight file is '
        'as large.'
      )
    folds[number] = name, read
  if not folds or sorted(folds) != [*range(1, len(folds) + 1)]:
    raise ConvertError(
      f'{path} holds weight files of folds {sorted(folds)}; expected '
      '..._1.hdf5, ..._2.hdf5 and so on without a gap.'
    )
  return [
    _read(read(), system, f'{path}, {name}')
    for _, (name, read) in sorted(folds.items())
  ]


def _read(data: bytes, system: TimNet, source: str) -> tuple[Tree, Tree]:
  """Reads one weight file."""
  try:
    with h5py.File(io.BytesIO(data), 'r') as file:
      layers = _layers(file, source)
  except (OSError, RuntimeError) as error:
    raise ConvertError(
      f'{source} is not an HDF5 file or is damaged ({error}).'
    ) from error
  blocks = [
    (f'block{block}.{direction}', number)
    for block in range(system.num_blocks)
    for direction in DIRECTIONS
    for number in (1, 2)
  ]
  stems = [f'stem.{direction}' for direction in DIRECTIONS]
  places = {
    'conv1d': stems + [f'{block}.conv{number}' for block, number in blocks],
    'batch_normalization': [f'{block}.norm{n}' for block, n in blocks],
    'weight_layer': ['fusion'],
    'dense': ['head'],
  }
  tensors = {}
  for kind, wanted in places.items():
    found = layers.get(kind, [])
    if len(found) != len(wanted):
      raise ConvertError(
        f'{source} has {len(found)} {kind} layers, TIM-Net with '
        f'{system.num_blocks} blocks has {len(wanted)}; set '
        'config.model.num_blocks to what the file was trained with.'
      )
    for place, weights in zip(wanted, found, strict=True):
      tensors |= {f'{place}.{leaf}': value for leaf, value in weights.items()}
  return convert.from_named(
    tensors_lib.from_arrays(tensors, source),
    NAMING,
    shapes(system),
    'Set config.model to what the file holds, or choose the corpus that it was '
    'trained on.',
  )


def _layers(
  file: h5py.File, source: str
) -> dict[str, list[dict[str, np.ndarray]]]:
  """Returns kind -> its layers with weights, in order of creation."""
  if 'layer_names' not in file.attrs:
    raise ConvertError(
      f'{source} has no attribute layer_names, so it is not a weight file of '
      'Keras.'
    )
  found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
  for layer in map(_text, file.attrs['layer_names']):
    kind, _, number = layer.rpartition('_')
    if not number.isdigit():
      kind, number = layer, '0'
    group = file.get(layer)
    if not isinstance(group, h5py.Group):
      raise ConvertError(f'{source} names layer {layer} but does not hold it.')
    weights = {
      name.rsplit('/', 1)[-1].partition(':')[0]: _values(group, name, source)
      for name in map(_text, group.attrs.get('weight_names', ()))
    }
    if weights:
      found.setdefault(kind, {})[int(number)] = weights
  return {
    kind: [layers[number] for number in sorted(layers)]
    for kind, layers in found.items()
  }


def _values(group: h5py.Group, name: str, source: str) -> np.ndarray:
  """Returns a tensor, if it is a plain one that lies in the file itself."""
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
  return np.asarray(dataset, np.float32)


def _text(name: bytes | str) -> str:
  return name.decode() if isinstance(name, bytes) else str(name)
