"""Losses against float64, in degenerate batches, masked and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import losses
from jaxser.ops.collectives import DATA, axis_size
from jaxser.ops.concordance import concordance
from tests.random_tree import assert_close


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_cross_entropy_of_no_label_and_weighted_of_no_row():
  """Of others in tests/parity, smoothed in test_timnet."""
  logits = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
  label = jnp.array([2, -1])
  assert losses.cross_entropy(logits, label)[1] == 0
  mean_log_p = np.log(_softmax(logits[1].astype(np.float64))).mean()
  smooth = losses.cross_entropy(logits, label, 0.1)
  np.testing.assert_allclose(smooth[1], -0.1 * mean_log_p, rtol=1e-5)
  args = logits, label, jnp.ones(3), jnp.zeros(2, bool)
  assert losses.weighted_cross_entropy_share(*args) == 0


# Jensen-Shannon divergence.


def _total(p, q):
  return losses.jensen_shannon(p, q).sum()


@pytest.mark.parametrize(('size', 'rtol'), [(1, 1e-6), (3e-4, 5e-3)])
def test_nearly_equal_distributions_keep_their_digits(size, rtol):
  # A difference of logarithms would be noise in the second: it is 1e-8.
  rng = np.random.default_rng(0)
  p, noise = rng.normal(0, 2, (2, 9, 256)).astype(np.float32)
  q = (p + size * noise).astype(np.float32)
  exact = [_softmax(x.astype(np.float64)) for x in (p, q)]
  middle = sum(exact) / 2
  want = sum(np.sum(x * np.log(x / middle), -1) for x in exact) / 2
  assert size == 1 or want.max() < 1e-6
  np.testing.assert_allclose(losses.jensen_shannon(p, q), want, rtol=rtol)
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


# Of whole batches: orthogonality and concordance.


def _pair(rows=12, d=5, e=5):
  rng = np.random.default_rng(0)
  return rng.normal(2, 1, (rows, d)), rng.normal(-1, 2, (rows, e))


def _concordance(a, b, mask):
  return jnp.sum(1 - concordance(a, b, mask))


BOTH = pytest.mark.parametrize(
  'function', [losses.orthogonality_penalty, _concordance]
)


def _run(function, a, b, mask=None):
  mask = jnp.ones(len(a)) if mask is None else mask
  a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
  return jax.value_and_grad(function, (0, 1))(a, b, mask)


@pytest.mark.parametrize(('offset', 'rtol'), [(0, 2e-6), (1000, 1e-5)])
def test_penalty_is_the_formula_and_keeps_its_digits(offset, rtol):
  a, b = _pair(e=7)
  a = np.asarray(a + offset, np.float32)
  x, y = (np.float64(x) - np.float64(x).mean(0) for x in (a, b))
  x, y = (
    z / (np.linalg.norm(z, axis=1, keepdims=True) + losses.EPSILON)
    for z in (x, y)
  )
  found, _ = _run(losses.orthogonality_penalty, a, b)
  np.testing.assert_allclose(found, np.mean((x.T @ y) ** 2), rtol=rtol)


@pytest.mark.parametrize(('offset', 'rtol'), [(0, 1e-6), (3000, 1e-4)])
def test_concordance_is_the_formula_and_keeps_its_digits(offset, rtol):
  rng = np.random.default_rng(1)
  target = rng.uniform(0, 1, (64, 3))
  pred = 0.5 * target + 0.3 * rng.standard_normal((64, 3)) + 0.1
  pred, target = (np.float32(x) + np.float32(offset) for x in (pred, target))
  p, t = np.float64(pred), np.float64(target)
  covariance = ((p - p.mean(0)) * (t - t.mean(0))).mean(0)
  gap = p.mean(0) - t.mean(0)
  wanted = 2 * covariance / (p.var(0) + t.var(0) + gap**2)
  np.testing.assert_allclose(concordance(pred, target), wanted, rtol=rtol)


CONSTANT = np.full((5, 3), 0.5)


@pytest.mark.parametrize(
  ('function', 'a', 'b', 'mask', 'expected'),
  [
    (losses.orthogonality_penalty, np.zeros((6, 4)), None, None, 0),
    # Equal rows, a batch of one, some rows of zeros.
    (
      losses.orthogonality_penalty,
      np.tile([[0.1, 1e3, -7.7, 0.3]], (6, 1)),
      *(None, None, 0),
    ),
    (losses.orthogonality_penalty, np.ones((1, 4)), None, None, 0),
    (
      losses.orthogonality_penalty,
      np.vstack([np.zeros((3, 4)), np.eye(3, 4)]),
      *(None, None, None),
    ),
    (losses.orthogonality_penalty, *_pair(), np.zeros(12), 0),
    (_concordance, CONSTANT, CONSTANT, None, 3),
    (_concordance, CONSTANT, CONSTANT, np.zeros(5), 3),
    (_concordance, CONSTANT, CONSTANT + 0.1, None, 3),
    (_concordance, CONSTANT[:1], CONSTANT[:1] + 0.1, None, 3),
  ],
)
def test_degenerate_batches_are_finite(function, a, b, mask, expected):
  if b is None:
    b = np.random.default_rng(1).normal(size=a.shape)
  value, gradients = _run(function, a, b, mask)
  assert all(np.all(np.isfinite(g)) for g in (value, *gradients))
  if expected is not None:
    atol = 1e-6 if expected else 1e-9
    np.testing.assert_allclose(value, expected, atol=atol)


@BOTH
@pytest.mark.parametrize('filler', [1e6, np.nan])
def test_masked_rows_change_nothing(function, filler):
  a, b = _pair(rows=6)
  mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
  kept, left = np.flatnonzero(mask), np.flatnonzero(mask == 0)
  want = _run(function, a[kept], b[kept])
  a[left] = b[left] = filler
  value, got = _run(function, a, b, mask)
  assert_close((value, tuple(x[kept] for x in got)), want, 1e-6)
  assert not any(np.any(x[left]) for x in got)


@BOTH
def test_eight_devices_are_one_batch(function):
  a, b = (x.astype(np.float32) for x in _pair(rows=24))
  mask = np.ones(24, np.float32)
  mask[[0, 7, 21, 22, 23]] = 0  # The last device has padding only.

  def share(a, b, mask):
    return function(a, b, mask) / axis_size()

  split = [x.reshape(8, 3, *x.shape[1:]) for x in (a, b, mask)]
  values, got = jax.pmap(jax.value_and_grad(share, (0, 1)), DATA)(*split)
  joined = tuple(np.concatenate(list(x)) for x in got)
  assert_close((np.sum(values), joined), _run(function, a, b, mask), 1e-5)
