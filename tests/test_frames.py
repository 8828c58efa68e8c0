"""Sequences are tiled from their start; deltas are slopes of fitted lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.frames import deltas, tile_to, with_deltas


def test_tiles_valid_frames_or_keeps_the_first():
  lengths = [1, 3, 5, 7, 0, 9]
  x = np.full((6, 7, 3), np.nan, np.float32)
  for row, length in enumerate(lengths):
    x[row, :length] = 100 * row + np.arange(length)[:7, None]
  # A padding row, of length 0, repeats frame 0; 9 is cut to what is there.
  x[4, 0] = 400
  got = jax.jit(tile_to, static_argnums=2)(x, jnp.array(lengths), 8)
  want = [
    [0, 0, 0, 0, 0, 0, 0, 0],
    [100, 101, 102, 100, 101, 102, 100, 101],
    [200, 201, 202, 203, 204, 200, 201, 202],
    [300, 301, 302, 303, 304, 305, 306, 300],
    [400, 400, 400, 400, 400, 400, 400, 400],
    [500, 501, 502, 503, 504, 505, 506, 500],
  ]
  np.testing.assert_array_equal(got, np.repeat(want, 3).reshape(6, 8, 3))
  short = tile_to(x, jnp.array(lengths), 4)
  np.testing.assert_array_equal(short, np.asarray(got)[:, :4])


def _slopes(x):
  """Slope of the line fitted to five frames, edges replicated, float64."""
  padded = np.pad(x.astype(np.float64), ((2, 2), (0, 0)), mode='edge')
  fit = np.polynomial.polynomial.polyfit
  time = np.arange(-2, 3)
  return np.stack([fit(time, padded[t : t + 5], 1)[1] for t in range(len(x))])


@pytest.mark.parametrize('frames', [1, 2, 4, 50])
def test_channels_are_static_slope_and_slope_of_the_slope(frames):
  x = np.random.default_rng(0).normal(10, 3, (2, frames, 6)).astype(np.float32)
  stack = jax.jit(with_deltas)(x)
  assert stack.shape == (2, frames, 6, 3)
  np.testing.assert_array_equal(stack[..., 0], x)
  for row in range(2):
    first = _slopes(x[row])
    np.testing.assert_allclose(stack[row, ..., 1], first, atol=1e-5)
    np.testing.assert_allclose(stack[row, ..., 2], _slopes(first), atol=1e-5)
  np.testing.assert_allclose(deltas(x), stack[..., 1], atol=1e-6)
