"""A light encoder over stored log-mel, for machines where WavLM does not fit."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.nn.layers import frame_mask

Array = jax.Array


class FeatureNorm(nn.Module):
  """Centres and scales each bin by its moments over all frames seen so far.

  Log-mel lies around -40 dB or 15 nepers; a moving average from zero would take
  a hundred steps to get there. Counts are kept and merged exactly (Chan et al.
  1979), so training and evaluation use the same numbers from the first step on.
  """

  @nn.compact
  def __call__(self, x: Array, valid: Array, *, train: bool) -> Array:
    """Normalises x [batch, time, bins]; valid is bool [batch, time]."""
    width = x.shape[-1:]
    count = self.variable('batch_stats', 'count', jnp.zeros, ())
    mean = self.variable('batch_stats', 'mean', jnp.zeros, width)
    var = self.variable('batch_stats', 'var', jnp.ones, width)
    if train and not self.is_initializing():
      new_mean, new_var, new = layers.masked_moments(x, valid)
      total = jnp.maximum(count.value + new, 1)
      gap, weight = new_mean - mean.value, new / total
      merged = (1 - weight) * var.value + weight * new_var
      merged = merged + weight * (1 - weight) * gap * gap
      # A batch of padding leaves everything as it was.
      var.value = jnp.where(new > 0, merged, var.value)
      mean.value = jnp.where(new > 0, mean.value + weight * gap, mean.value)
      count.value = count.value + new
    inverse = jax.lax.rsqrt(var.value + 1e-5)
    return (x - mean.value[None, None]) * inverse[None, None]


class LogMelEncoder(nn.Module):
  """[batch, frames, bins] log-mel -> [batch, frames / stride, width] frames.

  Normalisation per bin, then convolutions of five frames, each followed by
  layer norm, GELU and dropout; the first has the stride (2 for 10 ms frames, 1
  for 23 ms), the others a residual. Padding enters no number. `dtype` is that
  of the computation; parameters are float32.
  """

  width: int = 128
  stride: int = 1
  layers: int = 3
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features: Array, length: Array, rows: Array, *, train: bool
  ) -> tuple[Array, Array]:
    """Returns frames [batch, ceil(frames / stride), width] and valid ones.

    Of features [batch, frames, bins], dB or natural logarithm; length, rows
    (batch['row']) and the number of valid frames are int32 [batch].
    """
    valid = frame_mask(length, features.shape[1])
    features = jnp.where(valid[:, :, None], features, 0)
    norm = FeatureNorm(name='norm')
    x = norm(features, valid, train=train).astype(self.dtype)
    for layer in range(self.layers):
      stride = self.stride if layer == 0 else 1
      convolution = layers.FrameConvolution(
        self.width, 5, stride, self.dtype, name=f'conv_{layer}'
      )
      y = convolution(jnp.where(valid[:, :, None], x, 0))
      y = layers.layer_norm(f'norm_{layer}', dtype=self.dtype)(y)
      y = jax.nn.gelu(y, approximate=False)
      y = layers.Dropout(self.dropout)(y, rows, train=train)
      if layer == 0:
        length = (length + stride - 1) // stride
        valid = frame_mask(length, y.shape[1])
      x = y if layer == 0 else x + y
    return x, length
