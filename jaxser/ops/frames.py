"""Sequences of frames: brought to one length, and their slopes over time."""

import jax
import jax.numpy as jnp
from jax import Array


def tile_to(x: Array, length: Array, size: int) -> Array:
  """Fits sequences to `size` frames by repeating or cutting their valid ones.

  `tiled[t] = x[t mod length]` of x [batch, frames, bins] and length int [batch]
  gives [batch, size, bins]. A length of 0 (a padding row) repeats frame 0, one
  beyond the array is cut to it. Source: the input of DSNet (arXiv 2312.15593).
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
