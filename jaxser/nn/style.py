"""Style pooling: frames of an utterance to one vector, and the heads on it.

Source: the mel style encoder of Min et al., "Meta-StyleSpeech" (ICML 2021), as
EmoSphere-SER uses it over the frames of a self-supervised encoder.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.frame_convolution import FrameConvolution
from jaxser.nn.layers import Dropout
from jaxser.nn.numerics import NEVER, masked_mean, precision_of

Array = jax.Array


def published_frames(samples: Array, frames: int) -> Array:
  """Valid frames by the authors' rule: floor((samples - 1) / 320) + 1.

  Args:
    samples: int32 [batch], valid samples at 16 kHz.
    frames: frames that the encoder returned; the count is cut to it.

  Returns:
    int32 [batch]. The encoder itself has one frame less or the same, so with
    padding the last one counted may be a padded frame.
  """
  return jnp.minimum((samples - 1) // 320 + 1, frames)


def mish(x: Array) -> Array:
  """`x tanh(softplus(x))` (Misra, BMVC 2020)."""
  return x * jnp.tanh(jax.nn.softplus(x))


class GatedConv(nn.Module):
  """`x + dropout(a * sigmoid(b))`, where a and b are halves of a convolution.

  Attributes:
    kernel: width in frames; both ends are zero padded by kernel // 2.
    dropout: probability.
    dtype: type of the computation; parameters are float32.
  """

  kernel: int = 5
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, rows: Array, *, train: bool) -> Array:
    """[batch, time, d] -> [batch, time, d]; rows is batch['row']."""
    both = FrameConvolution(
      2 * x.shape[-1], self.kernel, dtype=self.dtype, name='conv'
    )(x)
    content, gate = jnp.split(both, 2, axis=-1)
    gated = content * jax.nn.sigmoid(gate)
    return x + Dropout(self.dropout)(gated, rows, train=train)


class StyleAttention(nn.Module):
  """Self-attention with a residual; scores are divided by sqrt(d).

  The published block divides by the root of the whole width, not of the width
  of one head, and has no layer norm.

  Attributes:
    heads: number of heads.
    dropout: probability, for the attention weights and for the output.
    dtype: type of the computation; scores and softmax are float32.
  """

  heads: int = 2
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, valid: Array, rows: Array, *, train: bool
  ) -> Array:
    """[batch, time, d] -> [batch, time, d]; keys outside `valid` are unseen."""
    width = x.shape[-1]
    if width % self.heads:
      raise ValueError(f'{self.heads} heads do not divide the width {width}')
    precision = precision_of(self.dtype)

    def project(name):
      y = nn.Dense(width, dtype=self.dtype, precision=precision, name=name)(x)
      return y.reshape(*y.shape[:2], self.heads, width // self.heads)

    scores = jnp.einsum(
      'bqhd,bkhd->bhqk',
      project('query'),
      project('key'),
      precision=precision,
      preferred_element_type=jnp.float32,
    ) / math.sqrt(width)
    scores = jnp.where(valid[:, None, None, :], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
    weights = Dropout(self.dropout)(weights, rows, train=train)
    mixed = jnp.einsum(
      'bhqk,bkhd->bqhd', weights, project('value'), precision=precision
    ).reshape(x.shape)
    out = nn.Dense(width, dtype=self.dtype, precision=precision, name='out')(
      mixed
    )
    return x + Dropout(self.dropout)(out, rows, train=train)


class StylePooling(nn.Module):
  """[batch, time, encoder width] frames -> [batch, width] style vector.

  Two linear layers with Mish, two gated convolutions, one attention block, a
  linear layer, and the mean over valid frames.

  Attributes:
    width: d of the paper, 1024.
    dropout: probability everywhere.
    mask_before_conv: set padded frames to 0 before each convolution. The
      authors do so only after both, so that padding leaks four frames into the
      utterance; False repeats that, True makes padding invisible.
    dtype: type of the computation; the mean is float32.
  """

  width: int = 1024
  dropout: float = 0.1
  mask_before_conv: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, frames: Array, valid: Array, rows: Array, *, train: bool
  ) -> Array:
    """Pools frames [batch, time, d_in]; valid is bool [batch, time]."""
    keep = valid[:, :, None]
    x = frames.astype(self.dtype)
    for name in ('spectral_0', 'spectral_1'):
      x = nn.Dense(
        self.width,
        dtype=self.dtype,
        precision=precision_of(self.dtype),
        name=name,
      )(x)
      x = Dropout(self.dropout)(mish(x), rows, train=train)
    for name in ('temporal_0', 'temporal_1'):
      if self.mask_before_conv:
        x = jnp.where(keep, x, 0)
      x = GatedConv(dropout=self.dropout, dtype=self.dtype, name=name)(
        x, rows, train=train
      )
    x = jnp.where(keep, x, 0)
    x = StyleAttention(
      dropout=self.dropout, dtype=self.dtype, name='attention'
    )(x, valid, rows, train=train)
    x = nn.Dense(
      self.width,
      dtype=self.dtype,
      precision=precision_of(self.dtype),
      name='out',
    )(x)
    return masked_mean(x, valid)


class Head(nn.Module):
  """Dropout, linear, layer norm, ReLU, dropout, linear; all in float32.

  Attributes:
    width: of the hidden layer.
    outputs: number of outputs, without activation.
    dropout: probability, twice.
  """

  width: int
  outputs: int
  dropout: float = 0.5

  @nn.compact
  def __call__(self, x: Array, rows: Array, *, train: bool) -> Array:
    """[batch, d] -> [batch, outputs]."""
    precision = jax.lax.Precision.HIGHEST
    x = Dropout(self.dropout)(x.astype(jnp.float32), rows, train=train)
    x = nn.Dense(self.width, precision=precision, name='hidden')(x)
    x = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name='norm')(x)
    x = Dropout(self.dropout)(jax.nn.relu(x), rows, train=train)
    return nn.Dense(self.outputs, precision=precision, name='out')(x)
