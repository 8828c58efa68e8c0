"""WavLM before its transformer: convolutions, projection, masking, position.

`config` is the shape, `dtype` the type of the computation; norms are float32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.nn.layers import Dropout, precision_of
from jaxser.nn.wavlm_config import ACTIVATIONS, WavLMConfig

Array = jax.Array


class TimeNorm(nn.Module):
  """Group norm with one group per channel: moments over time, per utterance."""

  @nn.compact
  def __call__(self, x: Array, valid: Array | None) -> Array:
    """Normalises x [batch, time, channels] by frames `valid` [batch, time]."""
    width = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, width)
    bias = self.param('bias', nn.initializers.zeros, width)
    x = x.astype(jnp.float32)
    counts = jnp.ones(x.shape[:2]) if valid is None else valid
    weight = counts.astype(jnp.float32)[:, :, None]
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1)
    mean = jnp.sum(x * weight, axis=1, keepdims=True) / count
    centred = x - mean
    squares = jnp.sum(centred * centred * weight, axis=1, keepdims=True)
    normal = centred * jax.lax.rsqrt(squares / count + 1e-5)
    return normal * scale[None, None] + bias[None, None]


class FeatureEncoder(nn.Module):
  """Waveform [batch, samples] -> [batch, frames, channels], one per 20 ms.

  `feat_extract_norm` chooses a norm over time after the first convolution
  ('group', base) or over channels after each ('layer', large). With 'group' and
  `norm_over_padding`, padding enters the moments, as Hugging Face has it.
  """

  config: WavLMConfig
  norm_over_padding: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, samples: Array, length: Array | None) -> Array:
    """Encodes samples; length is int32 [batch] or None: all are valid."""
    config = self.config
    act = ACTIVATIONS[config.feat_extract_activation]
    x = samples[:, :, None]
    for layer, (width, kernel, stride) in enumerate(
      zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    ):
      x = nn.Conv(
        width,
        (kernel,),
        strides=(stride,),
        padding='VALID',
        use_bias=config.conv_bias,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        precision=precision_of(self.dtype),
        name=f'conv_{layer}',
      )(x)
      if config.feat_extract_norm == 'layer':
        x = layers.layer_norm(f'norm_{layer}')(x)
      elif layer == 0:
        valid = None
        if length is not None and not self.norm_over_padding:
          valid = layers.frame_mask(config.frames(length, 1), x.shape[1])
        x = TimeNorm(name='norm_0')(x, valid)
      x = act(x).astype(self.dtype)
    return x


class FeatureProjection(nn.Module):
  """Layer norm, linear and dropout: [..., channels] -> [..., hidden]."""

  config: WavLMConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, rows: Array | None, *, train: bool) -> Array:
    config = self.config
    x = layers.layer_norm('layer_norm', config.layer_norm_eps)(x)
    x = layers.dense(config.hidden_size, 'projection', self.dtype)(x)
    return Dropout(config.feat_proj_dropout)(x, rows, train=train)


class PositionEmbedding(nn.Module):
  """Grouped convolution over 2.5 s with a weight `g v / |v|`, then GELU.

  The norm is taken per tap, over all channels (weight norm along axis 2), and
  the weight is formed in float32.
  """

  config: WavLMConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, frames, hidden] -> the same, to be added to x."""
    config = self.config
    taps, width = config.num_conv_pos_embeddings, config.hidden_size
    groups = config.num_conv_pos_embedding_groups
    std = 2 * math.sqrt(1 / (taps * width))
    shape = (taps, width // groups, width)
    direction = self.param('direction', nn.initializers.normal(std), shape)
    # Starts at the norm of the direction: the weight is the direction itself.
    start = nn.initializers.constant(std * width / math.sqrt(groups))
    magnitude = self.param('magnitude', start, (taps,))
    bias = self.param('bias', nn.initializers.zeros, (width,))
    norm = jnp.sqrt(jnp.sum(direction * direction, axis=(1, 2)))
    weight = direction * (magnitude / norm)[:, None, None]
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      weight.astype(self.dtype),
      window_strides=(1,),
      padding=((taps // 2, taps - 1 - taps // 2),),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=groups,
      precision=precision_of(self.dtype),
    )
    y = y + bias.astype(self.dtype)[None, None]
    return ACTIVATIONS[config.feat_extract_activation](y)


def random_spans(
  rng: Array,
  rows: Array,
  valid: Array,
  size: int,
  *,
  prob: float,
  length: int,
  min_spans: int,
) -> Array:
  """SpecAugment: which of `size` positions are masked, bool [batch, size].

  `prob * valid / length` spans, rounded up or down at random and at least
  `min_spans` where they fit, start at distinct places within the valid part;
  they may overlap. Rows (folded into the key) and valid are int32 [batch].
  """

  def one(row, count):
    key = jax.random.fold_in(rng, row)
    rounding, places = jax.random.split(key)
    spans = jnp.floor(prob * count / length + jax.random.uniform(rounding))
    spans = spans.astype(jnp.int32)
    spans = jnp.minimum(jnp.maximum(spans, min_spans), count // length)
    draw = jax.random.uniform(places, (size,))
    possible = jnp.arange(size) <= count - length
    order = jnp.argsort(jnp.where(possible, draw, 2.0))
    first = (jnp.arange(size) < spans).astype(jnp.int32)
    start = jnp.zeros(size, jnp.int32).at[order].set(first)
    started = jnp.cumsum(start)
    before = jnp.pad(started, (length, 0))[:size]
    return started > before

  return jax.vmap(one)(rows, valid)
