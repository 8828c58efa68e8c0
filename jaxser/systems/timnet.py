"""TIM-Net: bidirectional dilated temporal blocks over 39 MFCCs.

Ye et al., "Temporal Modeling Matters: A Novel Temporal Emotional Modeling
Approach for Speech Emotion Recognition", ICASSP 2023 (arXiv 2211.08233), as its
published checkpoints behave: 106,992 parameters for seven classes, 104,496 of
them trainable.

Input [batch, time, 39]; for each direction with its own weights a 1x1
convolution, then blocks j = 1 .. n on h:

    u = twice (causal convolution of width 2 and dilation 2^(j-1) -> BatchNorm
        -> ReLU -> spatial dropout) of h
    h = h * sigmoid(u)
    g_j = mean over time of (forward h + backward h)          [batch, 39]

The scores are softmax(dense(sum_j w_j g_j)) with a learned w.

Parameters have the published shapes. Inside the step both directions are one
array [directions, batch, time, channels] and 39 channels are padded to 40.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.ops import temporal
from jaxser.ops.collectives import mean_share
from jaxser.ops.dct import mfcc
from jaxser.systems import base
from jaxser.systems.base import Array, Batch, System, Tree, require

ABLATIONS = ('none', 'tcn', 'forward_only', 'last_scale', 'mean_fusion')
DIRECTIONS = ('forward', 'backward')
EPSILON = 1e-3
# Channels are padded to a multiple of this inside the compiled step: on CPUs
# 39 columns cost more than 40. The added weights are zero and never trained.
_LANES = 8


class Convolution(nn.Module):
  """Parameters of a causal convolution: kernel [width, in, out] and bias."""

  features: int
  width: int = 1

  @nn.compact
  def __call__(self, inputs: int) -> tuple[Array, Array]:
    shape = (self.width, inputs, self.features)
    kernel = self.param('kernel', nn.initializers.glorot_uniform(), shape)
    return kernel, self.param('bias', nn.initializers.zeros, shape[-1:])


class Layer(NamedTuple):
  """Parameters of the convolution and BatchNorm of one direction."""

  kernel: Array
  shift: Array
  norm: layers.NormWeights


class TemporalBlock(nn.Module):
  """Parameters of one direction's temporal-aware block: its two layers."""

  features: int
  kernel_size: int

  @nn.compact
  def __call__(self) -> list[Layer]:
    size, width = self.features, self.kernel_size
    return [
      Layer(
        *Convolution(size, width, name=f'conv{number}')(size),
        layers.BatchNormWeights(name=f'norm{number}')(size),
      )
      for number in (1, 2)
    ]


