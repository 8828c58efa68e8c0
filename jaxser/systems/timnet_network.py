"""TIM-Net's network over coefficients; formulas in `jaxser.systems.timnet`.

Parameters have the published shapes. Inside the step both directions are one
array [directions, batch, time, channels] and 39 channels are padded to 40.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.ops import temporal

Array = jax.Array

DIRECTIONS = ('forward', 'backward')
EPSILON = 1e-3
MOMENTUM = 0.99
# Channels are padded to a multiple of this inside the compiled step: on CPUs
# 39 columns cost more than 40. The added weights are zero and never trained.
_LANES = 8
_HIGHEST = jax.lax.Precision.HIGHEST


class Convolution(nn.Module):
  """Parameters of a causal convolution: kernel [width, in, out] and bias."""

  features: int
  width: int = 1

  @nn.compact
  def __call__(self, inputs: int) -> tuple[Array, Array]:
    """Returns (kernel, bias) for so many input channels."""
    kernel = self.param(
      'kernel',
      nn.initializers.glorot_uniform(),
      (self.width, inputs, self.features),
    )
    return kernel, self.param('bias', nn.initializers.zeros, (self.features,))


class Norm(nn.Module):
  """Parameters and running statistics of one BatchNorm, each [features]."""

  features: int

  @nn.compact
  def __call__(self) -> tuple[Array, Array, nn.Variable, nn.Variable]:
    """Returns (scale, bias, mean, variance)."""
    shape = (self.features,)
    return (
      self.param('scale', nn.initializers.ones, shape),
      self.param('bias', nn.initializers.zeros, shape),
      self.variable('batch_stats', 'mean', jnp.zeros, shape),
      self.variable('batch_stats', 'var', jnp.ones, shape),
    )


class Layer(NamedTuple):
  """Convolution and BatchNorm of one direction."""

  kernel: Array
  shift: Array
  scale: Array
  bias: Array
  mean: nn.Variable
  variance: nn.Variable


class TemporalBlock(nn.Module):
  """Parameters of one direction's temporal-aware block."""

  features: int
  kernel_size: int

  @nn.compact
  def __call__(self) -> list[Layer]:
    """Returns the two layers of the block."""
    made = []
    for number in (1, 2):
      convolution = Convolution(
        self.features, self.kernel_size, name=f'conv{number}'
      )
      norm = Norm(self.features, name=f'norm{number}')
      made.append(Layer(*convolution(self.features), *norm()))
    return made


