"""Sequences of frames: brought to one length, and their slopes over time."""

import jax
import jax.numpy as jnp

Array = jax.Array


def tile_to(x: Array, length: Array, size: int) -> Array:
  """Fits sequences to `size` frames by repeating their valid frames.

      tiled[t] = x[t mod length],  t = 0 .. size - 1

  so a longer sequence keeps its first frames and a shorter one is repeated from
  its start. Source: the input of DSNet (Chen and Zhang, arXiv 2312.15593).

  Args:
    x: [batch, frames, bins], of which the frames from `length` on are padding
      and never read.
    length: int [batch], valid frames of each sequence. A length of 0 (a padding
      row) repeats frame 0; one beyond the array is cut to it.
    size: frames of the result.

  Returns:
    [batch, size, bins].
  """

  def fit(frames: Array, valid: Array) -> Array:
    valid = jnp.clip(valid, 1, frames.shape[0])
    return frames[jnp.arange(size, dtype=valid.dtype) % valid]

  return jax.vmap(fit)(x, jnp.asarray(length))


def deltas(x: Array) -> Array:
  """Returns regression deltas of [..., frames, bins], edges replicated.

      d[t] = (c[t+1] - c[t-1] + 2 (c[t+2] - c[t-2])) / 10

  is the slope of the line fitted to five frames. Source: Young et al., "The HTK
  Book", section 5.9, with a window of two frames to each side.
  """
  frames = x.shape[-2]
  edges = [(0, 0)] * (x.ndim - 2) + [(2, 2), (0, 0)]
  padded = jnp.pad(x, edges, mode='edge')

  def shifted(by: int) -> Array:
    return jax.lax.slice_in_dim(padded, 2 + by, 2 + by + frames, axis=-2)

  return (shifted(1) - shifted(-1) + 2 * (shifted(2) - shifted(-2))) / 10


def with_deltas(x: Array) -> Array:
  """Returns static, delta and delta-delta channels [..., frames, bins, 3]."""
  first = deltas(x)
  return jnp.stack([x, first, deltas(first)], axis=-1)