class TimNet(System):
  """TIM-Net over stored log-mel frames.

  Attributes:
    num_coefficients: MFCCs, the first of the cosine transform of log-mel.
    filters: channels C of every layer.
    kernel_size: width of the dilated convolutions.
    num_blocks: temporal-aware blocks n; 8, or 10 for IEMOCAP.
    dropout: share of channels that spatial dropout drops.
    label_smoothing: of training labels.
    batch_norm_momentum: share of BatchNorm's running statistics that a step
      keeps; those of 0.99 follow hundreds of steps late.
    ablation: 'none'; 'forward_only' (the paper's w/o BD); 'last_scale' (w/o MS:
      the last block alone); 'mean_fusion' (w/o DF: mean over blocks); 'tcn': a
      plain temporal convolutional network, one direction, residual blocks h + u
      without the gate, last block alone. The paper does not describe its TCN
      further.
  """

  num_classes: int
  num_coefficients: int = 39
  filters: int = 39
  kernel_size: int = 2
  num_blocks: int = 8
  dropout: float = 0.1
  label_smoothing: float = 0.1
  batch_norm_momentum: float = 0.99
  ablation: str = 'none'

  # Every frame counts: the signal was padded to a constant length before the
  # spectrogram, as published.
  padding: ClassVar[str] = 'published'
  mixup: ClassVar[bool] = True
  weighs_classes: ClassVar[bool] = True

  def validate(self) -> None:
    for name in ('num_coefficients', 'filters', 'kernel_size', 'num_blocks'):
      require(self, (name, getattr(self, name) >= 1, 'at least 1'))
    for name in ('dropout', 'label_smoothing', 'batch_norm_momentum'):
      part = 0 <= getattr(self, name) < 1
      require(self, (name, part, 'from 0 to below 1'))
    require(
      self,
      ('num_classes', self.num_classes >= 2, 'at least 2'),
      ('ablation', self.ablation in ABLATIONS, f'one of {ABLATIONS}'),
    )

  def check(self, corpus, lengths) -> None:
    shape, least = corpus.feature_shape, self.num_coefficients
    if len(shape) != 2 or shape[1] < least:
      raise ValueError(
        f'TIM-Net needs frames of at least {least} mels, its features are '
        f'{shape}; prepare it with --features=librosa22k'
      )

  def __call__(self, batch: Batch, *, train: bool) -> tuple[Array, Tree]:
    """Returns logits and intermediates of log-mel [batch, frames, mels]."""
    x = mfcc(batch['features'], self.num_coefficients)
    return self.network(x, batch['row'], batch['mask'], train=train)

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    """Returns the cross-entropy with smoothed labels, mean over utterances."""
    variables, rngs = {'params': params, **state}, {'dropout': rng}
    (logits, _), new = self.apply(
      variables, batch, train=True, rngs=rngs, mutable=['batch_stats']
    )
    errors = base.label_loss(logits, batch, self.label_smoothing)
    correct = jnp.argmax(logits, axis=-1) == batch['label']
    loss = mean_share(errors, base.row_weights(batch))
    metrics = {'loss': loss, 'accuracy': mean_share(correct, batch['mask'])}
    return loss, {'state': dict(new), 'metrics': metrics}

  def predict(self, params, state, batch):
    """Returns scores, logits [batch, classes], embedding and intermediates."""
    logits, out = self.apply({'params': params, **state}, batch, train=False)
    scores = {'scores': jax.nn.softmax(logits), 'logits': logits}
    return {**scores, 'embedding': out['fused'], **out}

  @nn.compact
  def network(self, x: Array, rows: Array, mask: Array, *, train: bool):
    """Returns logits [batch, classes] of MFCCs [batch, time, coefficients].

    And {'multi_scale': [batch, blocks, filters], 'fused': [batch, filters];
    [batch, time, filters]: 'stem_forward', 'stem_backward', 'block0_forward'
    and so on}. Streams called backward run from the last frame to the first.
    """
    one_way = self.ablation in ('forward_only', 'tcn')
    directions = DIRECTIONS[:1] if one_way else DIRECTIONS
    out = {}

    def keep(name, hidden):
      for stream, direction in enumerate(directions):
        out[f'{name}_{direction}'] = hidden[stream, ..., : self.filters]

    stems = [
      Convolution(self.filters, name=f'stem_{d}')(x.shape[-1])
      for d in directions
    ]
    streams = [x, x[:, ::-1]][: len(directions)]
    hidden = temporal.causal_convolution(
      _padded(streams, 1), _padded([kernel for kernel, _ in stems], 2), 1
    )
    hidden += _padded([bias for _, bias in stems], 1)[:, None, None]
    keep('stem', hidden)
    factors = self._dropout_factors(rows, len(directions), train)
    scales = []
    for number in range(self.num_blocks):
      size = self.filters, self.kernel_size
      blocks = [
        TemporalBlock(*size, name=f'block{number}_{d}')() for d in directions
      ]
      u = hidden
      for index, layer in enumerate(zip(*blocks, strict=True)):
        factor = factors[:, :, number, index]
        u = self._apply_layer(layer, u, 2**number, factor, mask, train)
      gated = self.ablation != 'tcn'
      hidden = hidden * nn.sigmoid(u) if gated else hidden + u
      keep(f'block{number}', hidden)
      # The backward stream need not be reversed: the mean does not see order.
      scales.append(jnp.sum(jnp.mean(hidden, axis=2), axis=0))
    multi_scale = jnp.stack(scales, axis=1)[..., : self.filters]
    if self.ablation in ('last_scale', 'tcn'):
      fused = multi_scale[:, -1]
    elif self.ablation == 'mean_fusion':
      fused = jnp.mean(multi_scale, axis=1)
    else:
      weight = self.param('fusion', layers.uniform(0.05), (self.num_blocks,))
      fused = jnp.einsum(
        'bnc,n->bc', multi_scale, weight, precision=layers.HIGHEST
      )
    glorot = nn.initializers.glorot_uniform()
    head = layers.dense(self.num_classes, 'head', kernel_init=glorot)
    return head(fused), {'multi_scale': multi_scale, 'fused': fused, **out}

  def _dropout_factors(self, rows: Array, streams: int, train: bool) -> Array:
    """Returns [streams, batch, blocks, 2, channels] of 0 or 1 / (1 - rate)."""
    shape, keep = (streams, self.num_blocks, 2, self.filters), 1 - self.dropout
    if train and self.dropout > 0:
      rng = self.make_rng('dropout')
      factors = layers.row_bernoulli(rng, rows, keep, shape) / keep
    else:
      factors = jnp.ones((rows.shape[0], *shape))
    return _pad_last(jnp.swapaxes(factors, 0, 1), 1)

  def _apply_layer(self, layer, x, dilation, factor, mask, train) -> Array:
    """Convolution, BatchNorm, ReLU and dropout of all directions' layers."""
    kernel = _padded([one.kernel for one in layer], 2)
    scale = _padded([one.norm.scale for one in layer], 1)
    bias = _padded([one.norm.bias for one in layer], 1)
    if not train:
      # BatchNorm with fixed statistics is a part of the convolution.
      variance = _padded([one.norm.var.value for one in layer], 1)
      slope = scale * jax.lax.rsqrt(variance + EPSILON)
      mean = _padded([one.norm.mean.value - one.shift for one in layer], 1)
      kernel = kernel * slope[:, None, None]
      y = temporal.causal_convolution(x, kernel, dilation)
      return nn.relu(y + (bias - mean * slope)[:, None, None])
    # The convolution's bias cancels in BatchNorm, so it is left out and only
    # enters the running mean. Its gradient is then exactly zero, where adding
    # it would leave rounding noise for Adam to amplify.
    y = temporal.causal_convolution(x, kernel, dilation)
    z, (mean, variance, count) = temporal.normalised_relu(
      y, scale, bias, factor, mask, EPSILON
    )
    for stream, one in enumerate(layer):
      one.norm.update(
        mean[stream, : self.filters] + jax.lax.stop_gradient(one.shift),
        variance[stream, : self.filters],
        jnp.where(count > 0, self.batch_norm_momentum, 1.0),
      )
    return z


def _pad_last(x: Array, axes: int) -> Array:
  """Fills the last axes with zeros up to a multiple of _LANES."""
  kept = [(0, 0)] * (x.ndim - axes)
  return jnp.pad(x, kept + [(0, -n % _LANES) for n in x.shape[-axes:]])


def _padded(parts: Sequence[Array], axes: int) -> Array:
  """Stacks the directions' arrays; their last axes are channels."""
  return _pad_last(jnp.stack(parts), axes)
