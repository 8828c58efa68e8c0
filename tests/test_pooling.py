"""Pooling and the light encoder: padding enters no number, nor do devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.nn.layers import frame_mask
from jaxser.ops.collectives import DATA
from jaxser.systems import emosphere_network as network
from tests.random_tree import assert_close, params_like, quick_jit

WIDTH = 16
ROWS = jnp.arange(3)
MOVING = {'train': True, 'mutable': ['batch_stats']}


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_masked_before_convolution_padding_is_not_heard():
  """As published it is heard: tests/parity."""
  frames = _normal(0, 3, 21, 8)
  model = network.StylePooling(width=WIDTH, mask_before_conv=True)
  init = functools.partial(model.init, train=False)
  given = frames, jnp.ones((3, 21), bool), ROWS
  params = params_like(init, jax.random.key(0), *given)

  def pool(frames, count):
    valid, rows = frame_mask(count, frames.shape[1]), jnp.arange(len(frames))
    return model.apply(params, frames, valid, rows, train=False)

  run = quick_jit(pool)
  count = jnp.array([21, 13, 5])
  junk = np.concatenate([frames, 100 * _normal(2, 3, 9, 8)], axis=1)
  padded = run(frames, count)
  assert_close(padded[1:2], run(frames[1:2, :13], count[1:2]), 1e-5)
  assert_close(run(junk, count), padded, 1e-5)
  count = jnp.array([0, 4, 0])  # Rows of padding only stay finite.
  gradient = jax.grad(lambda x: jnp.sum(pool(x, count) ** 2))
  assert np.isfinite(quick_jit(gradient)(frames)).all()
  pooled = run(frames, count)
  assert np.isfinite(pooled).all()
  np.testing.assert_array_equal(pooled[0], 0)


def test_attentive_statistics_ignore_padding_and_have_finite_gradients():
  """tests/parity has their values."""
  model = network.AttentiveStatistics()
  frames, valid = _normal(4, 3, 9, 5), frame_mask(jnp.array([9, 4, 0]), 9)
  params = params_like(model.init, jax.random.key(0), frames, valid)
  pooled = model.apply(params, frames, valid)
  junk = np.where(valid[:, :, None], frames, 50)
  assert_close(model.apply(params, junk, valid)[:2], pooled[:2], 1e-6)

  def total(frames):
    return jnp.sum(model.apply(params, frames, valid))

  constant = jnp.ones((3, 9, 5))  # No deviation, and a row without frames.
  assert np.isfinite(quick_jit(jax.grad(total))(constant)).all()


@pytest.mark.parametrize('stride', [1, 2])
def test_logmel_encoder_counts_frames_and_ignores_padding(stride):
  model = network.LogMelEncoder(width=WIDTH, stride=stride)
  features, length = _normal(5, 3, 20, 7) * 3 - 4, jnp.array([20, 13, 0])
  init = functools.partial(model.init, train=False)
  variables = params_like(init, jax.random.key(0), features, length, ROWS)
  run = quick_jit(functools.partial(model.apply, variables, train=False))
  frames, count = run(features, length, ROWS)
  np.testing.assert_array_equal(count, [-(-n // stride) for n in (20, 13, 0)])
  assert frames.shape == (3, -(-20 // stride), WIDTH)
  assert np.isfinite(frames).all()
  alone, _ = run(features[1:2, :13], jnp.array([13]), ROWS[:1])
  np.testing.assert_allclose(frames[1, : count[1]], alone[0], atol=2e-5)


def test_feature_norm_keeps_the_exact_moments_of_everything_seen():
  model = network.FeatureNorm()
  x = _normal(6, 16, 30, 4) * [1, 5, 20, 0.1] + np.array([-60.0, 0, 3, 12])
  x = x.astype(np.float32)
  length = np.random.default_rng(0).integers(0, 31, 16)
  valid = frame_mask(jnp.asarray(length), 30)
  state = model.init(jax.random.key(0), x, valid, train=True)
  for part in range(0, 16, 4):
    slot = slice(part, part + 4)
    y, state = model.apply(state, x[slot], valid[slot], **MOVING)
  _, unchanged = model.apply(state, x, jnp.zeros_like(valid), **MOVING)
  seen = x[np.asarray(valid)].astype(np.float64)
  for stats in (state['batch_stats'], unchanged['batch_stats']):
    assert_close(stats['mean'], seen.mean(0), 1e-5)
    np.testing.assert_allclose(stats['var'], seen.var(0), rtol=1e-4)
    assert stats['count'] == length.sum()
  again = model.apply(state, x[12:], valid[12:], train=False)
  np.testing.assert_allclose(y, again, atol=1e-6)
  # Of the global batch, where it lies on eight devices.
  run = functools.partial(model.apply, state, **MOVING)
  x, valid = x[:8], valid[:8]
  found, stats = jax.pmap(run, DATA)(x[:, None], valid[:, None])
  wanted = run(x, valid)
  assert_close(found[:, 0], wanted[0], 1e-5)
  assert_close(jax.tree.map(lambda x: x[3], stats), wanted[1], 1e-6)
