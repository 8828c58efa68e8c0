"""Published weights of TIM-Net: layers by creation, zips, folders, damage."""

import dataclasses
import io
import pathlib
import zipfile

import h5py
import jax
import numpy as np
import pytest

from jaxser.core import tensors as tensors_lib
from jaxser.models import convert
from jaxser.models.convert import ConvertError, keras_timnet
from jaxser.systems.timnet import TimNet
from tests import shared

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
  """A weight file after `change(file)`."""
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
  batch = {
    'features': np.zeros((1, 4, 8), np.float32),
    'row': np.zeros(1, np.int32),
    'mask': np.ones(1, np.float32),
  }
  wanted = jax.eval_shape(lambda: SYSTEM.init(jax.random.key(0), batch))
  shapes = jax.tree.map(np.shape, (params, state))
  assert shapes == jax.tree.map(np.shape, wanted)


def test_a_zip_is_read_in_fold_order(tmp_path):
  folds = {number: make_tensors(seed=number) for number in range(1, 11)}
  names = [f'TOY/10-fold_weights_best_{n}.hdf5' for n in folds]
  members = [('TOY/', b''), ('TOY/notes.txt', b'not weights')]
  for name, tensors in sorted(zip(names, folds.values(), strict=True)):
    members.append((name, write_weights(tensors)))
  found = keras_timnet.load(zipped(tmp_path, members), SYSTEM)
  assert len(found) == 10
  for (params, _), tensors in zip(found, folds.values(), strict=True):
    np.testing.assert_array_equal(
      params['head']['kernel'], tensors['head.kernel']
    )


def test_names_of_a_zip_cannot_reach_other_files(tmp_path):
  inside = tmp_path / 'inside'
  inside.mkdir()
  data = write_weights(make_tensors())
  path = zipped(
    inside, [('../escaped_1.hdf5', data), ('/tmp/absolute_2.hdf5', data)]
  )
  before = sorted(tmp_path.rglob('*'))
  assert len(keras_timnet.load(path, SYSTEM)) == 2
  assert sorted(tmp_path.rglob('*')) == before
  assert not pathlib.Path('/tmp/absolute_2.hdf5').exists()


def change(name, value=None):
  """Makes a file in which a tensor or layer has another value, or is absent."""

  def apply(file):
    del file[name]
    if value is not None:
      file[name] = value

  return lambda: edited(apply)


def larger(**changes):
  system = dataclasses.replace(SYSTEM, **changes)
  return lambda: write_weights(make_tensors(system))


KERNEL = 'conv1d_36/conv1d_36/kernel:0'
BIAS = 'dense_1/dense_1/bias:0'
LINK = h5py.ExternalLink('/etc/other.hdf5', '/secret')
BAD_FILES = [
  (lambda: b'RIFF' + bytes(99), 'is not an HDF5 file'),
  (lambda: b'', 'is not an HDF5 file'),
  (lambda: larger()()[:4000], 'is not an HDF5 file or is damaged'),
  (
    lambda: edited(lambda f: f.attrs.__delitem__('layer_names')),
    'has no attribute layer_names',
  ),
  (change('conv1d_36'), 'names layer conv1d_36 but does not hold it'),
  (change(BIAS), f'{BIAS} is missing'),
  (
    change(KERNEL, np.zeros((3, 5, 5))),
    r'block0\.forward\.conv1\.kernel: file \(3, 5, 5\), model \(2, 5, 5\)',
  ),
  (change(BIAS, 'abc'), 'is not an array of floats'),
  (change(BIAS, np.full(3, np.nan)), 'head.bias holds NaN or infinity'),
  (change(BIAS, LINK), 'is not an array of floats in the file'),
  (
    larger(num_blocks=3),
    'has 14 conv1d layers, TIM-Net with 2 blocks has 10; set '
    r'config\.model\.num_blocks',
  ),
  (larger(num_classes=6), r'head\.kernel: file \(5, 6\), model \(5, 3\)'),
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


def test_an_unpacked_folder_is_read_like_its_zip(tmp_path):
  (tmp_path / 'TOY').mkdir()
  for number in (2, 1):
    data = write_weights(make_tensors(seed=number))
    (tmp_path / 'TOY' / f'10-fold_weights_best_{number}.hdf5').write_bytes(data)
  (tmp_path / 'TOY' / '._10-fold_weights_best_1.hdf5').write_bytes(b'Mac')
  assert convert.is_authors_folder(SYSTEM, tmp_path)
  assert not convert.is_authors_folder(SYSTEM, tmp_path / 'none')
  found = convert.load(SYSTEM, tmp_path)
  for number, (params, _) in zip((1, 2), found, strict=True):
    np.testing.assert_array_equal(
      params['head']['kernel'], make_tensors(seed=number)['head.kernel']
    )


def test_ablations_and_absent_files(tmp_path):
  path = tmp_path / 'absent.zip'
  with pytest.raises(ConvertError, match=r'absent\.zip: no such file'):
    keras_timnet.load(path, SYSTEM)
  system = TimNet(num_classes=3, ablation='tcn')
  with pytest.raises(ConvertError, match='do not go with ablation=tcn'):
    keras_timnet.load(path, system)


def test_published_weights():
  path = shared.require('weights/timnet/EMODB_46.zip')
  folds = keras_timnet.load(path, TimNet(num_classes=7))
  assert len(folds) == 10
  for params, state in folds:
    assert sum(x.size for x in jax.tree.leaves(params)) == 104_496
    assert sum(x.size for x in jax.tree.leaves(state)) == 2_496
    variances = [
      norm['var']
      for block in state['batch_stats'].values()
      for norm in block.values()
    ]
    assert len(variances) == 32
    assert min(v.min() for v in variances) > 0
  heads = {np.asarray(p['head']['kernel']).tobytes() for p, _ in folds}
  assert len(heads) == 10
  with zipfile.ZipFile(path) as archive:
    data = archive.read('EMODB_46/10-fold_weights_best_2.hdf5')
  with h5py.File(io.BytesIO(data)) as file:
    number = min(
      int(name.partition('_')[2]) for name in file if name.startswith('conv1d_')
    )
    second = file[f'conv1d_{number + 2}/conv1d_{number + 2}/kernel:0']
    np.testing.assert_array_equal(
      folds[1][0]['block0_forward']['conv1']['kernel'], second
    )
  for other, message in (
    (TimNet(num_classes=4), r'head\.bias: file \(7,\), model \(4,\)'),
    (TimNet(num_classes=7, num_blocks=10), 'TIM-Net with 10 blocks has 42'),
  ):
    with pytest.raises(ConvertError, match=message):
      keras_timnet.load(path, other)
