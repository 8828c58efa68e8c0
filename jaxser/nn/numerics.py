"""Small decisions that every encoder and pooling shares: precision, masks."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

NEVER = -1e30
"""Score of what a softmax must not see: finite, so that the softmax of a row
without a single valid frame is not NaN."""


def precision_of(dtype: Any) -> jax.lax.Precision | None:
  """Float32 means float32, also where a device would round to TF32 or bf16."""
  if jnp.dtype(dtype) == jnp.float32:
    return jax.lax.Precision.HIGHEST
  return None


def frame_mask(valid: Array, frames: int) -> Array:
  """Booleans [batch, frames]: True for the first `valid` [batch] frames."""
  return jnp.arange(frames)[None] < valid[:, None]


def masked_mean(x: Array, valid: Array) -> Array:
  """Mean over valid [batch, time] of x [batch, time, d] in float32.

  A row without a valid frame gives zeros.
  """
  weight = valid.astype(jnp.float32)[:, :, None]
  total = jnp.sum(x.astype(jnp.float32) * weight, axis=1)
  return total / jnp.maximum(jnp.sum(weight, axis=1), 1)
