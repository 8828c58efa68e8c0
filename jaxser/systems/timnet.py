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

The answer is softmax(dense(sum_j w_j g_j)) with a learned w.
"""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.ops.dct import mfcc
from jaxser.systems.base import Array, Batch, Progress, System, Tree

ABLATIONS = ('none', 'tcn', 'forward_only', 'last_scale', 'mean_fusion')
DIRECTIONS = ('forward', 'backward')
# Channels are padded to a multiple of this inside the compiled step: on CPUs
# 39 columns cost more than 40. The added weights are zero and never trained.
_LANES = 8
_HIGHEST = jax.lax.Precision.HIGHEST


def causal_convolution(x: Array, kernel: Array, dilation: int) -> Array:
  """y[t] = sum_k x[t - (width - 1 - k) dilation] kernel[k], zeros before x.

  One product per time step on the shifted copies side by side, which is several
  times faster on CPUs than a dilated convolution.

  Args:
    x: [batch, time, in].
    kernel: [width, in, out]; the last tap meets the present.
    dilation: steps between taps.
  """
  width, inputs, outputs = kernel.shape
  time = x.shape[1]
  shifted = []
  for tap in range(width):
    lag = min((width - 1 - tap) * dilation, time)
    shifted.append(jnp.pad(x[:, : time - lag], ((0, 0), (lag, 0), (0, 0))))
  return jnp.einsum(
    'bti,io->bto',
    jnp.concatenate(shifted, -1),
    kernel.reshape(width * inputs, outputs),
    precision=_HIGHEST,
  )


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


class TemporalBlock(nn.Module):
  """One direction's temporal-aware block; `gate` multiplies h by sigmoid(u)."""

  dilation: int
  kernel_size: int
  dropout: float
  gate: bool = True
  axis_name: str | None = None

  @nn.compact
  def __call__(self, h: Array, rows: Array, mask: Array, train: bool) -> Array:
    """[batch, time, channels] to the same shape."""
    u = h
    for number in (1, 2):
      kernel, bias = Convolution(
        h.shape[-1], self.kernel_size, name=f'conv{number}'
      )(h.shape[-1])
      u = causal_convolution(u, kernel, self.dilation)
      u = layers.BatchNorm(
        epsilon=1e-3,
        momentum=0.99,
        axis_name=self.axis_name,
        name=f'norm{number}',
      )(u, train=train, mask=mask, shift=bias)
      u = layers.Dropout(self.dropout, (1,), name=f'dropout{number}')(
        nn.relu(u), rows, train=train
      )
    return h * nn.sigmoid(u) if self.gate else h + u


