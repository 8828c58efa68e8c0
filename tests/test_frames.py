"""Sequences are tiled from their start; deltas are slopes of fitted lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

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


@pytest.mark.parametrize('frames', [1, 2, 4, 50])
def test_channels_are_static_slope_and_slope_of_the_slope(frames):
  x = np.random.default_rng(0).normal(10, 3, (2, frames, 6)).astype(np.float32)
  stack = jax.jit(with_deltas)(x)
  assert stack.shape == (2, frames, 6, 3)
  np.testing.assert_array_equal(stack[..., 0], x)
  # Of the line fitted to five frames, edges replicated.
  fit = {'polyorder': 1, 'deriv': 1, 'axis': 1, 'mode': 'nearest'}
  first = scipy.signal.savgol_filter(x.astype(np.float64), 5, **fit)
  second = scipy.signal.savgol_filter(first, 5, **fit)
  np.testing.assert_allclose(stack[..., 1], first, atol=1e-5)
  np.testing.assert_allclose(stack[..., 2], second, atol=1e-5)
  np.testing.assert_allclose(deltas(x), stack[..., 1], atol=1e-6)
