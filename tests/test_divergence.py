"""Jensen-Shannon divergence against float64, extremes, every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.divergence import jensen_shannon, jensen_shannon_rows


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def _reference(p_logits, q_logits):
  """(KL(p || m) + KL(q || m)) / 2 in float64, 0 log 0 = 0."""
  p, q = _softmax(p_logits), _softmax(q_logits)
  m = (p + q) / 2

  def kl(x):
    ratio = np.where(x > 0, x, 1) / np.where(x > 0, m, 1)
    return np.sum(np.where(x > 0, x * np.log(ratio), 0), -1)

  return (kl(p) + kl(q)) / 2


def _reference_gradient(p_logits, q_logits):
  """d JS / d p_logits = p (log(p / m) - KL(p || m)) / 2, in float64."""
  p, q = _softmax(p_logits), _softmax(q_logits)
  log_ratio = np.log(2 * p / (p + q))
  return p * (log_ratio - np.sum(p * log_ratio, -1, keepdims=True)) / 2


def _logits(rows=9, classes=256, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(0, 2, (2, rows, classes)).astype(np.float32)


def test_value_and_gradient_are_those_of_float64():
  p, q = _logits()
  value, gradients = jax.jit(
    jax.value_and_grad(lambda *x: jensen_shannon_rows(*x).sum(), (0, 1))
  )(p, q)
  p64, q64 = p.astype(np.float64), q.astype(np.float64)
  np.testing.assert_allclose(
    jensen_shannon_rows(p, q), _reference(p64, q64), rtol=1e-6
  )
  np.testing.assert_allclose(value, _reference(p64, q64).sum(), rtol=1e-6)
  np.testing.assert_allclose(
    gradients[0], _reference_gradient(p64, q64), rtol=1e-4, atol=1e-8
  )
  np.testing.assert_allclose(
    gradients[1], _reference_gradient(q64, p64), rtol=1e-4, atol=1e-8
  )


def test_nearly_equal_distributions_keep_their_digits():
  # A difference of logarithms would be noise here: the value is 1e-8.
  p, noise = _logits()
  q = (p + 3e-4 * noise).astype(np.float32)
  got = jensen_shannon_rows(p, q)
  want = _reference(p.astype(np.float64), q.astype(np.float64))
  assert want.max() < 1e-6
  np.testing.assert_allclose(got, want, rtol=5e-3)


def test_equal_distributions_give_zero_value_and_gradient():
  p, _ = _logits()
  value, gradient = jax.value_and_grad(jensen_shannon)(p, p + 3)
  assert value < 1e-11
  np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize('size', [50.0, 1e4, 1e30])
def test_extreme_logits_are_finite(size):
  p = jnp.array([[size, 0.0, -size], [size, size, 0.0]])
  q = jnp.array([[-size, 0.0, size], [size, size, 0.0]])
  value, gradient = jax.value_and_grad(
    lambda p, q: jensen_shannon_rows(p, q).sum()
  )(p, q)
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  assert np.all(np.isfinite(gradient))


def test_symmetric_and_bounded():
  p, q = _logits(rows=50, classes=3)
  value = jensen_shannon_rows(5 * p, 5 * q)
  np.testing.assert_allclose(
    value, jensen_shannon_rows(5 * q, 5 * p), rtol=1e-4, atol=1e-8
  )
  assert np.all(value >= 0)
  assert np.all(value <= np.log(2) * (1 + 1e-6))


@pytest.mark.parametrize('filler', [1e6, np.nan])
def test_masked_rows_change_nothing(filler):
  p, q = _logits(rows=5)
  mask = jnp.array([1, 0, 1, 1, 0], jnp.float32)
  kept, left = np.array([0, 2, 3]), np.array([1, 4])
  grad = jax.jit(jax.value_and_grad(jensen_shannon, argnums=(0, 1)))
  want_value, want = grad(p[kept], q[kept])
  p, q = p.copy(), q.copy()
  p[left] = q[left] = filler
  value, got = grad(p, q, mask)
  np.testing.assert_allclose(value, want_value, rtol=1e-6)
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x[kept], y, rtol=1e-6)
    np.testing.assert_array_equal(x[left], 0)
  assert jensen_shannon(p, q, jnp.zeros(5)) == 0


def test_vmap_over_folds():
  p, q = (np.stack([x[:4], x[4:8]]) for x in _logits())
  np.testing.assert_allclose(
    jax.vmap(jensen_shannon)(p, q),
    [jensen_shannon(*fold) for fold in zip(p, q, strict=True)],
    rtol=1e-6,
  )


def test_pmap_over_eight_devices_is_one_batch():
  p, q = _logits(rows=16)
  mask = jnp.ones(16).at[jnp.array([0, 1, 5])].set(0)
  grad = jax.jit(jax.value_and_grad(jensen_shannon))
  want_value, want = grad(p, q, mask)

  def share(p, q, mask):
    return jensen_shannon(p, q, mask) / jax.lax.axis_size('data')

  split = [x.reshape(8, 2, *x.shape[1:]) for x in (p, q, mask)]
  values, got = jax.pmap(jax.value_and_grad(share), axis_name='data')(*split)
  np.testing.assert_allclose(np.sum(values), want_value, rtol=1e-6)
  np.testing.assert_allclose(
    got.reshape(want.shape), want, rtol=1e-4, atol=1e-8
  )


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'one shape, not \(2, 3\) and \(2, 4\)'):
    jensen_shannon_rows(jnp.ones((2, 3)), jnp.ones((2, 4)))
  with pytest.raises(ValueError, match=r'a mask \[rows\].*\(3,\)'):
    jensen_shannon(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(3))
