"""Layers that systems share, and their small decisions on precision and masks.

Dropout and BatchNorm give the same numbers however a batch is sharded.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxser.ops import max_pooling
from jaxser.ops.collectives import psum

HIGHEST = jax.lax.Precision.HIGHEST

NEVER = -1e30
"""Score of what a softmax must not see; finite, for rows without a frame."""


def precision_of(dtype: Any) -> jax.lax.Precision | None:
  """Float32 means float32, also where a device would round to TF32 or bf16."""
  return HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def frame_mask(valid: Array, frames: int) -> Array:
  """Returns booleans [batch, frames]: True for the first `valid` [batch]."""
  return jnp.arange(frames)[None] < valid[:, None]


def uniform(limit: float) -> Callable[..., Array]:
  """Returns an initialiser that draws from -limit to limit."""

  def draw(rng, shape, dtype=jnp.float32):
    return jax.random.uniform(rng, shape, dtype, -limit, limit)

  return draw


def dense(features: int, name: str, dtype: Any = None, **initializers: Any):
  """Returns a linear layer in `dtype`, or that of its input."""
  precision = precision_of(dtype or jnp.float32)
  options = {'dtype': dtype, 'precision': precision, **initializers}
  return nn.Dense(features, name=name, **options)


def layer_norm(name: str, epsilon: float = 1e-5, dtype: Any = None):
  """Returns a layer norm whose variance is taken around the mean."""
  return nn.LayerNorm(
    epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name
  )


class FrameConvolution(nn.Module):
  """Convolution over frames as matrix products, one for each tap.

      y[t] = sum_k x[t * stride + k - width // 2] W[k] + b,   zeros beyond ends

  [batch, time, in] -> [batch, ceil(time / stride), features], of odd width, with
  the values and parameters of `flax.linen.Conv`. The gradient of that is a naive
  loop in `scan` on CPUs (eight times slower), a grouped one under vmap over folds.
  """

  features: int
  width: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.width, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    kernel = kernel.astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:])
    time, half = x.shape[1], self.width // 2
    x = jnp.pad(x.astype(self.dtype), ((0, 0), (half, half), (0, 0)))
    count = -(-time // self.stride)
    y = bias.astype(self.dtype)[None, None]
    for tap in range(self.width):
      part = x[:, tap : tap + (count - 1) * self.stride + 1 : self.stride]
      y = y + jnp.matmul(part, kernel[tap], precision=precision_of(self.dtype))
    return y


def masked_moments(x: Array, mask: Array | None) -> tuple[Array, Array, Array]:
  """Returns mean, biased variance [channels] and count [] of the global batch.

  Over all axes of x [batch, ..., channels] but the last; mask is None, or 1 and
  0 in a leading part of the shape of x. Nothing at all gives zeros.
  """
  axes = tuple(range(x.ndim - 1))
  if mask is None:
    mask = jnp.ones(x.shape[:-1])
  weight = mask.astype(x.dtype)
  weight = weight.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
  weight = jnp.broadcast_to(weight, (*x.shape[:-1], 1))
  count = psum(jnp.sum(weight))
  safe = jnp.maximum(count, 1)
  mean = psum(jnp.sum(x * weight, axes)) / safe
  centred = (x - jnp.expand_dims(mean, axes)) * weight
  # The second pass costs one more sweep and keeps float32 exact for features
  # whose mean is far larger than their spread, such as log-mel in dB.
  variance = psum(jnp.sum(centred * centred, axes)) / safe
  return mean, variance, count


class NormWeights(NamedTuple):
  """Parameters and running statistics of a BatchNorm, each [channels]."""

  scale: Array
  bias: Array
  mean: nn.Variable
  var: nn.Variable

  def update(self, mean: Array, var: Array, keep: Array) -> None:
    """Moves the running statistics, keeping the share `keep` of the old."""
    self.mean.value = keep * self.mean.value + (1 - keep) * mean
    self.var.value = keep * self.var.value + (1 - keep) * var


def _norm_weights(module: nn.Module, channels: int) -> NormWeights:
  shape = (channels,)
  return NormWeights(
    module.param('scale', nn.initializers.ones, shape),
    module.param('bias', nn.initializers.zeros, shape),
    module.variable('batch_stats', 'mean', jnp.zeros, shape),
    module.variable('batch_stats', 'var', jnp.ones, shape),
  )


class BatchNormWeights(nn.Module):
  """What a BatchNorm holds, for networks that write its computation out."""

  @nn.compact
  def __call__(self, channels: int) -> NormWeights:
    return _norm_weights(self, channels)


class BatchNorm(nn.Module):
  """Batch normalisation over the valid entries of the global batch.

  `momentum` is the share of the old running value that is kept, as in Keras;
  `unbiased` divides the running variance by count - 1, as PyTorch does. With
  `pooled` 2 x 2 max pooling and ReLU follow.
  """

  epsilon: float = 1e-3
  momentum: float = 0.99
  unbiased: bool = False
  pooled: bool = False

  @nn.compact
  def __call__(self, x: Array, *, train: bool, mask: Array | None = None):
    """Normalises x [batch, ..., channels]; mask as in `masked_moments`."""
    weights = _norm_weights(self, x.shape[-1])
    mean, var = weights.mean.value, weights.var.value
    pooled = None
    if train:
      if self.pooled:
        rows = jnp.ones(len(x)) if mask is None else mask
        pooled, (mean, var, count) = max_pooling.normalised_pool(
          x, weights.scale, weights.bias, rows, self.epsilon
        )
      else:
        mean, var, count = masked_moments(x, mask)
      running = var
      if self.unbiased:
        running = var * count / jnp.maximum(count - 1, 1)
      weights.update(mean, running, jnp.where(count > 0, self.momentum, 1.0))
    if pooled is not None:
      return pooled
    inverse = weights.scale * jax.lax.rsqrt(var + self.epsilon)
    shift = weights.bias - mean * inverse
    if self.pooled:
      return max_pooling.pool(x, inverse, shift)
    axes = tuple(range(x.ndim - 1))
    return x * jnp.expand_dims(inverse, axes) + jnp.expand_dims(shift, axes)


def row_bernoulli(rng: Array, rows: Array, keep: float, shape: Sequence[int]):
  """Returns booleans [batch, *shape], drawn from `rng` and each global row."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
  draw = functools.partial(jax.random.bernoulli, p=keep, shape=tuple(shape))
  return jax.vmap(draw)(keys)


class Dropout(nn.Module):
  """Dropout whose mask does not depend on how the batch is sharded."""

  rate: float

  @nn.compact
  def __call__(self, x: Array, rows: Array | None, *, train: bool) -> Array:
    """Drops entries of x [batch, ...]; rows int32 [batch] are batch['row']."""
    if not train or self.rate == 0:
      return x
    assert rows is not None, 'dropout in training needs the rows of the batch'
    rng = self.make_rng('dropout')
    kept = row_bernoulli(rng, rows, 1 - self.rate, x.shape[1:])
    return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))
