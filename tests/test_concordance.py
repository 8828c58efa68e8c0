"""CCC: its formula, its numerics, and one value on one or eight devices."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.collectives import DATA
from jaxser.ops.concordance import concordance


def _draw(rows=64):
  rng = np.random.default_rng(1)
  target = rng.uniform(0, 1, (rows, 3))
  pred = 0.5 * target + 0.3 * rng.standard_normal((rows, 3)) + 0.1
  return pred.astype(np.float32), target.astype(np.float32)


@pytest.mark.parametrize(('offset', 'rtol'), [(0, 1e-6), (3000, 1e-4)])
def test_matches_the_formula_and_keeps_its_digits(offset, rtol):
  pred, target = (x + np.float32(offset) for x in _draw())
  p, t = np.float64(pred), np.float64(target)
  covariance = ((p - p.mean(0)) * (t - t.mean(0))).mean(0)
  gap = p.mean(0) - t.mean(0)
  wanted = 2 * covariance / (p.var(0) + t.var(0) + gap**2)
  np.testing.assert_allclose(concordance(pred, target), wanted, rtol=rtol)


def test_golden_figures():
  def data(name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal((64, 3)).astype(np.float32)

  a = data('ccc.a')
  found = concordance(a, 0.5 * data('ccc.b') + 0.7 * a + 0.2)
  wanted = [0.7441224, 0.8388694, 0.8458675]
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_padding_rows_change_nothing_whatever_they_hold():
  order = np.random.default_rng(0).permutation(32)
  mask = np.r_[np.ones(20), np.zeros(12)].astype(np.float32)
  pad = {'pad_width': ((0, 12), (0, 0)), 'constant_values': np.nan}
  padded = [np.pad(x, **pad)[order] for x in _draw(20)]

  def loss(*args):
    return jnp.sum(concordance(*args))

  value, gradient = jax.value_and_grad(loss)(*padded, mask[order])
  wanted, wanted_gradient = jax.value_and_grad(loss)(*_draw(20))
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  back = np.empty_like(gradient)
  back[order] = gradient
  np.testing.assert_allclose(back[:20], wanted_gradient, rtol=1e-5, atol=1e-7)
  assert (back[20:] == 0).all()


@pytest.mark.parametrize('rows', [1, 5])
def test_degenerate_batches_give_zero_and_finite_gradients(rows):
  constant = jnp.full((rows, 3), 0.5)
  for target, mask in (
    (constant, None),
    (constant, jnp.zeros(rows)),
    (constant + 0.1, None),
  ):
    value, gradient = jax.value_and_grad(
      lambda p: jnp.sum(concordance(p, target, mask))
    )(constant)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('mapped', [jax.pmap, jax.vmap])
def test_eight_devices_see_the_global_batch(mapped):
  mask = np.ones(64, np.float32)
  mask[50:] = 0  # the last device has padding only
  batch = (*_draw(), mask)

  def loss(slope, devices, pred, target, mask):
    return jnp.sum(1 - concordance(slope * pred, target, mask)) / devices

  def step(*batch):
    share = jax.value_and_grad(loss)(jnp.float32(0.9), 8, *batch)
    return jax.lax.psum(share, DATA)

  shard = [x.reshape(8, 8, *x.shape[1:]) for x in batch]
  found = mapped(step, axis_name=DATA)(*shard)
  wanted = jax.value_and_grad(loss)(jnp.float32(0.9), 1, *batch)
  for values, value in zip(found, wanted, strict=True):
    np.testing.assert_allclose(values, np.full(8, value), rtol=1e-5)
