"""Regression deltas against numpy's least squares and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.deltas import deltas, with_deltas


def _reference(x):
  """Slope of the line fitted to five frames, edges replicated, float64."""
  padded = np.pad(x.astype(np.float64), ((2, 2), (0, 0)), mode='edge')
  time = np.arange(-2, 3)
  return np.stack(
    [
      np.polynomial.polynomial.polyfit(time, padded[t : t + 5], 1)[1]
      for t in range(len(x))
    ]
  )


@pytest.mark.parametrize('frames', [1, 2, 4, 50])
def test_is_the_slope_of_a_fitted_line(frames):
  x = np.random.default_rng(0).normal(10, 3, (frames, 6)).astype(np.float32)
  np.testing.assert_allclose(
    jax.jit(deltas)(x), _reference(x), rtol=1e-5, atol=1e-5
  )


def test_straight_line_has_its_slope_inside():
  x = jnp.arange(10.0)[:, None] * 0.5
  np.testing.assert_allclose(deltas(x)[2:-2], 0.5, rtol=1e-6)
  # At the edge c[-1] = c[-2] = c[0]: (0.5 - 0 + 2 (1 - 0)) / 10.
  np.testing.assert_allclose(deltas(x)[0], 0.25, rtol=1e-6)


def test_channels_are_static_delta_and_delta_of_delta():
  x = np.random.default_rng(1).normal(size=(2, 9, 4)).astype(np.float32)
  stack = with_deltas(x)
  assert stack.shape == (2, 9, 4, 3)
  np.testing.assert_array_equal(stack[..., 0], x)
  for row in range(2):
    first = _reference(x[row])
    np.testing.assert_allclose(stack[row, ..., 1], first, atol=1e-6)
    np.testing.assert_allclose(stack[row, ..., 2], _reference(first), atol=1e-6)


def test_vmap_and_gradient():
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 8, 2)), jnp.float32)
  np.testing.assert_allclose(jax.vmap(deltas)(x), deltas(x), rtol=1e-6)
  # The derivative of a linear map is the map itself.
  cotangent = jnp.ones_like(x)
  gradient = jax.grad(lambda x: jnp.vdot(deltas(x), cotangent))(x)
  np.testing.assert_allclose(
    jnp.vdot(gradient, x), jnp.sum(deltas(x)), rtol=1e-5
  )


def test_bad_input():
  with pytest.raises(ValueError, match=r'frames, bins.*not \(5,\)'):
    deltas(jnp.ones(5))
