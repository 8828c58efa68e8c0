"""Regression deltas over time, with the edges replicated.

    d[t] = (c[t+1] - c[t-1] + 2 (c[t+2] - c[t-2])) / 10

is the slope of the line fitted to five frames. Source: Young et al., "The HTK
Book", section 5.9, with a window of two frames to each side.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def deltas(x: Array) -> Array:
  """Slope over time of [..., frames, bins], per frame; the shape is kept.

  Raises:
    ValueError: x has no time axis or no frame.
  """
  if x.ndim < 2 or x.shape[-2] < 1:
    raise ValueError(
      f'deltas needs [..., frames, bins] with a frame, not {x.shape}.'
    )
  frames = x.shape[-2]
  edges = [(0, 0)] * (x.ndim - 2) + [(2, 2), (0, 0)]
  padded = jnp.pad(x, edges, mode='edge')

  def shifted(by: int) -> Array:
    return jax.lax.slice_in_dim(padded, 2 + by, 2 + by + frames, axis=-2)

  return (shifted(1) - shifted(-1) + 2 * (shifted(2) - shifted(-2))) / 10


def with_deltas(x: Array) -> Array:
  """Static, delta and delta-delta channels of [..., frames, bins].

  Returns:
    [..., frames, bins, 3].
  """
  first = deltas(x)
  return jnp.stack([x, first, deltas(first)], axis=-1)
