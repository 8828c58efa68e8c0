"""EmoSphere-SER's data and weights are refused by name before they are used."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxser.nn.wavlm_config import SIZES
from jaxser.systems.emosphere import EmoSphere, create
from jaxser.systems.emosphere_checks import check_utterances, with_encoder

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
  ids = ['one', 'two', 'three']
  vad = np.array([[1, 2, 3], [5, 5, 5], [np.nan] * 3])
  length = np.array([9000, 400, 401])
  check_utterances(WAVLM, vad, length, ids)
  for row, change, message in (
    (1, [5, 5.5, 5], r'two has VAD \[5.0, 5.5, 5.0\] outside of the scale'),
    (0, [1, np.nan, 3], 'one lacks arousal; give all three'),
  ):
    wrong = vad.copy()
    wrong[row] = change
    with pytest.raises(ValueError, match=message):
      check_utterances(WAVLM, wrong, length, ids)
  with pytest.raises(ValueError, match=r'two has 300 samples .* field of 324'):
    check_utterances(WAVLM, vad, np.array([9000, 300, 400]), ids)
  with pytest.raises(ValueError, match='none of 3 utterances has valence'):
    check_utterances(WAVLM, np.full((3, 3), np.nan), length, ids)


def test_pretrained_encoder_must_fit():
  params = {
    'encoder': {'masked_spec_embed': np.ones(48), 'other': np.ones((2, 3))},
    'pool': np.zeros(2),
  }
  other = jax.tree.map(lambda x: x + 1, params['encoder'])
  merged = with_encoder(params, other)
  assert merged['encoder'] is other
  assert merged['pool'] is params['pool']
  wrong = {**other, 'masked_spec_embed': np.zeros(3)}
  with pytest.raises(
    ValueError, match=r'masked_spec_embed.*system \(48,\), given \(3,\)'
  ):
    with_encoder(params, wrong)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'encoder': 'mfcc'}, "encoder is 'mfcc'; it must be one of"),
    ({'vad_range': (5.0, 1.0)}, 'vad_range is .* lo must be below hi'),
    ({'regions': 50}, 'regions of 50 degrees do not tile'),
    ({'auxiliary': 'categories'}, 'categories is 0'),
    ({'class_weights': (1.0, 2.0)}, '2 class_weights for 8 classes'),
    ({'encoder': 'wavlm', 'wavlm': 'huge'}, "'huge' is neither one of"),
    ({'decay_epochs': 0}, 'decay_epochs is 0'),
  ],
)
def test_impossible_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(EmoSphere(), **settings)


def test_created_from_a_config():
  corpus = types.SimpleNamespace(
    name='emotale', vad_range=(1, 5), classes=('angry', 'sad')
  )
  model = {'width': 32, 'regions': 60, 'class_weights': []}
  system = create(model, corpus)
  assert system.vad_range == (1, 5)
  assert system.classes == 18
  assert hash(system) == hash(create(model, corpus))
  corpus.vad_range = None
  with pytest.raises(ValueError, match="corpus 'emotale' has no valence"):
    create(model, corpus)
