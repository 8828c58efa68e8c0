"""EmoSphere-SER's data and weights are refused by name before they are used."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from configs import emosphere
from jaxser.core.config import ConfigError
from jaxser.data import pipeline
from jaxser.models.convert import ConvertError
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm_config import SIZES
from jaxser.systems import registry
from jaxser.systems.emosphere import EmoSphere, with_encoder
from tests import fakes, shared
from tests.random_tree import quick_jit

WAVLM = EmoSphere(
  encoder='wavlm',
  wavlm=dataclasses.replace(
    SIZES['tiny'],
    conv_dim=(16, 16),
    conv_kernel=(20, 20),
    conv_stride=(16, 20),
  ).to_text(),
  vad_range=(1.0, 5.0),
)


def test_impossible_utterances_are_named():
  vad = np.array([[1, 2, 3], [5, 5, 5], [np.nan] * 3])
  length = np.array([9000, 400, 401])

  def check(vad, length):
    table = types.SimpleNamespace(vad=vad, ids=['one', 'two', 'three'])
    corpus = types.SimpleNamespace(table=table, feature_shape=(9000,))
    WAVLM.check(corpus, length)

  check(vad, length)
  for row, change, message in (
    (1, [5, 5.5, 5], r'two has VAD \[5.0, 5.5, 5.0\] outside of the scale'),
    (0, [1, np.nan, 3], 'one lacks arousal; give all three'),
  ):
    wrong = vad.copy()
    wrong[row] = change
    with pytest.raises(ValueError, match=message):
      check(wrong, length)
  with pytest.raises(ValueError, match=r'two has 300 samples .* field of 324'):
    check(vad, np.array([9000, 300, 400]))
  with pytest.raises(ValueError, match='none of 3 utterances has valence'):
    check(np.full((3, 3), np.nan), length)


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


def test_a_corpus_is_checked_before_training():
  corpus = fakes.corpus(bins=6)
  lengths = np.full(len(corpus.table), 12)
  system = EmoSphere(vad_range=(1.0, 7.0))
  registry.check(system, corpus, lengths)
  corpus.table.vad[3, 1] = np.nan
  with pytest.raises(
    ConfigError, match="'fake': s1-angry-1 lacks arousal; giv"
  ):
    registry.check(system, corpus, lengths)
  message = r"'wavlm' needs waveforms \(wave16k\), the features are"
  with pytest.raises(ConfigError, match=message):
    registry.check(WAVLM, corpus, lengths)


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


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('weights=d', 'weights goes with encoder=wavlm, not with encoder=logmel'),
    ('encoder=frames,frozen', 'frozen goes with encoder=wavlm'),
    ('encoder=wavlm,frozen,weights=d', 'give the weights to `python -m data'),
    ('encoder=wavlm,weights=d,size=tiny', 'size of weights=d stands in its'),
    ('encoder=wavlm,weights=random,size=huge', "size='huge' is not valid"),
    ('fine_tuning=warmup', 'fine_tuning goes with encoder=wavlm'),
    ('encoder=wavlm,frozen,fine_tuning=warmup', 'which trains no WavLM'),
    ('encoder=wavlm,fine_tuning=slow', 'choose one of , published, warmup'),
  ],
)
def test_arguments_that_do_not_go_together(arg, message):
  with pytest.raises(ValueError, match=message):
    emosphere.get_config(arg)


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
