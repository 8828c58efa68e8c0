"""Functionals: statistics over the valid frames of an utterance."""

import jax
import jax.numpy as jnp

PERCENTILES = (20, 50, 80)
PER_BIN = 2 * (2 + len(PERCENTILES))
"""Numbers per bin of the frames."""


def functionals(frames: jax.Array, length: jax.Array) -> jax.Array:
  """Mean, biased standard deviation and `PERCENTILES` over time, with deltas.

  Of the valid frames of [batch, frames, bins], length int32 [batch], 0 counting
  as 1: [batch, PER_BIN * bins], statistic by statistic, those of the deltas last.
  Percentiles are interpolated linearly, as NumPy does by default.
  """
  length = jnp.maximum(length, 1)
  parts = (frames, deltas(frames, length))
  return jnp.concatenate(
    [statistic for x in parts for statistic in _statistics(x, length)], axis=-1
  )


def deltas(frames: jax.Array, length: jax.Array) -> jax.Array:
  """Returns `(x[t + 1] - x[t - 1]) / 2`, the first and last frame repeated.

  [batch, frames, bins]; beyond `length`, at least 1, of no meaning.
  """
  time = jnp.arange(frames.shape[1])[None, :, None]
  after = jnp.minimum(time + 1, length[:, None, None] - 1)
  before = jnp.maximum(time - 1, 0)
  return 0.5 * (
    jnp.take_along_axis(frames, after, axis=1)
    - jnp.take_along_axis(frames, before, axis=1)
  )


def _statistics(x: jax.Array, length: jax.Array) -> list[jax.Array]:
  """Returns each statistic over time, [batch, bins]."""
  count = length[:, None, None]
  valid = jnp.arange(x.shape[1])[None, :, None] < count
  mean = jnp.sum(jnp.where(valid, x, 0), axis=1, keepdims=True) / count
  centred = jnp.where(valid, x - mean, 0)
  std = jnp.sqrt(jnp.sum(centred**2, axis=1, keepdims=True) / count)
  ascending = jnp.sort(jnp.where(valid, x, jnp.inf), axis=1)
  found = [mean, std]
  for percentile in PERCENTILES:
    position = percentile / 100 * (count - 1)
    lower = jnp.floor(position).astype(jnp.int32)
    upper = jnp.minimum(lower + 1, count - 1)
    below = jnp.take_along_axis(ascending, lower, axis=1)
    above = jnp.take_along_axis(ascending, upper, axis=1)
    found.append(below + (position - lower) * (above - below))
  return [value[:, 0] for value in found]
