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

from jaxser.ops.collectives import mean_share
from jaxser.ops.dct import mfcc
from jaxser.systems.base import Array, Batch, Progress, System, Tree
from jaxser.systems.timnet_network import Network

ABLATIONS = ('none', 'tcn', 'forward_only', 'last_scale', 'mean_fusion')


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
      ('num_coefficients', self.num_coefficients >= 1, 'at least 1'),
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

  def network(self) -> Network:
    """The network behind the front end, over coefficients."""
    return Network(
      num_classes=self.num_classes,
      filters=self.filters,
      kernel_size=self.kernel_size,
      num_blocks=self.num_blocks,
      dropout=self.dropout,
      ablation=self.ablation,
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
  ) -> tuple[Array, dict[str, Any]]:
    """Share of the cross-entropy with smoothed labels, mean over utterances."""
    del progress, phase
    (logits, _), new = self.network().apply(
      {'params': params, **state},
      self.coefficients(batch),
      batch['row'],
      batch['mask'],
      train=True,
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    wanted = smoothed(batch['label'], self.num_classes, self.label_smoothing)
    errors = -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)
    right = jnp.argmax(logits, axis=-1) == batch['label']
    loss = mean_share(errors, batch['mask'])
    accuracy = mean_share(right, batch['mask'])
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
