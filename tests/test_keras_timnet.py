"""Published weights of TIM-Net: layers by creation, zips, folders, damage."""

import dataclasses
import io
import pathlib
import zipfile

import h5py
import numpy as np
import pytest

from jaxser.core import tensors as tensors_lib
from jaxser.models import convert
from jaxser.models.convert import ConvertError, keras_timnet
from jaxser.systems.timnet import TimNet

SYSTEM = TimNet(num_classes=3, filters=5, num_coefficients=5, num_blocks=2)


def created(name):
  """Orders names as Keras creates their layers: forward first."""
  place, _, leaf = name.rpartition('.')
  first = 'sbfh'.index(place[0])
  return first, place.replace('forward', 'a'), leaf


def make_tensors(system=SYSTEM, seed=0):
  rng = np.random.default_rng(seed)
  shapes = tensors_lib.expected(
    keras_timnet.NAMING, keras_timnet.shapes(system)
  )
  return {
    name: rng.standard_normal(shapes[name]).astype(np.float32)
    for name in sorted(shapes, key=created)
  }


def write_weights(tensors, first=(34, 32, 1, 1)):
  """The bytes of a file laid out as the authors' Keras wrote them.

  Args:
    tensors: by our names, in order of creation.
    first: number of the first convolution, BatchNorm, fusion and head.
  """
  kinds = ('conv1d', 'batch_normalization', 'weight_layer', 'dense')
  numbers = dict(zip(kinds, first, strict=True))
  of_part = {'norm': kinds[1], 'fusion': kinds[2], 'head': kinds[3]}
  layers = {}
  for name in tensors:
    place = name.rpartition('.')[0]
    if place not in layers:
      kind = of_part.get(place.split('.')[-1].rstrip('12'), 'conv1d')
      # Keras leaves out the number of the first layer of a process.
      layers[place] = f'{kind}_{numbers[kind]}'.removesuffix('_0')
      numbers[kind] += 1
  # Keras lists layers by depth; any order will do that is not of creation.
  order = sorted(layers, key=lambda place: layers[place][::-1])
  data = io.BytesIO()
  with h5py.File(data, 'w') as file:
    file.attrs['backend'] = b'tensorflow'
    listed = [b'input_2', *(layers[p].encode() for p in order), b'lambda_7']
    file.attrs['layer_names'] = listed
    for empty in ('input_2', 'lambda_7'):
      file.create_group(empty).attrs['weight_names'] = []
    for place in order:
      group = file.create_group(layers[place])
      leaves = [n for n in tensors if n.rpartition('.')[0] == place]
      weights = [f'{layers[place]}/{n.split(".")[-1]}:0' for n in leaves]
      group.attrs['weight_names'] = [w.encode() for w in weights]
      for weight, name in zip(weights, leaves, strict=True):
        group[weight] = tensors[name]
  return data.getvalue()


def edited(change):
  data = io.BytesIO(write_weights(make_tensors()))
  with h5py.File(data, 'r+') as file:
    change(file)
  return data.getvalue()


def saved(tmp_path, data, name='weights.hdf5'):
  path = tmp_path / name
  path.write_bytes(data)
  return path


def zipped(tmp_path, members):
  path = tmp_path / 'weights.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, data in members:
      archive.writestr(name, data)
  return path


@pytest.mark.parametrize(
  'first',
  # A later fold; numbers that sort differently as text; a fresh process.
  [(34, 32, 1, 1), (98, 95, 10, 10), (0, 0, 0, 0)],
)
def test_layers_are_matched_by_the_order_of_creation(tmp_path, first):
  tensors = make_tensors()
  path = saved(tmp_path, write_weights(tensors, first))
  [(params, state)] = keras_timnet.load(path, SYSTEM)
  found = convert.to_named(keras_timnet.NAMING, params, state)
  assert found.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_zip_and_a_folder_are_read_in_fold_order(tmp_path):
  """No name in a zip reaches another file."""
  kernels, members = [], [('TOY/', b''), ('TOY/notes.txt', b'not weights')]
  for number in range(1, 11):
    tensors = make_tensors(seed=number)
    kernels.append(tensors['head.kernel'])
    place = '../' if number == 2 else 'TOY/'
    name = f'{place}10-fold_weights_best_{number}.hdf5'
    members.append((name, write_weights(tensors)))
  packed = tmp_path / 'packed'
  packed.mkdir()
  path = zipped(packed, sorted(members))
  folder = tmp_path / 'unpacked' / 'TOY'
  folder.mkdir(parents=True)
  for name, data in members[2:]:
    saved(folder, data, pathlib.PurePath(name).name)
  saved(folder, b'Mac', '._10-fold_weights_best_1.hdf5')
  for place in (path, folder.parent):
    found = convert.load(SYSTEM, place)
    for (params, _), kernel in zip(found, kernels, strict=True):
      np.testing.assert_array_equal(params['head']['kernel'], kernel)
  assert sorted(tmp_path.iterdir()) == [packed, folder.parent]
  assert convert.is_authors_folder(SYSTEM, folder.parent)
  assert not convert.is_authors_folder(SYSTEM, tmp_path / 'none')


