"""The parts of EmoSphere-SER around WavLM: encoder, pooling, head."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxser.nn import layers
from jaxser.nn.layers import NEVER, Dropout, frame_mask, precision_of


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

  Normalisation per bin, then three convolutions of five frames, each followed by
  layer norm, GELU and dropout; the first has the stride (2 for 10 ms frames, 1
  for 23 ms), the others a residual. Padding enters no number. `dtype` is that
  of the computation; parameters are float32.
  """

  width: int = 128
  stride: int = 1
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features: Array, length: Array, rows: Array, *, train: bool
  ):
    """Returns frames [batch, ceil(frames / stride), width] and valid ones.

    Of features [batch, frames, bins], dB or natural logarithm; length, rows
    (batch['row']) and the number of valid frames are int32 [batch].
    """
    valid = frame_mask(length, features.shape[1])
    features = jnp.where(valid[:, :, None], features, 0)
    norm = FeatureNorm(name='norm')
    x = norm(features, valid, train=train).astype(self.dtype)
    for layer in range(3):
      stride = self.stride if layer == 0 else 1
      convolution = layers.FrameConvolution(
        self.width, 5, stride, self.dtype, name=f'conv_{layer}'
      )
      y = convolution(jnp.where(valid[:, :, None], x, 0))
      y = layers.layer_norm(f'norm_{layer}', dtype=self.dtype)(y)
      y = jax.nn.gelu(y, approximate=False)
      y = Dropout(self.dropout)(y, rows, train=train)
      if layer == 0:
        length = (length + stride - 1) // stride
        valid = frame_mask(length, y.shape[1])
      x = y if layer == 0 else x + y
    return x, length


class AttentiveStatistics(nn.Module):
  """[batch, time, d] frames -> [batch, 2 d]: weighted mean and std.

      w = softmax over valid frames of tanh(linear(x)) . v
      mean = sum w x,   std = sqrt(sum w (x - mean)^2)

  Source: Okabe et al., "Attentive Statistics Pooling for Deep Speaker
  Embedding", Interspeech 2018.
  """

  @nn.compact
  def __call__(self, frames: Array, valid: Array) -> Array:
    """Pools frames [batch, time, d]; valid is bool [batch, time]."""
    x = frames.astype(jnp.float32)
    width = x.shape[-1]
    hidden = jnp.tanh(layers.dense(width, 'linear')(x))
    normal = nn.initializers.lecun_normal()
    vector = self.param('attention', normal, (width, 1), jnp.float32)
    scores = jnp.matmul(hidden, vector, precision=layers.HIGHEST)
    scores = jnp.where(valid[:, :, None], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=1)
    mean = jnp.sum(weights * x, axis=1, keepdims=True)
    variance = jnp.sum(weights * (x - mean) ** 2, axis=1)
    # The root keeps a finite derivative.
    std = jnp.sqrt(jnp.maximum(variance, 1e-5))
    return jnp.concatenate([mean[:, 0], std], axis=-1)


def masked_mean(x: Array, valid: Array) -> Array:
  """Returns the mean [batch, d] over valid [batch, time], 0 of none, float32."""
  weight = valid.astype(jnp.float32)[:, :, None]
  total = jnp.sum(x.astype(jnp.float32) * weight, axis=1)
  return total / jnp.maximum(jnp.sum(weight, axis=1), 1)


def published_frames(samples: Array, frames: int) -> Array:
  """Returns valid frames [batch] by the authors' rule, at most `frames`.

  The encoder itself makes one frame less or the same of samples [batch] at
  16 kHz, so the last one that counts may be padding.
  """
  return jnp.minimum((samples - 1) // 320 + 1, frames)


def mish(x: Array) -> Array:
  """Returns `x tanh(softplus(x))` (Misra, BMVC 2020)."""
  return x * jnp.tanh(jax.nn.softplus(x))


class GatedConv(nn.Module):
  """`x + dropout(a * sigmoid(b))`, a and b halves of a convolution of 5."""

  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, rows: Array, *, train: bool) -> Array:
    """[batch, time, d] -> [batch, time, d]; rows is batch['row']."""
    width = 2 * x.shape[-1]
    conv = layers.FrameConvolution(width, 5, dtype=self.dtype, name='conv')
    content, gate = jnp.split(conv(x), 2, axis=-1)
    gated = content * jax.nn.sigmoid(gate)
    return x + Dropout(self.dropout)(gated, rows, train=train)


