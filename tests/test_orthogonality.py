"""Orthogonality penalty against float64, degenerate batches, every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.orthogonality import EPSILON, orthogonality_penalty


def _pair(rows=12, d=5, e=7, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(2, 1, (rows, d)), rng.normal(-1, 2, (rows, e))


def _reference(a, b, norms=None):
  """The formula in float64; `norms` freezes the norms of the rows."""
  a, b = a - a.mean(0), b - b.mean(0)
  if norms is None:
    norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
  inner = (a / (norms[0] + EPSILON)).T @ (b / (norms[1] + EPSILON))
  return np.mean(inner**2), norms


def _reference_gradient(a, b):
  """Central differences in float64 with the norms held constant."""
  _, norms = _reference(a, b)
  gradient = np.zeros_like(a)
  for i in np.ndindex(a.shape):
    step = np.zeros_like(a)
    step[i] = 1e-5
    up, _ = _reference(a + step, b, norms)
    down, _ = _reference(a - step, b, norms)
    gradient[i] = (up - down) / 2e-5
  return gradient


def _float32(*arrays):
  return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def test_value_and_gradients_are_those_of_float64():
  a, b = _pair()
  value, gradients = jax.jit(
    jax.value_and_grad(orthogonality_penalty, argnums=(0, 1))
  )(*_float32(a, b))
  np.testing.assert_allclose(value, _reference(a, b)[0], rtol=2e-6)
  scale = np.abs(gradients[0]).max()
  np.testing.assert_allclose(
    gradients[0], _reference_gradient(a, b), rtol=1e-4, atol=1e-6 * scale
  )
  scale = np.abs(gradients[1]).max()
  np.testing.assert_allclose(
    gradients[1], _reference_gradient(b, a), rtol=1e-4, atol=1e-6 * scale
  )


def test_norm_is_held_constant():
  # A gradient through the norm would have no part along the normalised row.
  a, b = _pair(rows=3, d=4, e=4)
  gradient = jax.grad(orthogonality_penalty)(*_float32(a, b))
  centred = a - a.mean(0)
  assert np.max(np.abs(np.sum(gradient * centred, axis=1))) > 1e-3


def test_large_offset_keeps_its_digits():
  a, b = _pair()
  shifted = np.asarray(a + 1000, np.float32)
  np.testing.assert_allclose(
    orthogonality_penalty(*_float32(shifted, b)),
    _reference(shifted.astype(np.float64), b)[0],
    rtol=1e-5,
  )


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
  value, gradients = jax.value_and_grad(orthogonality_penalty, argnums=(0, 1))(
    *_float32(a, b)
  )
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(g)) for g in gradients)
  if expected is not None:
    np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.parametrize('filler', [1e6, np.nan])
def test_masked_rows_change_nothing(filler):
  a, b = _float32(*_pair(rows=6))
  mask = jnp.array([1, 1, 0, 1, 0, 1], jnp.float32)
  kept = np.flatnonzero(mask)
  dirty = [x.at[jnp.array([2, 4])].set(filler) for x in (a, b)]
  grad = jax.jit(jax.value_and_grad(orthogonality_penalty, argnums=(0, 1)))
  want_value, want = grad(a[kept], b[kept])
  value, got = grad(*dirty, mask)
  np.testing.assert_allclose(value, want_value, rtol=1e-6)
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x[kept], y, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(x[np.array([2, 4])], 0)


def test_no_row_at_all_gives_zero():
  a, b = _float32(*_pair(rows=4))
  assert orthogonality_penalty(a, b, jnp.zeros(4)) == 0


def test_vmap_over_folds():
  folds = [_float32(*_pair(seed=seed)) for seed in range(3)]
  stacked = [jnp.stack(x) for x in zip(*folds, strict=True)]
  np.testing.assert_allclose(
    jax.vmap(orthogonality_penalty)(*stacked),
    [orthogonality_penalty(*fold) for fold in folds],
    rtol=1e-6,
  )


def test_pmap_over_eight_devices_is_one_batch():
  a, b = _float32(*_pair(rows=24))
  mask = jnp.ones(24).at[jnp.array([0, 7, 21, 22, 23])].set(0)
  grad = jax.jit(jax.value_and_grad(orthogonality_penalty, argnums=(0, 1)))
  want_value, want = grad(a, b, mask)

  def share(a, b, mask):
    return orthogonality_penalty(a, b, mask) / jax.lax.axis_size('data')

  split = [x.reshape(8, 3, *x.shape[1:]) for x in (a, b, mask)]
  values, got = jax.pmap(
    jax.value_and_grad(share, argnums=(0, 1)), axis_name='data'
  )(*split)
  np.testing.assert_allclose(np.sum(values), want_value, rtol=1e-6)
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x.reshape(y.shape), y, rtol=1e-4, atol=1e-8)


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'same number of rows.*\(3, 2\)'):
    orthogonality_penalty(jnp.ones((3, 2)), jnp.ones((4, 2)))
  with pytest.raises(ValueError, match=r'mask \(3,\), not \(2,\)'):
    orthogonality_penalty(jnp.ones((3, 2)), jnp.ones((3, 2)), jnp.ones(2))
