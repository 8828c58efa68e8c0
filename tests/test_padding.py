"""Fitting sequences to one length by repeating them from their start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.padding import tile_to


def _sequences(lengths, frames=7, bins=3):
  """Frames of sequence b count 100 b, 100 b + 1, ...; padding is NaN."""
  x = np.full((len(lengths), frames, bins), np.nan, np.float32)
  for row, length in enumerate(lengths):
    x[row, :length] = 100 * row + np.arange(length)[:, None]
  return x


@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_repeats_valid_frames_or_keeps_the_first(transform):
  lengths = [1, 3, 5, 7]
  fit = transform(lambda x, n: tile_to(x, n, 5))
  got = fit(_sequences(lengths), jnp.array(lengths))
  want = [
    [0, 0, 0, 0, 0],
    [100, 101, 102, 100, 101],
    [200, 201, 202, 203, 204],
    [300, 301, 302, 303, 304],
  ]
  assert got.shape == (4, 5, 3)
  np.testing.assert_array_equal(got, np.repeat(want, 3).reshape(4, 5, 3))


def test_more_frames_than_the_array_holds():
  got = tile_to(_sequences([2]), jnp.array([2]), 20)
  np.testing.assert_array_equal(got[0, :, 0], np.arange(20) % 2)


def test_padding_rows_and_wrong_lengths_stay_inside_the_array():
  x = jnp.arange(4, dtype=jnp.float32).reshape(1, 4, 1)
  np.testing.assert_array_equal(tile_to(x, jnp.array([0]), 3).ravel(), 0)
  np.testing.assert_array_equal(
    tile_to(x, jnp.array([9]), 6).ravel(), [0, 1, 2, 3, 0, 1]
  )


def test_one_sequence_and_vmap():
  lengths = jnp.array([2, 6])
  x = _sequences([2, 6])
  batch = tile_to(x, lengths, 9)
  np.testing.assert_array_equal(tile_to(x[1], lengths[1], 9), batch[1])
  np.testing.assert_array_equal(
    jax.vmap(lambda a, n: tile_to(a, n, 9))(x, lengths), batch
  )


def test_gradient_counts_the_uses_of_a_frame():
  x = jnp.ones((1, 4, 2))
  gradient = jax.grad(lambda x: tile_to(x, jnp.array([3]), 5).sum())(x)
  np.testing.assert_array_equal(gradient[0, :, 0], [2, 2, 1, 0])


def test_bad_input():
  with pytest.raises(ValueError, match='at least 1 frame, not 0'):
    tile_to(jnp.ones((1, 2, 3)), jnp.array([2]), 0)
  with pytest.raises(ValueError, match=r'one length per sequence, \(1,\), not'):
    tile_to(jnp.ones((1, 2, 3)), jnp.array([2, 2]), 4)
  with pytest.raises(ValueError, match=r'with a frame, not \(1, 0, 3\)'):
    tile_to(jnp.ones((1, 0, 3)), jnp.array([0]), 4)
