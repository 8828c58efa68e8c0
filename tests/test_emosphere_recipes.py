"""EmoSphere-SER from its recipe: settings, checks, the paper's rows, WavLM."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emosphere
from jaxser.data import pipeline
from jaxser.engine import train
from jaxser.models import predictor
from jaxser.models import saved as models
from jaxser.models.convert import ConvertError
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm_config import SIZES
from jaxser.systems import registry
from jaxser.systems.base import Progress
from jaxser.systems.emosphere import EmoSphere, with_encoder
from tests import fakes, shared
from tests.random_tree import params_like, quick_jit
from tests.test_hf_wavlm import write_authors_files

WAVLM = dataclasses.replace(
  SIZES['tiny'], conv_dim=(16, 16), conv_kernel=(20, 20), conv_stride=(16, 20)
).to_text()


def test_impossible_utterances_are_named():
  system = EmoSphere(encoder='wavlm', wavlm=WAVLM, vad_range=(1.0, 5.0))
  vad = np.array([[1, 2, 3], [5, 5, 5], [np.nan] * 3])
  length = np.array([9000, 400, 401])

  def check(vad=vad, length=length, shape=(9000,)):
    table = types.SimpleNamespace(vad=vad, ids=['one', 'two', 'three'])
    corpus = types.SimpleNamespace(table=table, feature_shape=shape)
    system.check(corpus, length)

  check()
  outside, partial = vad.copy(), vad.copy()
  outside[1, 1], partial[0, 1] = 5.5, np.nan
  for wrong, message in (
    ({'vad': outside}, r'two has VAD \[5.0, 5.5, 5.0\] outside of the scale'),
    ({'vad': partial}, 'one lacks arousal; give all three'),
    ({'vad': np.full((3, 3), np.nan)}, 'none of 3 utterances has valence'),
    ({'length': [9000, 300, 400]}, 'two has 300 samples .* field of 324'),
    (
      {'shape': (9, 6)},
      r"'wavlm' needs waveforms \(wave16k\), the features are",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      check(**wrong)


def test_pretrained_encoder_must_fit():
  encoder = {'masked_spec_embed': np.ones(48), 'other': np.ones((2, 3))}
  params, other = {'encoder': encoder, 'pool': np.zeros(2)}, {**encoder}
  merged = with_encoder(params, other)
  assert merged['encoder'] is other
  assert merged['pool'] is params['pool']
  wrong = {**other, 'masked_spec_embed': np.zeros(3)}
  message = r'masked_spec_embed: file \(3,\), model \(48,\)'
  with pytest.raises(ConvertError, match=message):
    with_encoder(params, wrong)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'encoder': 'mfcc'}, "encoder='mfcc'; it must be one of"),
    ({'vad_range': (5.0, 1.0)}, 'vad_range=.*the lower one first'),
    ({'regions': 50}, 'regions of 50 degrees do not tile'),
    ({'auxiliary': 'categories'}, 'categories=0; it must be at least 2'),
    ({'class_weights': (1.0, 2.0)}, 'class_weights=.*each of 8 classes'),
    ({'encoder': 'wavlm', 'wavlm': 'huge'}, "'huge' is neither one of"),
    ({'decay_epochs': 0}, 'decay_epochs=0; it must be at least 1'),
    ({'width': 15}, 'width=15; it must be even'),
  ],
)
def test_impossible_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    EmoSphere(**settings).validate()


def test_created_from_a_config():
  corpus = types.SimpleNamespace(
    name='emotale', vad_range=(1, 5), classes=('angry', 'neutral')
  )
  model = {'width': 32, 'regions': 60, 'class_weights': ()}
  system = EmoSphere.create(model, corpus)
  assert system.vad_range == (1, 5)
  assert system.classes == 18
  assert hash(system) == hash(EmoSphere.create(model, corpus))
  # The origin can be the neutral utterances.
  system = EmoSphere.create({'centre': 'neutral'}, corpus)
  assert (system.centre, system.centre_label) == (None, 1)
  assert EmoSphere.create({'centre': 'middle'}, corpus).centre_label == -1
  corpus.classes = ('angry',)
  with pytest.raises(ValueError, match="has no class of that name; use 'mid"):
    EmoSphere.create({'centre': 'neutral'}, corpus)
  corpus.vad_range = None
  with pytest.raises(ValueError, match="corpus 'emotale' has no valence"):
    EmoSphere.create(model, corpus)


def test_a_folder_says_which_wavlm_it_is():
  folder = str(shared.require('goldens/wavlm_large_style'))
  corpus = types.SimpleNamespace(name='x', vad_range=(1, 5), classes=())
  model = {'encoder': 'wavlm', 'wavlm': 'large', 'weights': folder, 'width': 8}
  system = EmoSphere.create(model, corpus)
  config, encoder = hf_wavlm.load(folder)
  assert system.wavlm_config == config
  batch = {
    'features': np.zeros((2, 900), np.float32),
    'length': np.full(2, 900),
    'mask': np.ones(2, np.float32),
    'row': np.arange(2),
  }
  fresh = jax.eval_shape(lambda: system.init(jax.random.key(0), batch)[0])
  merged = system.pretrained(model)(fresh)
  assert merged['encoder'].keys() == encoder.keys()
  assert merged['vad_head'] is fresh['vad_head']
  assert system.pretrained({**model, 'weights': 'random'}) is None
  with pytest.raises(ValueError, match='give weights=DIR, a folder'):
    system.pretrained({**model, 'weights': ''})
  with pytest.raises(ConvertError, match=r'no/config.json does not exist'):
    EmoSphere.create({**model, 'weights': 'no'}, corpus)


def test_the_light_recipe_starts_within_the_scale():
  """Else predictions still lie on its bounds after ten epochs of EmoTale."""
  corpus = fakes.corpus(bins=6)
  system = registry.create(emosphere.get_config('corpus=emotale'), corpus)
  batch = pipeline.Source(corpus).batch(pipeline.Slot(np.arange(8), 40))
  params, state = system.init(jax.random.key(0), batch)
  state.pop('split')
  apply = functools.partial(system.apply, train=True, mutable=['batch_stats'])
  # With dropout, whose noise is wider at first than what utterances differ by.
  rngs = {'dropout': jax.random.key(1)}
  out, _ = quick_jit(apply)({'params': params, **state}, batch, rngs=rngs)
  inside = (out['unit_vad'] > 0) & (out['unit_vad'] < 1)
  assert inside.mean() > 0.9


def test_the_second_recipe_of_fine_tuning_warms_up():
  published, ours = (
    emosphere.get_config(f'corpus=msp_podcast,encoder=wavlm,fine_tuning={name}')
    for name in ('published', 'warmup')
  )
  assert (ours.schedule.name, ours.schedule.warmup_epochs) == ('linear', 0.5)
  assert ours.optimizer.clip_norm == 1
  assert ours.optimizer.head_learning_rate == 10 * ours.optimizer.learning_rate
  for name in ('head_learning_rate', 'clip_norm'):
    ours.optimizer[name] = 0.0
  ours.schedule.update(name='constant', warmup_epochs=0.0)
  assert ours.to_dict() == published.to_dict()


def test_fine_tuning_is_the_published_configuration():
  config = emosphere.get_config('corpus=msp_podcast,encoder=wavlm,weights=d')
  assert (config.batch_size, config.accumulate, config.epochs) == (64, 4, 20)
  adamw = {'name': 'adamw', 'learning_rate': 1e-5, 'head_learning_rate': 0.0}
  adamw |= {'clip_norm': 0.0, 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8}
  assert config.optimizer.to_dict() == {**adamw, 'weight_decay': 0.01}
  assert config.schedule.name == 'constant'
  assert config.data.max_length == 12 * 16_000
  assert (config.protocol, config.features.name) == ('official', 'wave16k')
  model = config.model
  assert (model.width, model.freeze, model.dropout) == (1024, 'conv', 0.1)
  assert (model.dtype, model.remat, model.weights) == ('bfloat16', True, 'd')
  assert (model.region_weight, model.decay_epochs) == ('decay', 5)
  assert 'output_scale' not in model  # As published.
  authors = emosphere.get_config(
    'corpus=msp_podcast,encoder=wavlm,protocol=published'
  ).model
  assert (authors.wavlm, authors.padding) == ('large', 'published')


ATTENTIVE = 'pooling=attentive_statistics'
# Every row of the paper's three tables, and what it changes: outputs of the
# second head, phases of the first and the last epoch.
ROWS = {
  '': (8, 'regions', 'main'),
  ATTENTIVE: (8, 'regions', 'main'),
  f'{ATTENTIVE},region_weight=off': (0, 'main', 'main'),
  'region_weight=off': (0, 'main', 'main'),
  'region_weight=constant': (8, 'regions', 'regions'),
  'auxiliary=categories': (3, 'regions', 'main'),
  'weighted=false': (8, 'regions', 'main'),
  'regions=180': (2, 'regions', 'main'),
  'regions=90': (8, 'regions', 'main'),
  'regions=60': (18, 'regions', 'main'),
  'regions=45': (32, 'regions', 'main'),
  'regions=30': (72, 'regions', 'main'),
}
# The others are these programs with other numbers in them.
RUN = ('', f'{ATTENTIVE},region_weight=off', 'auxiliary=categories')


@pytest.mark.slow
@pytest.mark.parametrize('arg', ROWS)
def test_every_row_of_the_tables_has_a_loss_and_gradients(arg):
  corpus = fakes.corpus(bins=6, repeats=4, frames=40, vary=True)
  config = emosphere.get_config(arg)
  config.model.width = 8
  system = registry.create(config, corpus)
  outputs, first, last = ROWS[arg]
  assert system.classes == outputs
  assert (system.phase(0), system.phase(19)) == (first, last)
  batch = pipeline.Source(corpus).batch(pipeline.Slot(np.arange(8), 40))
  params, state = params_like(system.init, jax.random.key(0), batch)
  state = {**state, **system.initial_state()}
  state = system.prepare(state, batch['vad'], batch['label'])
  progress = Progress(jnp.int32(0), jnp.int32(0))
  rest = {'rng': jax.random.key(1), 'progress': progress, 'phase': first}
  loss = functools.partial(system.loss, **rest)
  function = jax.value_and_grad(loss, has_aux=True)
  if arg not in RUN:
    _, grads = jax.eval_shape(function, params, state, batch)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    return
  (value, _), grads = quick_jit(function)(params, state, batch)
  assert np.isfinite(value)
  for leaf in jax.tree.leaves(grads['vad_head']['out']):
    assert np.isfinite(leaf).all()
    assert np.any(leaf)


def _wavlm(arg, **changes):
  """The recipe, so small that the checks are about its parts."""
  config = emosphere.get_config(f'{arg},runlocal')
  small = {'epochs': 1, 'batch_size': 16, 'accumulate': 2, 'model.width': 8}
  small |= {'data.max_length': 6000, 'data.num_buckets': 1}
  small |= {'tensorboard': False, 'embeddings': False}
  config.update_from_flattened_dict({**small, **changes})
  return config


@pytest.mark.slow
def test_fine_tuning_starts_from_the_folder_and_keeps_its_convolutions(
  tmp_path,
):
  folder = shared.require('goldens/wavlm_large_style')
  config = _wavlm(f'encoder=wavlm,weights={folder}')
  assert config.model.remat
  assert config.model.dtype == 'bfloat16'
  config.data_dir = str(tmp_path)
  found = train.run(config, tmp_path / 'run')
  assert found['sphere']['regions'] == 'octants'
  pooled = found['selections']['last']['pooled']['regions']
  assert set(pooled) == {'accuracy', 'macro_f1', 'confusion'}
  params, _ = models.load(tmp_path / 'run', 0, 0, 'last')
  given = hf_wavlm.load(folder)[1]
  jax.tree.map(
    np.testing.assert_array_equal,
    params['encoder']['feature_extractor'],
    given['feature_extractor'],
  )
  query = params['encoder']['encoder']['layers']['layer']['attention']['query']
  wanted = given['encoder']['layers']['layer']['attention']['query']
  moved = np.abs(query['kernel'] - wanted['kernel']).max()
  # Adam moves each weight by about the learning rate a step.
  assert 0 < moved < 20 * config.optimizer.learning_rate
  assert query['kernel'].dtype == np.float32


@pytest.mark.slow
def test_the_authors_files_predict_through_the_recipe(tmp_path):
  torch = pytest.importorskip('torch')

  def save(arrays, path):
    named = {name: torch.from_numpy(x) for name, x in arrays.items()}
    torch.save(named, path)

  system = EmoSphere(encoder='wavlm', wavlm=WAVLM, width=8)
  write_authors_files(tmp_path, system, save)
  config = _wavlm('encoder=wavlm', **{'model.wavlm': WAVLM})
  config.data_dir = str(tmp_path)
  config.init_from = str(tmp_path)
  config.trust_init_from = True
  found = train.run(config, tmp_path / 'run', 'evaluate')
  pooled = found['selections']['init_from']['pooled']
  assert pooled['utterances'] == 40
  assert found['caveats'] == [models.CAVEAT]
  lines = (tmp_path / 'run/predictions.jsonl').read_text().splitlines()
  first = json.loads(lines[0])
  path = next((tmp_path / 'demo').rglob(f'{first["id"]}.wav'))
  vad = predictor.load(tmp_path / 'run').predict(path).vad
  np.testing.assert_allclose([*vad.values()], first['prediction'], rtol=1e-4)
