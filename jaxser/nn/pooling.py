"""Attentive statistics pooling: the baseline that style pooling is held to.

Source: Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding",
Interspeech 2018.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.numerics import NEVER

Array = jax.Array


class AttentiveStatistics(nn.Module):
  """[batch, time, d] frames -> [batch, 2 d]: weighted mean and deviation.

      w = softmax over valid frames of tanh(linear(x)) . v
      mean = sum w x,   deviation = sqrt(sum w (x - mean)^2)

  Attributes:
    floor: smallest variance, so that the root keeps a finite derivative.
  """

  floor: float = 1e-5

  @nn.compact
  def __call__(self, frames: Array, valid: Array) -> Array:
    """Pools frames [batch, time, d]; valid is bool [batch, time]."""
    x = frames.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST
    width = x.shape[-1]
    hidden = jnp.tanh(nn.Dense(width, precision=precision, name='linear')(x))
    vector = self.param(
      'attention', nn.initializers.lecun_normal(), (width, 1), jnp.float32
    )
    scores = jnp.matmul(hidden, vector, precision=precision)
    scores = jnp.where(valid[:, :, None], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=1)
    mean = jnp.sum(weights * x, axis=1, keepdims=True)
    variance = jnp.sum(weights * (x - mean) ** 2, axis=1)
    deviation = jnp.sqrt(jnp.maximum(variance, self.floor))
    return jnp.concatenate([mean[:, 0], deviation], axis=-1)
