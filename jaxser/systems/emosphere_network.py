"""The network of EmoSphere-SER: encoder, pooling, two heads."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.logmel import LogMelEncoder
from jaxser.nn.numerics import frame_mask
from jaxser.nn.pooling import AttentiveStatistics
from jaxser.nn.style import Head, StylePooling, published_frames
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import WavLMConfig

Array = jax.Array

DIMENSIONS = ('arousal', 'dominance', 'valence')
"""Order of the network's outputs, that of the authors' checkpoints."""


class Network(nn.Module):
  """Features of a batch -> VAD in units of the scale, and region logits.

  Attributes: see `jaxser.systems.emosphere.EmoSphere`; `classes` is the number
  of outputs of the second head.
  """

  encoder: str
  wavlm: WavLMConfig | None
  width: int
  stride: int
  pooling: str
  classes: int
  dropout: float
  head_dropout: float
  published_padding: bool
  freeze: str
  dtype: Any
  remat: bool
  unroll: int

  @nn.compact
  def __call__(
    self,
    features: Array,
    length: Array,
    rows: Array,
    *,
    train: bool,
    auxiliary: bool,
  ) -> dict[str, Array]:
    """Runs the network.

    Args:
      features: [batch, samples], or [batch, frames, bins].
      length: int32 [batch], valid samples or frames; 0 for padding rows.
      rows: int32 [batch], positions in the global batch.
      train: whether dropout is on and statistics are updated.
      auxiliary: whether the second head is run.

    Returns:
      'unit_vad' [batch, 3] over `DIMENSIONS`, 0 and 1 being the ends of the
      scale; 'embedding' [batch, d]; 'frame_count' int32 [batch]; and with
      `auxiliary` 'logits' [batch, classes].
    """
    frames, count = self._encode(features, length, rows, train)
    valid = frame_mask(count, frames.shape[1])
    if self.pooling == 'style':
      pooled = StylePooling(
        width=self.width,
        dropout=self.dropout,
        mask_before_conv=not self.published_padding,
        dtype=self.dtype,
        name='pool',
      )(frames, valid, rows, train=train)
    else:
      pooled = AttentiveStatistics(name='pool')(frames, valid)
    out = {
      'unit_vad': self._head(len(DIMENSIONS), 'vad_head')(
        pooled, rows, train=train
      ),
      'embedding': pooled,
      'frame_count': count,
    }
    if auxiliary:
      head = self._head(self.classes, 'auxiliary_head')
      out['logits'] = head(pooled, rows, train=train)
    return out

  def _head(self, outputs: int, name: str) -> Head:
    return Head(self.width, outputs, self.head_dropout, name=name)

  def _encode(
    self, features: Array, length: Array, rows: Array, train: bool
  ) -> tuple[Array, Array]:
    """Frames [batch, time, d] and how many of them are valid."""
    if self.encoder == 'frames':
      if features.ndim != 3:
        raise ValueError(
          f'stored hidden states are {features.shape}; they must be [batch,'
          ' frames, width]'
        )
      return features, length
    if self.encoder == 'logmel':
      return LogMelEncoder(
        width=self.width,
        stride=self.stride,
        dropout=self.dropout,
        dtype=self.dtype,
        name='encoder',
      )(features, length, rows, train=train)
    still = self.freeze == 'encoder'
    frames, count, _ = WavLM(
      self.wavlm,
      dtype=self.dtype,
      remat=self.remat,
      freeze_conv=self.freeze != 'none',
      norm_over_padding=self.published_padding,
      unroll=self.unroll,
      name='encoder',
    )(features, length, rows, train=train and not still)
    if still:
      frames = jax.lax.stop_gradient(frames)
    if self.published_padding:
      count = published_frames(length, frames.shape[1])
      count = jnp.maximum(count, 0)
    return frames, count
