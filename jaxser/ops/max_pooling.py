"""BatchNorm, 2 x 2 max pooling and ReLU in one, with one array for the gradient.

Usual formulas of the gradient find the winner of a window by `x == y`; a compiler
may compute x twice with different rounding, then no entry wins. Here comparisons
among the four choose. Odd last rows and columns are left out of the windows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxser.ops.collectives import psum


def pool(x: Array, slope: Array, shift: Array) -> Array:
  """Returns relu(max_pool(x slope + shift)); slope and shift are [channels].

  [batch, height, width, channels] -> [batch, height // 2, width // 2, ...].
  """
  return jnp.maximum(_highest(x, slope, shift)[0], 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalised_pool(x, scale, bias, mask, epsilon):
  """BatchNorm in training mode, 2 x 2 max pooling and ReLU.

      z = relu(max_pool(scale (x - mean) / sqrt(variance + epsilon) + bias))

  Mean and variance [channels] are over the rows of x [batch, height, width,
  channels] with mask 1, [batch], on all devices; scale and bias are [channels].
  The gradient goes to the entry that won, row by row to the first of equal ones,
  as in PyTorch; for it x is kept, and a byte for each window.

  Returns:
    z and (mean, variance, count [] of entries). Gradients flow through z to x,
    scale and bias alone; those of scale and bias are this device's share.
  """
  return _forward(x, scale, bias, mask, epsilon)[0]


def _forward(x, scale, bias, mask, epsilon):
  weight, axes = mask[:, None, None, None], (0, 1, 2)
  count = psum(jnp.sum(mask) * (x.shape[1] * x.shape[2]))
  safe = jnp.maximum(count, 1)
  mean = psum(jnp.sum(x * weight, axes)) / safe
  # The second pass keeps float32 exact for means far above the spread.
  centred = x - _wide(mean)
  variance = psum(jnp.sum(centred * centred * weight, axes)) / safe
  inverse = lax.rsqrt(variance + epsilon)
  slope = scale * inverse
  highest, place = _highest(x, slope, bias - mean * slope)
  # 4 where ReLU lets nothing through.
  winner = jnp.where(highest > 0, place, 4).astype(jnp.uint8)
  saved = (x, mean, inverse, scale, weight, safe, winner)
  return (jnp.maximum(highest, 0), (mean, variance, count)), saved


def _backward(epsilon, saved, cotangents):
  x, mean, inverse, scale, weight, count, winner = saved
  dz, _ = cotangents
  places = jnp.array([[0, 1], [2, 3]], jnp.uint8)
  won = winner[:, :, None, :, None] == places[None, None, :, None, :, None]
  dy = jnp.where(won, dz[:, :, None, :, None], 0)
  dbias = jnp.sum(jnp.where(winner < 4, dz, 0), (0, 1, 2))
  centred = _windows(x - _wide(mean))
  dscale = jnp.sum(dy * centred, (0, 1, 2, 3, 4)) * inverse
  # Padding rows are in no mean, so the means' gradients do not reach them.
  tilt = _wide(psum(dscale) / count * inverse)
  rest = weight * (_wide(psum(dbias) / count) + (x - _wide(mean)) * tilt)
  batch, height, width, channels = x.shape
  dy = dy.reshape(batch, height // 2 * 2, width // 2 * 2, channels)
  dy = jnp.pad(dy, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
  return (dy - rest) * _wide(scale * inverse), dscale, dbias, None


normalised_pool.defvjp(_forward, _backward)


def _highest(x: Array, slope: Array, shift: Array) -> tuple[Array, Array]:
  """Returns the maxima of x slope + shift, and where they were, 0 to 3."""
  windows = _windows(x)
  # Each entry by itself: an array that all four share would go to memory.
  upper_left, upper_right, lower_left, lower_right = (
    windows[:, :, i, :, j] * _wide(slope) + _wide(shift)
    for i, j in np.ndindex(2, 2)
  )
  right_above, right_below = upper_right > upper_left, lower_right > lower_left
  above = jnp.where(right_above, upper_right, upper_left)
  below = jnp.where(right_below, lower_right, lower_left)
  is_lower = below > above
  is_right = jnp.where(is_lower, right_below, right_above)
  return jnp.where(is_lower, below, above), 2 * is_lower + is_right


def _windows(x: Array) -> Array:
  """[b, h, w, c] -> [b, h // 2, 2, w // 2, 2, c]."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _wide(channels: Array) -> Array:
  return channels[None, None, None]
