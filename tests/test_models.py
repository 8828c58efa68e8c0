"""Trained models: written whole, read back exactly, never mistaken."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import timnet
from jaxser.core.errors import UserError
from jaxser.models import pretrained, weights
from jaxser.models import saved as models
from jaxser.models.saved import Training
from jaxser.models.weights import ModelError
from tests import trained

TREE = {
  'head': {
    'kernel': jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    'bias': np.float32([0.1, -0.2, 3e-39]),
  },
  'steps': np.int32(7),
  'flag': np.array([True, False]),
  'none': np.zeros((0, 4), np.float32),
  'split': {},
}


@pytest.fixture(scope='module')
def run(tmp_path_factory, speech):
  folder = tmp_path_factory.mktemp('run')
  return trained.write_run(folder / 'W', 'emosphere', speech[:4])


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run.workdir, tmp_path / 'W')


def assert_same(found, wanted):
  def same(a, b):
    assert (a.dtype, a.shape) == (b.dtype, np.shape(b))
    assert a.tobytes() == np.asarray(b).tobytes()

  jax.tree.map(same, found, wanted)  # It compares the structure, too.


def test_every_type_shape_and_empty_mapping_comes_back(tmp_path):
  path = tmp_path / 'x.safetensors'
  weights.write(path, TREE, {'of': 'a test'})
  found, metadata = weights.read(path)
  assert_same(found, TREE)
  assert metadata['of'] == 'a test'
  library = safetensors.numpy.load_file(path)
  np.testing.assert_array_equal(library['steps'], TREE['steps'])
  np.testing.assert_array_equal(library['head/bias'], TREE['head']['bias'])
  first = path.read_bytes()
  weights.write(path, dict(reversed(TREE.items())), {'of': 'a test'})
  assert path.read_bytes() == first
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']


def test_any_damaged_byte_is_noticed(tmp_path):
  path = tmp_path / 'x'
  weights.write(path, {'a': np.arange(40, dtype=np.float32)}, {})
  data = path.read_bytes()
  for cut in (0, 5, 60, len(data) - 1):
    path.write_bytes(data[:cut])
    with pytest.raises(ModelError, match='is damaged or not a safetensors'):
      weights.read(path)
  flipped = bytearray(data)
  flipped[-3] ^= 1
  path.write_bytes(flipped)
  with pytest.raises(ModelError, match='not have the hash that it states'):
    weights.read(path)


def test_a_run_comes_back_without_its_corpus(run):
  description = models.open(run.workdir)
  assert description.system == run.system
  assert description.feature_spec == trained.SPECS['emosphere']
  assert description.classes == run.source.corpus.classes
  assert description.vad_range == [1.0, 7.0]
  assert description.max_length == run.source.max_length
  assert description.trainings == tuple(
    Training(0, fold, selection)
    for fold in (0, 1)
    for selection in ('best_on_dev', 'last')
  )
  for training, (params, state) in run.weights.items():
    found = models.load(run.workdir, *training)
    assert_same(found[0], params)
    assert_same(found[1], state)
  names = sorted(p.name for p in (run.workdir / 'models').iterdir())
  assert names[0] == 'seed0-fold00.best_on_dev.safetensors'


def edit(copy, parameters=(), **values):
  path = copy / 'model.json'
  content = json.loads(path.read_text()) | values
  content['features']['parameters'].update(parameters)
  if 'fingerprint' not in values:
    content['fingerprint'] = models.fingerprint(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'format': 'other'}, 'does not describe a model of this program'),
    ({'version': 9}, r'has version 9, this program reads 1; use jaxser'),
    ({'fingerprint': '00000000'}, 'was edited'),
    ({'system': 'os'}, "'os' is unknown"),
    ({'class': 'Array'}, "has no class 'Array'"),
    ({'settings': {'wings': 2}}, 'cannot be made with these settings'),
    ({'parameters': {'window': 'hann'}}, "there 'hann', here 'hamming'"),
  ],
)
def test_a_foreign_model_json_is_refused(copy, values, message):
  edit(copy, **values)
  name = 'feature_spec' if 'parameters' in values else 'system'
  with pytest.raises(ModelError, match=message):
    getattr(models.open(copy), name)


def test_missing_mixed_and_renamed_weights_are_refused(run, copy, tmp_path):
  with pytest.raises(ModelError, match='is no folder of a trained model'):
    models.open(tmp_path)
  (copy / 'model.json').write_text('{')
  with pytest.raises(UserError, match='is damaged'):
    models.open(copy)
  shutil.copy(run.workdir / 'model.json', copy)
  with pytest.raises(ModelError, match=r'seed 0 fold 1 last\. Choose one'):
    models.load(copy, 0, 7, 'last')
  path = models.path_of(copy, 0, 0, 'last')
  path.rename(models.path_of(copy, 3, 0, 'last'))
  with pytest.raises(ModelError, match='holds seed 0 fold 0 last; somebody'):
    models.load(copy, 3, 0, 'last')
  settings = json.loads((copy / 'model.json').read_text())['settings']
  edit(copy, settings=settings | {'width': 16})
  with pytest.raises(ModelError, match='belongs to another model'):
    models.load(copy, 0, 1, 'last')
  weights.write(path, {'params': {}, 'state': {}}, {'format': 'x'})
  with pytest.raises(ModelError, match=r'another model \(None\) than'):
    models.load(copy, 0, 0, 'last')


def test_default_selection_never_is_the_one_made_on_the_test_side(run, copy):
  description = models.open(run.workdir)
  assert description.choose() == [
    Training(0, 0, 'best_on_dev'),
    Training(0, 1, 'best_on_dev'),
  ]
  chosen = description.choose(folds=(1,), selection='last')
  assert chosen == [Training(0, 1, 'last')]
  for path in (copy / 'models').glob('*best_on_dev*'):
    path.rename(str(path).replace('best_on_dev', 'best_on_test'))
  assert models.open(copy).choose()[0].selection == 'last'
  for path in (copy / 'models').glob('*.last.*'):
    path.unlink()
  with pytest.raises(ModelError, match='ask for it with --selection=best_on_t'):
    models.open(copy).choose()
  shutil.rmtree(copy / 'models')
  with pytest.raises(ModelError, match='has not finished a fold yet'):
    models.open(copy).choose()


def write_folds(run, trained_on):
  ids = run.source.corpus.table.ids
  entries = [
    {'fold': f.number, 'train': ids[rows].tolist(), 'dev': [], 'test': []}
    for f, rows in zip(run.folds, trained_on, strict=True)
  ]
  path = run.workdir / 'folds.json'
  path.write_text(json.dumps({'folds': entries}))


def given(run, **config):
  """The weights of the folds with this config besides the run's own."""
  whole = run.config.copy_and_resolve_references()
  whole.update({'init_from': str(run.workdir), **config})
  return pretrained.for_folds(whole, run.system, run.source, run.folds)