def change(name, value=None):
  """A file in which a tensor or layer has another value, or is absent."""

  def apply(file):
    del file[name]
    if value is not None:
      file[name] = value

  return edited(apply)


def other(**changes):
  return write_weights(make_tensors(dataclasses.replace(SYSTEM, **changes)))


KERNEL = 'conv1d_36/conv1d_36/kernel:0'
BIAS = 'dense_1/dense_1/bias:0'
LINK = h5py.ExternalLink('/etc/other.hdf5', '/secret')
BLOCKS = (
  'has 14 conv1d layers, TIM-Net with 2 blocks has 10; set '
  r'config\.model\.num_blocks'
)
SHAPES = r'block0\.forward\.conv1\.kernel: file \(3, 5, 5\), model \(2, 5, 5\)'
BAD_FILES = [
  (lambda: b'RIFF' + bytes(99), 'is not an HDF5 file'),
  (lambda: b'', 'is not an HDF5 file'),
  (lambda: other()[:4000], 'is not an HDF5 file or is damaged'),
  (
    lambda: edited(lambda f: f.attrs.__delitem__('layer_names')),
    'has no attribute layer_names',
  ),
  (lambda: change('conv1d_36'), 'names layer conv1d_36 but does not hold it'),
  (lambda: change(BIAS), f'{BIAS} is missing'),
  (lambda: change(KERNEL, np.zeros((3, 5, 5))), SHAPES),
  (lambda: change(BIAS, 'abc'), 'is not an array of floats'),
  (lambda: change(BIAS, np.full(3, np.nan)), 'head.bias holds NaN or infinity'),
  (lambda: change(BIAS, LINK), 'is not an array of floats in the file'),
  (lambda: other(num_blocks=3), BLOCKS),
  (
    lambda: other(num_classes=6),
    r'head\.kernel: file \(5, 6\), model \(5, 3\)',
  ),
]


@pytest.mark.parametrize(('make', 'message'), BAD_FILES)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, make, message):
  path = saved(tmp_path, make())
  with pytest.raises(ConvertError, match=message) as error:
    keras_timnet.load(path, SYSTEM)
  assert str(path) in str(error.value)


def test_bad_zips(tmp_path):
  data = write_weights(make_tensors())
  for members, message in (
    ([('a_1.hdf5', data), ('a_2.hdf5', b'nothing')], 'zip, a_2.hdf5 is not an'),
    ([('readme.txt', b'hello')], r'of folds \[\]'),
    ([('a_1.hdf5', data), ('a_3.hdf5', data)], r'of folds \[1, 3\]'),
    ([('a_1.hdf5', data), ('b_1.hdf5', data)], 'holds fold 1 twice: a_1'),
    ([('a_1.hdf5', bytes(65 * 2**20))], 'has 68157440 bytes unpacked'),
  ):
    with pytest.raises(ConvertError, match=message):
      keras_timnet.load(zipped(tmp_path, members), SYSTEM)
  whole = zipped(tmp_path, [('a_1.hdf5', data)]).read_bytes()
  for damaged in (whole[:200] + bytes(200) + whole[400:], whole[:-400]):
    path = saved(tmp_path, damaged)
    with pytest.raises(ConvertError, match='truncated, damaged or encrypted z'):
      keras_timnet.load(path, SYSTEM)


def test_ablations_and_absent_files(tmp_path):
  path = tmp_path / 'absent.zip'
  with pytest.raises(ConvertError, match=r'absent\.zip: no such file'):
    keras_timnet.load(path, SYSTEM)
  system = TimNet(num_classes=3, ablation='tcn')
  with pytest.raises(ConvertError, match='do not go with ablation=tcn'):
    keras_timnet.load(path, system)