class Network(nn.Module):
  """TIM-Net behind its front end; see `TimNet` for the settings."""

  num_classes: int
  filters: int
  kernel_size: int
  num_blocks: int
  dropout: float
  ablation: str

  @nn.compact
  def __call__(
    self, x: Array, rows: Array, mask: Array, *, train: bool
  ) -> tuple[Array, dict[str, Array]]:
    """Logits [batch, classes] and every intermediate.

    Args:
      x: coefficients [batch, time, coefficients].
      rows: int32 [batch], position in the global batch.
      mask: [batch], 1 for utterances, 0 for padding rows.
      train: whether statistics are the batch's and dropout is on.

    Returns:
      The logits, and {'multi_scale': [batch, blocks, filters], 'fused': [batch,
      filters]; [batch, time, filters]: 'stem_forward', 'stem_backward',
      'block0_forward' and so on}. Streams called backward run from the last
      frame to the first.
    """
    one_way = self.ablation in ('forward_only', 'tcn')
    directions = DIRECTIONS[:1] if one_way else DIRECTIONS
    out = {}

    def keep(name, hidden):
      for stream, direction in enumerate(directions):
        out[f'{name}_{direction}'] = hidden[stream, ..., : self.filters]

    stems = [
      Convolution(self.filters, name=f'stem_{direction}')(x.shape[-1])
      for direction in directions
    ]
    turned = [x, x[:, ::-1]][: len(directions)]
    hidden = temporal.causal_convolution(
      _padded(turned, 1), _padded([kernel for kernel, _ in stems], 2), 1
    )
    hidden += _padded([bias for _, bias in stems], 1)[:, None, None]
    keep('stem', hidden)
    factors = self._dropout_factors(rows, len(directions), train)
    scales = []
    for number in range(self.num_blocks):
      blocks = [
        TemporalBlock(
          self.filters, self.kernel_size, name=f'block{number}_{direction}'
        )()
        for direction in directions
      ]
      u = hidden
      for index, layer in enumerate(zip(*blocks, strict=True)):
        factor = factors[:, :, number, index]
        u = self._apply(layer, u, 2**number, factor, mask, train)
      gated = self.ablation != 'tcn'
      hidden = hidden * nn.sigmoid(u) if gated else hidden + u
      keep(f'block{number}', hidden)
      # The backward stream needs no turning back: the mean does not see order.
      scales.append(jnp.sum(jnp.mean(hidden, axis=2), axis=0))
    multi_scale = jnp.stack(scales, axis=1)[..., : self.filters]
    if self.ablation in ('last_scale', 'tcn'):
      fused = multi_scale[:, -1]
    elif self.ablation == 'mean_fusion':
      fused = jnp.mean(multi_scale, axis=1)
    else:
      weight = self.param('fusion', _uniform(0.05), (self.num_blocks,))
      fused = jnp.einsum('bnc,n->bc', multi_scale, weight, precision=_HIGHEST)
    logits = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.glorot_uniform(),
      precision=_HIGHEST,
      name='head',
    )(fused)
    return logits, {'multi_scale': multi_scale, 'fused': fused, **out}

  def _dropout_factors(self, rows: Array, streams: int, train: bool) -> Array:
    """[streams, batch, blocks, 2, channels] of 0 or 1 / (1 - rate)."""
    shape = (streams, self.num_blocks, 2, self.filters)
    if train and self.dropout > 0:
      kept = layers.row_bernoulli(
        self.make_rng('dropout'), rows, 1 - self.dropout, shape
      )
      factors = kept / (1 - self.dropout)
    else:
      factors = jnp.ones((rows.shape[0], *shape))
    return _pad_last(jnp.swapaxes(factors, 0, 1), 1)

  def _apply(
    self,
    layer: Sequence[Layer],
    x: Array,
    dilation: int,
    factor: Array,
    mask: Array,
    train: bool,
  ) -> Array:
    """Convolution, BatchNorm, ReLU and dropout of all directions' layers."""
    kernel = _padded([one.kernel for one in layer], 2)
    scale = _padded([one.scale for one in layer], 1)
    bias = _padded([one.bias for one in layer], 1)
    if not train:
      # BatchNorm with fixed statistics is a part of the convolution.
      slope = scale * jax.lax.rsqrt(
        _padded([one.variance.value for one in layer], 1) + EPSILON
      )
      mean = _padded([one.mean.value - one.shift for one in layer], 1)
      y = temporal.causal_convolution(
        x, kernel * slope[:, None, None], dilation
      )
      return nn.relu(y + (bias - mean * slope)[:, None, None])
    # The convolution's bias cancels in BatchNorm, so it is left out and only
    # enters the running mean. Its gradient is then exactly zero, where adding
    # it would leave rounding noise for Adam to amplify.
    z, (mean, variance, count) = temporal.normalised_relu(
      temporal.causal_convolution(x, kernel, dilation),
      scale,
      bias,
      factor,
      mask,
      EPSILON,
    )
    keep = jnp.where(count > 0, MOMENTUM, 1.0)
    for stream, one in enumerate(layer):
      seen = mean[stream, : self.filters] + jax.lax.stop_gradient(one.shift)
      one.mean.value = keep * one.mean.value + (1 - keep) * seen
      one.variance.value = (
        keep * one.variance.value
        + (1 - keep) * variance[stream, : self.filters]
      )
    return z


def _pad_last(x: Array, axes: int) -> Array:
  """Fills the last axes with zeros up to a multiple of _LANES."""
  first = x.ndim - axes
  return jnp.pad(
    x,
    [
      (0, -size % _LANES if i >= first else 0) for i, size in enumerate(x.shape)
    ],
  )


def _padded(parts: Sequence[Array], axes: int) -> Array:
  """Stacks the directions' arrays; their last axes are channels."""
  return _pad_last(jnp.stack(parts), axes)


def _uniform(limit: float):
  def initial(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return initial
