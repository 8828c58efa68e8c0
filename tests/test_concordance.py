"""CCC: its formula, its numerics, and one value on one or eight devices."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.collectives import DATA
from jaxser.ops.concordance import concordance


def _draw(seed, rows=64):
  rng = np.random.default_rng(seed)
  target = rng.uniform(0, 1, (rows, 3))
  pred = 0.5 * target + 0.3 * rng.standard_normal((rows, 3)) + 0.1
  return pred.astype(np.float32), target.astype(np.float32)


def _reference(pred, target):
  pred, target = np.float64(pred), np.float64(target)
  covariance = ((pred - pred.mean(0)) * (target - target.mean(0))).mean(0)
  gap = pred.mean(0) - target.mean(0)
  return 2 * covariance / (pred.var(0) + target.var(0) + gap**2)


def test_matches_the_formula_and_the_golden_figures():
  pred, target = _draw(1)
  np.testing.assert_allclose(
    concordance(pred, target), _reference(pred, target), rtol=1e-6
  )

  def data(name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal((64, 3)).astype(np.float32)

  a = data('ccc.a')
  b = 0.5 * data('ccc.b') + 0.7 * a + 0.2
  np.testing.assert_allclose(
    concordance(a, b), [0.7441224, 0.8388694, 0.8458675], rtol=1e-5
  )


def test_keeps_its_digits_on_a_large_offset():
  pred, target = _draw(3)
  pred, target = pred + np.float32(3000), target + np.float32(3000)
  np.testing.assert_allclose(
    concordance(pred, target), _reference(pred, target), rtol=1e-4
  )


def test_padding_rows_change_nothing_whatever_they_hold():
  pred, target = _draw(4, rows=20)
  mask = np.r_[np.ones(20), np.zeros(12)].astype(np.float32)
  junk = np.full((12, 3), np.nan, np.float32)
  padded = np.concatenate([pred, junk]), np.concatenate([target, junk])
  order = np.random.default_rng(0).permutation(32)

  def loss(pred, target, mask):
    return jnp.sum(concordance(pred, target, mask))

  value, gradient = jax.value_and_grad(loss)(
    padded[0][order], padded[1][order], mask[order]
  )
  wanted, wanted_gradient = jax.value_and_grad(loss)(pred, target, None)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  back = np.empty_like(gradient)
  back[order] = gradient
  np.testing.assert_allclose(back[:20], wanted_gradient, rtol=1e-5, atol=1e-8)
  assert (back[20:] == 0).all()


@pytest.mark.parametrize('rows', [1, 5])
def test_degenerate_batches_give_zero_and_finite_gradients(rows):
  constant = jnp.full((rows, 3), 0.5)
  for pred, target, mask in (
    (constant, constant, None),
    (constant, constant, jnp.zeros(rows)),
    (constant, constant + 0.1, None),
  ):
    value, gradient = jax.value_and_grad(
      lambda p: jnp.sum(concordance(p, target, mask))
    )(pred)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('mapped', [jax.pmap, jax.vmap])
def test_eight_devices_see_the_global_batch(mapped):
  pred, target = _draw(5)
  mask = np.ones(64, np.float32)
  mask[50:] = 0  # the last device has padding only
  slope = jnp.float32(0.9)

  def loss(slope, pred, target, mask):
    return jnp.sum(1 - concordance(slope * pred, target, mask))

  value, gradient = jax.value_and_grad(loss)(slope, pred, target, mask)

  def share(slope, pred, target, mask):
    return loss(slope, pred, target, mask) / 8

  def step(pred, target, mask):
    return jax.lax.psum(
      jax.value_and_grad(share)(slope, pred, target, mask), DATA
    )

  shard = [x.reshape(8, 8, *x.shape[1:]) for x in (pred, target, mask)]
  values, gradients = mapped(step, axis_name=DATA)(*shard)
  np.testing.assert_allclose(values, np.full(8, value), rtol=1e-6)
  np.testing.assert_allclose(gradients, np.full(8, gradient), rtol=1e-5)
