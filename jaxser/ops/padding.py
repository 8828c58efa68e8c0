"""Sequences of any length brought to one length.

    tiled[t] = x[t mod length],  t = 0 .. size - 1

so a longer sequence keeps its first frames and a shorter one is repeated from
its start. Source: the input of DSNet (Chen and Zhang, arXiv 2312.15593).
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def tile_to(x: Array, length: Array, size: int) -> Array:
  """Fits sequences to `size` frames by repeating their valid frames.

  Args:
    x: [..., frames, bins], of which the frames from `length` on are padding and
      never read.
    length: int [...], valid frames of each sequence. A length of 0 (a padding
      row) repeats frame 0; one beyond the array is cut to it.
    size: frames of the result.

  Returns:
    [..., size, bins].

  Raises:
    ValueError: size is below 1, x holds no frame or the shapes do not fit.
  """
  length = jnp.asarray(length)
  if size < 1:
    raise ValueError(f'tile_to needs a size of at least 1 frame, not {size}.')
  if x.ndim < 2 or x.shape[-2] < 1:
    raise ValueError(
      f'tile_to needs [..., frames, bins] with a frame, not {x.shape}.'
    )
  if length.shape != x.shape[:-2]:
    raise ValueError(
      f'tile_to needs one length per sequence, {x.shape[:-2]}, '
      f'not {length.shape}.'
    )

  def fit(frames: Array, valid: Array) -> Array:
    valid = jnp.clip(valid, 1, frames.shape[0])
    return frames[jnp.arange(size, dtype=valid.dtype) % valid]

  for _ in range(length.ndim):
    fit = jax.vmap(fit)
  return fit(x, length)
