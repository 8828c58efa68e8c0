"""WavLM: shapes, masks, randomness, memory; parity is in tests/parity."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.nn import wavlm
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import SIZES, WavLMConfig
from tests.random_tree import assert_close, params_like, quick_jit

# Post-LN with the norm over time: the variant in which padding could be heard.
BASE = dataclasses.replace(
  SIZES['tiny'], feat_extract_norm='group', do_stable_layer_norm=False
)
LENGTHS = (4000, 2500, 900, 399, 0)


def _audio(rows=5, samples=4000):
  rng = np.random.default_rng(0)
  audio = rng.standard_normal((rows, samples)).astype(np.float32)
  for row, length in enumerate(LENGTHS[:rows]):
    audio[row, length:] = 0
  return audio


@functools.cache
def _params(config):
  return params_like(WavLM(config).init, jax.random.key(0), jnp.zeros((1, 400)))


@functools.cache
def _run(config, **settings):
  """Frames and their number, of the audio or of (samples, length)."""
  model = WavLM(config, **settings)

  @quick_jit
  def run(params, samples, length):
    rows = jnp.arange(samples.shape[0])
    return model.apply(params, samples, length, rows)[:2]

  def call(samples=None, length=LENGTHS):
    samples = _audio() if samples is None else samples
    return run(_params(config), samples, jnp.array(length))

  return call


def test_sizes_are_the_published_ones():
  # Number of parameters of microsoft/wavlm-base and -large.
  for name, count in (('base', 94_381_936), ('large', 315_453_120)):
    config, x = SIZES[name], jnp.zeros((1, 400))
    shapes = jax.eval_shape(WavLM(config).init, jax.random.key(0), x)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
    assert (config.receptive_field, config.hop) == (400, 320)
    assert WavLMConfig.from_text(config.to_text()) == config


def test_frame_count_is_that_of_the_convolutions():
  config, samples = SIZES['tiny'], [400, 719, 720, 9000, 16000, 16001, 192000]
  init = wavlm.FeatureEncoder(config).init_with_output
  found = quick_jit(config.frames)(jnp.array([0, 1, 9, 10, 399, *samples]))
  assert found[:6].tolist() == [0, 0, 0, 0, 0, 1]
  for n, count in zip(samples, found[5:].tolist(), strict=True):
    x = jax.ShapeDtypeStruct((1, n), np.float32)
    frames, _ = jax.eval_shape(init, jax.random.key(0), x, None)
    assert frames.shape[1] == config.frames(n) == count


def test_buckets_follow_the_definition():
  def bucket(distance):
    offset = 160 if distance > 0 else 0
    distance = abs(distance)
    if distance < 80:
      return offset + distance
    grown = 80 + math.log(distance / 80) / math.log(800 / 80) * 80
    return offset + min(int(grown + 1e-4), 159)

  got = wavlm.relative_buckets(1000, 320, 800)
  for query, key in ((0, 0), (5, 9), (999, 0), (0, 999), (100, 300), (300, 99)):
    assert got[query, key] == bucket(key - query)
  assert (got.min(), got.max()) == (0, 319)


@pytest.mark.parametrize('config', [SIZES['tiny'], BASE], ids=['large', 'base'])
def test_padding_is_not_heard(config):
  frames, valid = _run(config)()
  np.testing.assert_array_equal(valid, [12, 7, 2, 0, 0])
  assert np.isfinite(frames).all()
  alone, count = _run(config)(_audio()[1:2, :2500], LENGTHS[1:2])
  assert count == 7
  np.testing.assert_allclose(frames[1, :7], alone[0], rtol=1e-4, atol=1e-5)


@functools.cache
def _training(remat=False):
  """A compiled training step with every kind of randomness, and parameters."""
  config = dataclasses.replace(
    SIZES['tiny'],
    conv_dim=(16, 16),
    conv_kernel=(20, 20),
    conv_stride=(16, 20),
    mask_time_prob=0.3,
    layerdrop=0.4,
  )
  model, params = WavLM(config, remat=remat), _params(config)

  def loss(params, samples, length, rows, rng):
    frames, valid, _ = model.apply(
      params, samples, length, rows, train=True, rngs={'dropout': rng}
    )
    weight = jnp.sin(jnp.arange(frames[0].size)).reshape(1, *frames.shape[1:])
    return jnp.sum(frames * weight * (valid > 0)[:, None, None])

  step = quick_jit(jax.value_and_grad(loss))
  return step.lower(params, *_batch()).compile(), step, params


def _batch(rows=slice(0, 8)):
  rng = np.random.default_rng(1)
  samples = rng.standard_normal((8, 4000)).astype(np.float32)
  length = np.resize(LENGTHS, 8).astype(np.int32)
  return samples[rows], length[rows], np.arange(8)[rows], jax.random.key(3)


@functools.cache
def _whole(remat=False):
  """Loss and gradient of the whole batch."""
  compiled, _, params = _training(remat)
  return tuple(compiled(params, *_batch()))


@pytest.mark.slow
def test_training_step_does_not_depend_on_the_sharding():
  _, step, params = _training()
  halves = [step(params, *_batch(slice(i, i + 4))) for i in (0, 4)]
  assert_close(jax.tree.map(lambda *x: np.sum(x, axis=0), *halves), _whole())


def test_rematerialisation_changes_memory_only():
  assert_close(_whole(remat=True), _whole(), 1e-5)
  # Convolutions are frozen, the rest is not.
  for name, grads in _whole()[1]['params'].items():
    size = sum(np.abs(x).sum() for x in jax.tree.leaves(grads))
    assert (size == 0) == (name == 'feature_extractor')
    assert math.isfinite(size)
  kept, all_kept = (
    _training(remat)[0].memory_analysis().temp_size_in_bytes
    for remat in (True, False)
  )
  assert kept < 0.8 * all_kept


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters():
  config = SIZES['tiny']
  exact, coarse = _run(config)()[0], _run(config, dtype=jnp.bfloat16)()[0]
  assert coarse.dtype == jnp.float32
  gap = np.abs(coarse - exact).max()
  assert 1e-4 < gap < 0.15
  model = WavLM(config, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(model.init, jax.random.key(0), _audio())
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


def test_layerdrop_skips_all_layers_but_the_first():
  names = ('hidden_dropout', 'activation_dropout', 'attention_dropout')
  none = {**dict.fromkeys(names, 0.0), 'apply_spec_augment': False}
  config = dataclasses.replace(SIZES['tiny'], **none, layerdrop=1.0)
  apply = functools.partial(WavLM(config).apply, keep_hidden=True)
  training = {'train': True, 'rngs': {'dropout': jax.random.key(0)}}
  dropped, whole = (
    quick_jit(functools.partial(apply, rows=jnp.arange(1), **how))(
      _params(config), _audio(1)
    )[2]['hidden']
    for how in (training, {})
  )
  np.testing.assert_allclose(dropped[:2], whole[:2], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(dropped[2], dropped[1])
  np.testing.assert_array_equal(dropped[3], dropped[1])
  assert np.abs(whole[3] - dropped[3]).max() > 1e-2


def test_spans_lie_within_the_utterance_and_have_the_right_share():
  valid = jnp.array([200, 57, 20, 19, 10, 9, 0] * 50)
  rows = jnp.arange(valid.shape[0])
  draw = functools.partial(
    wavlm.random_spans, prob=0.3, length=10, min_spans=2, valid=valid, size=200
  )
  masked = np.asarray(quick_jit(draw)(jax.random.key(0), rows))
  position = np.arange(200)[None]
  assert not masked[position >= np.asarray(valid)[:, None]].any()
  count = masked.sum(1).reshape(50, 7)
  assert count[:, 0].max() <= 70  # At most 7 spans: 0.3 * 200 / 10, rounded.
  assert 35 < count[:, 0].mean() < 60
  assert (count[:, 2] >= 10).all()
  np.testing.assert_array_equal(count[:, 3:5], 10)
  np.testing.assert_array_equal(count[:, 5:], 0)
  # Runs are made of whole spans.
  edges = np.diff(np.pad(masked, ((0, 0), (1, 1))).astype(int), axis=1)
  starts, ends = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
  assert (ends - starts >= 10).all()
  some = quick_jit(functools.partial(draw, valid=valid[3:9]))
  np.testing.assert_array_equal(some(jax.random.key(0), rows[3:9]), masked[3:9])


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('huge', "'huge' is neither one of .*'large'"),
    ('[1]', 'not a JSON object'),
    ('{"model_type": "hubert"}', "model_type is 'hubert'"),
    ('{"add_adapter": true}', 'add_adapter is true'),
    ('{"num_attention_heads": 7}', 'num_attention_heads 7 does not divide'),
    ('{"feat_extract_norm": "batch"}', "feat_extract_norm is 'batch'"),
    ('{"hidden_act": "tanh"}', "hidden_act is 'tanh'"),
    ('{"conv_dim": [8]}', 'must have one entry per convolution'),
    ('{"num_buckets": 30}', 'num_buckets is 30'),
    ('{"max_bucket_distance": 80}', 'must exceed num_buckets / 4 = 80'),
  ],
)
def test_impossible_configs_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    WavLMConfig.from_text(text)
