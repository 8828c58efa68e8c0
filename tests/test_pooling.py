"""Pooling and the light encoder: padding enters no number, nor do devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.nn.layers import frame_mask
from jaxser.nn.log_mel_encoder import FeatureNorm, LogMelEncoder
from jaxser.nn.pooling import (
  AttentiveStatistics,
  StylePooling,
  masked_mean,
  mish,
  published_frames,
)
from jaxser.ops.collectives import DATA
from tests.random_tree import params_like, quick_jit

WIDTH = 16
ROWS = jnp.arange(3)


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def _pooling(masked):
  model = StylePooling(width=WIDTH, mask_before_conv=masked)
  frames = _normal(0, 3, 21, 8)
  params = params_like(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    frames,
    jnp.ones((3, 21), bool),
    ROWS,
  )

  def run(frames, count):
    valid = frame_mask(count, frames.shape[1])
    rows = jnp.arange(frames.shape[0])
    return model.apply(params, frames, valid, rows, train=False)

  return run, quick_jit(run), frames


def test_published_frame_count():
  samples = jnp.array([0, 1, 320, 321, 16000, 16001, 99999])
  np.testing.assert_array_equal(
    published_frames(samples, 60), [0, 1, 1, 2, 50, 51, 60]
  )


def test_mish_and_masked_mean():
  x = np.linspace(-20, 20, 41)
  np.testing.assert_allclose(
    mish(jnp.asarray(x, jnp.float32)),
    x * np.tanh(np.log1p(np.exp(x))),
    atol=1e-6,
  )
  frames = _normal(1, 2, 5, 3)
  got = masked_mean(frames, frame_mask(jnp.array([3, 0]), 5))
  np.testing.assert_allclose(got[0], frames[0, :3].mean(0), rtol=1e-6)
  np.testing.assert_array_equal(got[1], 0)


def test_masked_before_convolution_padding_is_not_heard():
  _, run, frames = _pooling(masked=True)
  count = jnp.array([21, 13, 5])
  junk = np.concatenate([frames, 100 * _normal(2, 3, 9, 8)], axis=1)
  alone = run(frames[1:2, :13], count[1:2])[0]
  padded = run(frames, count)
  np.testing.assert_allclose(padded[1], alone, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(run(junk, count), padded, rtol=1e-5, atol=1e-5)


def test_published_padding_leaks_exactly_four_frames():
  run, _, frames = _pooling(masked=False)
  count = jnp.array([21, 13, 5])
  heard = quick_jit(jax.grad(lambda x: jnp.sum(run(x, count) ** 2)))(frames)
  reached = np.abs(heard).sum(-1) > 0
  for row, n in enumerate((21, 13, 5)):
    np.testing.assert_array_equal(reached[row], np.arange(21) < n + 4)


def test_rows_of_padding_only_stay_finite():
  run, fast, frames = _pooling(masked=True)
  count = jnp.array([0, 4, 0])
  gradient = quick_jit(jax.grad(lambda x: jnp.sum(run(x, count) ** 2)))(frames)
  assert np.isfinite(gradient).all()
  pooled = fast(frames, count)
  assert np.isfinite(pooled).all()
  np.testing.assert_array_equal(pooled[0], 0)


def test_attentive_statistics_are_weighted_moments():
  model = AttentiveStatistics()
  frames, count = _normal(4, 3, 9, 5), jnp.array([9, 4, 0])
  valid = frame_mask(count, 9)
  params = params_like(model.init, jax.random.key(0), frames, valid)
  apply = quick_jit(model.apply)
  pooled = apply(params, frames, valid)
  given = jax.tree.map(np.float64, params['params'])
  for row, n in enumerate((9, 4)):
    x = np.float64(frames[row, :n])
    hidden = np.tanh(x @ given['linear']['kernel'] + given['linear']['bias'])
    scores = hidden @ given['attention']
    weights = np.exp(scores) / np.exp(scores).sum()
    mean = (weights * x).sum(0)
    deviation = np.sqrt((weights * x**2).sum(0) - mean**2)
    np.testing.assert_allclose(
      pooled[row], np.concatenate([mean, deviation]), rtol=2e-5, atol=1e-6
    )
  junk = np.where(valid[:, :, None], frames, 50)
  np.testing.assert_allclose(
    apply(params, junk, valid)[:2], pooled[:2], atol=1e-6
  )

  def total(frames):
    return jnp.sum(model.apply(params, frames, valid))

  constant = jnp.ones((3, 9, 5))  # No deviation, and a row without frames.
  assert np.isfinite(quick_jit(jax.grad(total))(constant)).all()


@pytest.mark.parametrize('stride', [1, 2])
def test_logmel_encoder_counts_frames_and_ignores_padding(stride):
  model = LogMelEncoder(width=WIDTH, stride=stride)
  features = _normal(5, 3, 20, 7) * 3 - 4
  length = jnp.array([20, 13, 0])
  variables = model.init(jax.random.key(0), features, length, ROWS, train=False)
  variables = {
    'params': jax.tree.map(lambda x: x + 0.1, variables['params']),
    'batch_stats': variables['batch_stats'],
  }

  @quick_jit
  def run(features, length):
    rows = jnp.arange(features.shape[0])
    return model.apply(variables, features, length, rows, train=False)

  frames, count = run(features, length)
  np.testing.assert_array_equal(count, [-(-n // stride) for n in (20, 13, 0)])
  assert frames.shape == (3, -(-20 // stride), WIDTH)
  assert np.isfinite(frames).all()
  alone, _ = run(features[1:2, :13], jnp.array([13]))
  np.testing.assert_allclose(frames[1, : count[1]], alone[0], atol=2e-5)


def test_feature_norm_keeps_the_exact_moments_of_everything_seen():
  model, moving = FeatureNorm(), {'train': True, 'mutable': ['batch_stats']}
  x = _normal(6, 16, 30, 4) * [1, 5, 20, 0.1] + np.array([-60.0, 0, 3, 12])
  x = x.astype(np.float32)
  length = np.random.default_rng(0).integers(0, 31, 16)
  valid = frame_mask(jnp.asarray(length), 30)
  state = model.init(jax.random.key(0), x, valid, train=True)
  for part in range(0, 16, 4):
    slot = slice(part, part + 4)
    y, state = model.apply(state, x[slot], valid[slot], **moving)
  _, unchanged = model.apply(state, x, jnp.zeros_like(valid), **moving)
  seen = x[np.asarray(valid)].astype(np.float64)
  for stats in (state['batch_stats'], unchanged['batch_stats']):
    np.testing.assert_allclose(
      stats['mean'], seen.mean(0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(stats['var'], seen.var(0), rtol=1e-4)
    assert stats['count'] == length.sum()
  np.testing.assert_allclose(
    y, model.apply(state, x[12:], valid[12:], train=False), atol=1e-6
  )


def test_feature_norm_sees_the_global_batch():
  x = _normal(7, 8, 10, 4) * 3 - 40
  valid = frame_mask(jnp.array([10, 3, 0, 7, 1, 10, 0, 2]), 10)
  state = FeatureNorm().init(jax.random.key(0), x, valid, train=True)

  def run(x, valid):
    return FeatureNorm().apply(
      state, x, valid, train=True, mutable=['batch_stats']
    )

  wanted, new = run(x, valid)
  got, sharded = jax.pmap(run, axis_name=DATA)(x[:, None], valid[:, None])
  np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-5, atol=1e-5)
  for key in ('mean', 'var', 'count'):
    np.testing.assert_allclose(
      sharded['batch_stats'][key][3], new['batch_stats'][key], rtol=1e-6
    )