class Network(nn.Module):
  """TIM-Net behind its front end; see the top of the module."""

  num_classes: int
  filters: int
  kernel_size: int
  num_blocks: int
  dropout: float
  ablation: str
  axis_name: str | None = None

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
      filters], 'forward' and 'backward': [batch, time, filters]}.
    """
    one_way = self.ablation in ('forward_only', 'tcn')
    directions = DIRECTIONS[:1] if one_way else DIRECTIONS
    hidden = {}
    for name in directions:
      kernel, bias = Convolution(self.filters, name=f'stem_{name}')(x.shape[-1])
      turned = x if name == 'forward' else x[:, ::-1]
      hidden[name] = causal_convolution(turned, kernel, 1) + bias[None, None]
    scales = []
    for block in range(self.num_blocks):
      for name in directions:
        hidden[name] = TemporalBlock(
          dilation=2**block,
          kernel_size=self.kernel_size,
          dropout=self.dropout,
          gate=self.ablation != 'tcn',
          axis_name=self.axis_name,
          name=f'block{block}_{name}',
        )(hidden[name], rows, mask, train)
      # The backward stream needs no turning back: the mean does not see order.
      scales.append(jnp.mean(sum(hidden.values()), axis=1))
    multi_scale = jnp.stack(scales, axis=1)
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
    return logits, {'multi_scale': multi_scale, 'fused': fused, **hidden}


def _uniform(limit: float):
  def initial(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return initial


@dataclasses.dataclass(frozen=True)
class TimNet(System):
  """TIM-Net over stored log-mel frames.

  Attributes:
    num_classes: classes.
    num_coefficients: MFCCs, the first of the cosine transform of log-mel.
    filters: channels C of every layer.
    kernel_size: width of the dilated convolutions.
    num_blocks: temporal-aware blocks n; 8, or 10 for IEMOCAP.
    dropout: share of channels that spatial dropout drops.
    label_smoothing: of training labels.
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
  ablation: str = 'none'

  def __post_init__(self):
    """Raises ValueError for settings that no network can have."""
    rules = [
      ('num_classes', self.num_classes >= 2, 'at least 2'),
      ('filters', self.filters >= 1, 'at least 1'),
      ('kernel_size', self.kernel_size >= 1, 'at least 1'),
      ('num_blocks', self.num_blocks >= 1, 'at least 1'),
      ('dropout', 0 <= self.dropout < 1, 'from 0 to below 1'),
      ('label_smoothing', 0 <= self.label_smoothing < 1, 'from 0 to below 1'),
      (
        'ablation',
        self.ablation in ABLATIONS,
        f'one of {", ".join(ABLATIONS)}',
      ),
    ]
    for name, holds, wanted in rules:
      if not holds:
        raise ValueError(
          f'TIM-Net: {name}={getattr(self, name)!r}; it must be {wanted}.'
        )

  def network(self, axis_name: str | None = None) -> Network:
    """The network behind the front end, over coefficients."""
    return Network(
      num_classes=self.num_classes,
      filters=self.filters,
      kernel_size=self.kernel_size,
      num_blocks=self.num_blocks,
      dropout=self.dropout,
      ablation=self.ablation,
      axis_name=axis_name,
    )

  def coefficients(self, batch: Batch) -> Array:
    """MFCCs [batch, frames, coefficients] of log-mel [batch, frames, mel].

    Every frame counts: the signal was padded to a constant length before the
    spectrogram, as published.
    """
    return mfcc(batch['features'], self.num_coefficients)

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    """Keras' initial values: Glorot-uniform kernels, zero biases."""
    variables = self.network().init(
      rng, self.coefficients(batch), batch['row'], batch['mask'], train=False
    )
    return variables['params'], {'batch_stats': variables['batch_stats']}

  def loss(
    self,
    params: Tree,
    state: Tree,
    batch: Batch,
    rng: Array,
    progress: Progress,
    *,
    phase: Hashable = 'main',
    axis_name: str | None = None,
  ) -> tuple[Array, dict[str, Any]]:
    """Share of the cross-entropy with smoothed labels, mean over utterances."""
    del progress, phase
    (logits, _), new = self.network(axis_name).apply(
      {'params': params, **state},
      self.coefficients(batch),
      batch['row'],
      batch['mask'],
      train=True,
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    mask = batch['mask']
    wanted = smoothed(batch['label'], self.num_classes, self.label_smoothing)
    errors = -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)
    right = jnp.argmax(logits, axis=-1) == batch['label']
    count = jnp.sum(mask)
    if axis_name is not None:
      count = jax.lax.psum(count, axis_name)
    count = jnp.maximum(count, 1)
    loss = jnp.sum(errors * mask) / count
    accuracy = jnp.sum(right * mask) / count
    metrics = {'loss': loss, 'accuracy': accuracy}
    return loss, {'state': dict(new), 'metrics': metrics}

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Scores [batch, classes], embedding [batch, filters], intermediates."""
    logits, out = self.network().apply(
      {'params': params, **state},
      self.coefficients(batch),
      batch['row'],
      batch['mask'],
      train=False,
    )
    scores = jax.nn.softmax(logits)
    return {
      'scores': scores,
      'embedding': out['fused'],
      'logits': logits,
      **out,
    }


def smoothed(label: Array, num_classes: int, smoothing: float) -> Array:
  """Targets [batch, classes]: one-hot * (1 - smoothing) + smoothing / classes."""
  hard = jax.nn.one_hot(label, num_classes)
  return hard * (1 - smoothing) + smoothing / num_classes


def create(model: Mapping[str, Any], corpus: Any) -> TimNet:
  """The system of config.model for a corpus with classes.

  Raises:
    ValueError: if the corpus has no classes, or a setting is not possible.
  """
  if not corpus.classes:
    raise ValueError(
      f'corpus {corpus.name!r} has no classes, only valence, arousal and '
      'dominance; choose one that has, such as demo, emodb or iemocap'
    )
  return TimNet(num_classes=len(corpus.classes), **model)
