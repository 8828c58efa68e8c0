"""Losses against float64, in degenerate batches, masked and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import losses
from jaxser.ops.collectives import DATA, axis_size
from tests.random_tree import assert_close


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_cross_entropy_of_smoothed_labels_and_of_none():
  logits = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
  log_p = np.log(_softmax(logits.astype(np.float64)))
  label = jnp.array([1, 3, -1])
  wanted = np.array([-log_p[0, 1], -log_p[1, 3], 0])
  hard = losses.cross_entropy(logits, label)
  np.testing.assert_allclose(hard, wanted, rtol=1e-5)
  smooth = losses.cross_entropy(logits, label, 0.1)
  wanted = 0.9 * wanted - 0.1 * log_p.mean(-1)
  np.testing.assert_allclose(smooth, wanted, rtol=1e-5)


def test_weighted_cross_entropy_is_the_weighted_mean():
  logits = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
  args = logits, jnp.array([0, 2, 1, 2, -1]), jnp.array([0.5, 2.0, 1.0])
  entropy = -np.log(_softmax(logits))[np.arange(4), [0, 2, 1, 2]]
  w = np.array([0.5, 1.0, 2.0, 1.0])
  got = losses.weighted_cross_entropy_share(*args, jnp.arange(5) < 4)
  np.testing.assert_allclose(got, (w * entropy).sum() / w.sum(), rtol=1e-6)
  none = losses.weighted_cross_entropy_share(*args, jnp.zeros(5, bool))
  np.testing.assert_array_equal(none, 0)


# Jensen-Shannon divergence.


def _divergence(p_logits, q_logits):
  """(KL(p || m) + KL(q || m)) / 2 and its gradient by p_logits, in float64."""
  p, q = (_softmax(x.astype(np.float64)) for x in (p_logits, q_logits))
  m = (p + q) / 2
  kl_p, kl_q = (np.sum(x * np.log(x / m), -1) for x in (p, q))
  gradient = p * (np.log(p / m) - kl_p[:, None]) / 2
  return (kl_p + kl_q) / 2, gradient


def _total(p, q):
  return losses.jensen_shannon(p, q).sum()


LOGITS = np.random.default_rng(0).normal(0, 2, (2, 9, 256)).astype(np.float32)


def test_divergence_and_gradient_are_those_of_float64():
  p, q = LOGITS
  value, by_p = _divergence(p, q)
  np.testing.assert_allclose(losses.jensen_shannon(p, q), value, rtol=1e-6)
  gradients = jax.jit(jax.grad(_total, (0, 1)))(p, q)
  assert_close(gradients, (by_p, _divergence(q, p)[1]), 1e-5)


def test_nearly_equal_distributions_keep_their_digits():
  # A difference of logarithms would be noise here: the value is 1e-8.
  p, noise = LOGITS
  q = (p + 3e-4 * noise).astype(np.float32)
  want, _ = _divergence(p, q)
  assert want.max() < 1e-6
  np.testing.assert_allclose(losses.jensen_shannon(p, q), want, rtol=5e-3)
  value, gradient = jax.value_and_grad(_total)(p, p + 3)
  assert value < 1e-10
  np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize('size', [50.0, 1e4, 1e30])
def test_extreme_logits_are_finite(size):
  p = jnp.array([[size, 0.0, -size], [size, size, 0.0]])
  q = jnp.array([[-size, 0.0, size], [size, size, 0.0]])
  value, gradient = jax.value_and_grad(_total)(p, q)
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  assert np.all(np.isfinite(gradient))


# Orthogonality.


def _pair(rows=12, d=5, e=7):
  rng = np.random.default_rng(0)
  return rng.normal(2, 1, (rows, d)), rng.normal(-1, 2, (rows, e))


def _penalty(a, b, norms=None):
  """The formula in float64; `norms` freezes the norms of the rows."""
  a, b = a - a.mean(0), b - b.mean(0)
  if norms is None:
    norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
  small = losses.EPSILON
  inner = (a / (norms[0] + small)).T @ (b / (norms[1] + small))
  return np.mean(inner**2), norms


def _penalty_gradient(a, b):
  """Central differences in float64 with the norms held constant."""
  _, norms = _penalty(a, b)
  gradient = np.zeros_like(a)
  for i in np.ndindex(a.shape):
    step = np.zeros_like(a)
    step[i] = 1e-5
    up, down = (_penalty(a + sign * step, b, norms)[0] for sign in (1, -1))
    gradient[i] = (up - down) / 2e-5
  return gradient


def _orthogonality(a, b, mask=None):
  mask = jnp.ones(len(a)) if mask is None else mask
  a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
  return jax.value_and_grad(losses.orthogonality_penalty, (0, 1))(a, b, mask)


def test_penalty_and_gradients_are_those_of_float64_with_constant_norms():
  a, b = _pair()
  value, gradients = _orthogonality(a, b)
  np.testing.assert_allclose(value, _penalty(a, b)[0], rtol=2e-6)
  wanted = _penalty_gradient(a, b), _penalty_gradient(b, a)
  assert_close(gradients, wanted, 1e-5)
  shifted = np.asarray(a + 1000, np.float32)
  wanted = _penalty(shifted.astype(np.float64), b)[0]
  np.testing.assert_allclose(_orthogonality(shifted, b)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
  ('a', 'expected'),
  [
    (np.zeros((6, 4)), 0.0),
    (np.tile([[0.1, 1e3, -7.7, 0.3]], (6, 1)), 0.0),
    (np.ones((1, 4)), 0.0),
    (np.vstack([np.zeros((3, 4)), np.eye(3, 4)]), None),
  ],
  ids=['zero rows', 'equal rows', 'batch of one', 'some zero rows'],
)
def test_degenerate_batches_are_finite(a, expected):
  b = np.random.default_rng(1).normal(size=a.shape)
  value, gradients = _orthogonality(a, b)
  assert all(np.all(np.isfinite(g)) for g in (value, *gradients))
  if expected is not None:
    np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.parametrize('filler', [1e6, np.nan])
def test_masked_rows_change_nothing(filler):
  a, b = _pair(rows=6)
  mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
  kept, left = np.flatnonzero(mask), np.flatnonzero(mask == 0)
  want = _orthogonality(a[kept], b[kept])
  a[left] = b[left] = filler
  value, got = _orthogonality(a, b, mask)
  assert_close((value, tuple(x[kept] for x in got)), want, 1e-6)
  assert not any(np.any(x[left]) for x in got)
  np.testing.assert_array_equal(_orthogonality(a, b, jnp.zeros(6))[0], 0)


def test_eight_devices_are_one_batch():
  a, b = (x.astype(np.float32) for x in _pair(rows=24))
  mask = np.ones(24, np.float32)
  mask[[0, 7, 21, 22, 23]] = 0

  def share(a, b, mask):
    return losses.orthogonality_penalty(a, b, mask) / axis_size()

  split = [x.reshape(8, 3, *x.shape[1:]) for x in (a, b, mask)]
  values, got = jax.pmap(jax.value_and_grad(share, (0, 1)), DATA)(*split)
  joined = tuple(np.concatenate(list(x)) for x in got)
  assert_close((np.sum(values), joined), _orthogonality(a, b, mask), 1e-5)


@pytest.mark.parametrize('strength', [0.0, 0.3, 1.0])
def test_reversal_is_the_identity_with_reversed_gradient(strength):
  x = jnp.array([1.5, -2.25, 1e-9])

  def f(x, strength):
    return jnp.sum(jnp.sin(losses.reverse_gradient(x, strength)))

  value, gradient = jax.jit(jax.value_and_grad(f))(x, jnp.float32(strength))
  np.testing.assert_allclose(value, jnp.sum(jnp.sin(x)), rtol=1e-6)
  np.testing.assert_allclose(gradient, -strength * jnp.cos(x), rtol=1e-6)
  assert jax.grad(f, argnums=1)(x, jnp.float32(strength)) == 0
