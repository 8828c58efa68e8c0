"""The parts of DSNet (Chen and Zhang, arXiv 2312.15593) and its baselines.

Images are channels-last, [batch, frames, bins, 3], as XLA and cuDNN convolve
fastest. `rows` (int32 [batch]), `mask` ([batch], None for all) and `train` are
those of a batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxser.nn import layers
from jaxser.nn.layers import BatchNorm, Dropout
from jaxser.ops.convolution import convolve

CLIP = 10.0  # Attention scores are cut to +-10 before the softmax.


def batch_norm(name: str, pooled: bool = False) -> BatchNorm:
  """Returns a BatchNorm with the published constants, PyTorch's defaults."""
  options = {'epsilon': 1e-5, 'momentum': 0.9, 'unbiased': True}
  return BatchNorm(**options, pooled=pooled, name=name)


def linear(x: Array, width: int, name: str) -> Array:
  """[..., inputs] -> [..., width], starting as in PyTorch: +-1 / sqrt(inputs)."""
  draw = layers.uniform(x.shape[-1] ** -0.5)
  return layers.dense(width, name, kernel_init=draw, bias_init=draw)(x)


class Stage(nn.Module):
  """5 x 5 convolution, BatchNorm, ReLU, 2 x 2 max pooling, dropout.

  `dtype` (None: that of x) and `precision` are of the convolution; statistics
  are never below float32.
  """

  channels: int
  dropout: float = 0.2
  dtype: jnp.dtype | None = None
  precision: str | None = None

  @nn.compact
  def __call__(self, x, rows, mask, *, train) -> Array:
    """[batch, height, width, c] -> [batch, height // 2, width // 2, channels]."""
    xavier = nn.initializers.xavier_uniform()
    kernel = self.param('conv', xavier, (5, 5, x.shape[-1], self.channels))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if self.dtype is not None:
      x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    x = convolve(x, kernel, self.precision).astype(wide)
    x = batch_norm('bn', pooled=True)(x, train=train, mask=mask)
    return Dropout(self.dropout)(x, rows, train=train)


class AttentionPool(nn.Module):
  """Weighted mean over time of sigmoid(cla(x)), weights softmax(att(x))."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, time, channels] -> [batch, width], each channel weighted apart."""

    def dense(name):
      xavier = nn.initializers.xavier_uniform()
      return layers.dense(self.width, name, kernel_init=xavier)(x)

    # The authors' network holds this BatchNorm and never calls it: it is here
    # so that checkpoints round-trip and the parameter count is the published.
    layers.BatchNormWeights(name='bn_att')(self.width)
    weight = jax.nn.softmax(jnp.clip(dense('att'), -CLIP, CLIP), axis=1)
    return jnp.sum(weight * jax.nn.sigmoid(dense('cla')), axis=1)


class Encoder(nn.Module):
  """Convolutional encoder of both branches; each stage halves frames and bins."""

  channels: Sequence[int] = (64, 128, 256, 512)
  embedding: int = 256
  dropout: float = 0.2
  dtype: jnp.dtype | None = None
  precision: str | None = None

  @nn.compact
  def __call__(self, x, rows=None, mask=None, *, train) -> tuple[Array, Array]:
    """Returns embedding [batch, embedding] and what the attention pools.

    Of images [batch, frames, bins, 3] that is, after four stages, [batch,
    frames // 16, channels[-1]].
    """
    # Statistics per mel bin, over batch, time and the three channels.
    x = jnp.swapaxes(x, 2, 3)
    x = batch_norm('bn0')(x, train=train, mask=mask)
    x = jnp.swapaxes(x, 2, 3)
    settings = self.dropout, self.dtype, self.precision
    for i, channels in enumerate(self.channels):
      stage = Stage(channels, *settings, name=f'stage{i + 1}')
      x = stage(x, rows, mask, train=train)
    x = jnp.mean(x, axis=2)
    return AttentionPool(self.embedding, name='attention')(x), x


class Projection(nn.Module):
  """Two layers, each ReLU of a linear map, from the embedding to a subspace.

  A layer maps its input x, or with `gated` sigmoid(W2 relu(W1 x)) x + x, which
  the authors' code computes and does not use. Checkpoints fit both.
  """

  width: int = 256
  gated: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i, width in enumerate((self.width // 2, self.width)):
      x = ProjectionLayer(width, self.gated, name=f'layer{i + 1}')(x)
    return x


class ProjectionLayer(nn.Module):
  width: int
  gated: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inputs = x.shape[-1]
    gate = nn.relu(linear(x, inputs // 2, 'gate1'))
    gate = jax.nn.sigmoid(linear(gate, inputs, 'gate2'))
    return nn.relu(linear(gate * x + x if self.gated else x, self.width, 'fc'))


class TwoLayers(nn.Module):
  """Linear, ReLU, linear: decoder, translator, speaker classifier."""

  hidden: int
  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.relu(linear(x, self.hidden, 'linear1'))
    return linear(x, self.width, 'linear2')


class Classifier(nn.Module):
  """Linear, PReLU with one slope, dropout, BatchNorm, linear."""

  classes: int
  hidden: int = 256
  dropout: float = 0.5

  @nn.compact
  def __call__(self, x, rows=None, mask=None, *, train) -> tuple[Array, Array]:
    """[batch, width] -> logits [batch, classes], hidden [batch, hidden]."""
    x = linear(x, self.hidden, 'fc1')
    slope = self.param('prelu', nn.initializers.constant(0.25), (1,))
    hidden = jnp.where(x > 0, x, slope[None] * x)
    x = Dropout(self.dropout)(hidden, rows, train=train)
    x = batch_norm('bn')(x, train=train, mask=mask)
    return linear(x, self.classes, 'fc2'), hidden