def test_weights_of_a_run_go_to_the_same_folds_of_another(run):
  write_folds(run, [fold.train for fold in run.folds])
  found = given(run)
  for number in (0, 1):
    wanted = run.weights[0, number, 'best_on_dev']
    assert_same(found[number][0], wanted[0])
  write_folds(run, [fold.test for fold in run.folds])
  with pytest.raises(ModelError, match='fold 0 was trained on 2 of the 2 utt'):
    given(run)
  assert given(run, trust_init_from=True).keys() == {0, 1}
  (run.workdir / 'folds.json').unlink()
  with pytest.raises(ModelError, match='knows what the weights were trained'):
    given(run)


def test_weights_that_only_the_user_vouches_for_stay_marked(run, copy):
  """Also in the next run that starts from them."""
  write_folds(run, [fold.train for fold in run.folds])
  shutil.copy(run.workdir / 'folds.json', copy)
  edit(copy, caveats=[models.CAVEAT])
  with pytest.raises(ModelError, match='tested utterances may have been tra'):
    given(run, init_from=str(copy))
  assert given(run, init_from=str(copy), trust_init_from=True)


@pytest.mark.parametrize(
  ('changes', 'models_given', 'message'),
  [
    ({}, 10, ''),
    ({'protocol': 'speaker_independent'}, 10, 'protocol=speaker_independent i'),
    ({'fold_seed': 1}, 10, '--config.fold_seed=1 instead of 46'),
    ({'num_folds': 6}, 10, '--config.num_folds=6 instead of 10'),
    ({'folds': 'folds.json'}, 10, "--config.folds=folds.json instead of ''"),
    ({}, 1, '1 models instead of 10'),
    ({'published_folds': {}}, 10, 'this recipe knows no folds that it was pub'),
  ],
)
def test_weights_of_others_go_only_with_the_folds_they_were_published_for(
  run, monkeypatch, changes, models_given, message
):
  config = timnet.get_config('corpus=emodb,protocol=published')
  for name, value in changes.items():
    config[name] = value
  config.init_from = 'EMODB_46.zip'
  loaded = [(f'params {n}', {}) for n in range(models_given)]
  monkeypatch.setattr(pretrained.convert, 'load', lambda *_: loaded)
  if message:
    with pytest.raises(pretrained.ConfigError, match=message):
      pretrained.for_folds(config, run.system, run.source, run.folds)
    config.trust_init_from = True
  found = pretrained.for_folds(config, run.system, run.source, run.folds)
  assert [found[n][0] for n in (0, 1)] == [
    'params 0',
    f'params {min(1, models_given - 1)}',
  ]
  results = {'paper': {'init_from': {'uar': 95.17}}}
  pretrained.mark_trusted(results, config)
  assert results['trust_init_from'] is bool(message)
  assert bool(results['paper']) is not bool(message)