class StyleAttention(nn.Module):
  """Self-attention with a residual; scores and softmax are float32.

  The published block divides by the root of the whole width, not of the width
  of one head, and has no layer norm.
  """

  dropout: float = 0.1
  dtype: Any = jnp.float32
  heads: int = 2

  @nn.compact
  def __call__(self, x: Array, valid: Array, rows: Array, *, train: bool):
    """[batch, time, d] -> [batch, time, d]; keys outside `valid` are unseen."""
    width, precision = x.shape[-1], precision_of(self.dtype)

    def project(name):
      y = layers.dense(width, name, self.dtype)(x)
      return y.reshape(*y.shape[:2], self.heads, width // self.heads)

    def drop(x):
      return Dropout(self.dropout)(x, rows, train=train)

    scores = jnp.einsum(
      'bqhd,bkhd->bhqk',
      project('query'),
      project('key'),
      precision=precision,
      preferred_element_type=jnp.float32,
    ) / math.sqrt(width)
    scores = jnp.where(valid[:, None, None, :], scores, NEVER)
    weights = drop(jax.nn.softmax(scores, axis=-1).astype(self.dtype))
    mixed = jnp.einsum(
      'bhqk,bkhd->bqhd', weights, project('value'), precision=precision
    )
    out = layers.dense(width, 'out', self.dtype)(mixed.reshape(x.shape))
    return x + drop(out)


class StylePooling(nn.Module):
  """[batch, time, encoder width] frames -> [batch, width] style vector.

  Two linear layers with Mish, two gated convolutions, one attention block, a
  linear layer, and the mean over valid frames, in float32. Source: the mel style
  encoder of Min et al., "Meta-StyleSpeech" (ICML 2021), as EmoSphere-SER uses it.

  Attributes:
    mask_before_conv: set padded frames to 0 before each convolution. The
      authors do so only after both, so that padding leaks four frames into the
      utterance; False repeats that.
  """

  width: int = 1024
  dropout: float = 0.1
  mask_before_conv: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: Array, valid: Array, rows: Array, *, train: bool):
    """Pools frames [batch, time, d_in]; valid is bool [batch, time]."""
    keep = valid[:, :, None]
    x = frames.astype(self.dtype)
    for name in ('spectral_0', 'spectral_1'):
      x = layers.dense(self.width, name, self.dtype)(x)
      x = Dropout(self.dropout)(mish(x), rows, train=train)
    for name in ('temporal_0', 'temporal_1'):
      if self.mask_before_conv:
        x = jnp.where(keep, x, 0)
      x = GatedConv(self.dropout, self.dtype, name=name)(x, rows, train=train)
    x = jnp.where(keep, x, 0)
    attention = StyleAttention(self.dropout, self.dtype, name='attention')
    x = attention(x, valid, rows, train=train)
    return masked_mean(layers.dense(self.width, 'out', self.dtype)(x), valid)


class Head(nn.Module):
  """Dropout, linear, layer norm, ReLU, dropout, linear; all in float32.

  Outputs [batch, outputs] start with the spread `scale` around `centre`.
  """

  width: int
  outputs: int
  dropout: float = 0.5
  scale: float = 1.0
  centre: float = 0.0

  @nn.compact
  def __call__(self, x: Array, rows: Array, *, train: bool) -> Array:
    x = Dropout(self.dropout)(x.astype(jnp.float32), rows, train=train)
    x = layers.layer_norm('norm')(layers.dense(self.width, 'hidden')(x))
    x = Dropout(self.dropout)(jax.nn.relu(x), rows, train=train)
    start = {
      'kernel_init': nn.initializers.variance_scaling(
        self.scale**2, 'fan_in', 'truncated_normal'
      ),
      'bias_init': nn.initializers.constant(self.centre),
    }
    return layers.dense(self.outputs, 'out', **start)(x)
