"""WavLM in Flax, as Hugging Face's `WavLMModel` behaves.

Layers are scanned: their parameters lie stacked on a leading axis, so a model
of 24 layers compiles as fast as one of one. The residual stream, the norms and
the softmax are float32; products run in `dtype`. Source: Chen et al., "WavLM:
Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing" (2022).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxser.nn import layers
from jaxser.nn.layers import NEVER, Dropout, precision_of
from jaxser.nn.wavlm_config import ACTIVATIONS, WavLMConfig
from jaxser.ops.collectives import by_rows


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


def random_spans(rng, rows, valid, size: int, *, prob, length, min_spans):
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


def relative_buckets(frames: int, buckets: int, max_distance: int):
  """Bucket of every (query, key) pair, int32 [frames, frames].

  Half of the buckets are for keys after the query. Of each half, the first
  half are single distances, the others grow logarithmically up to
  `max_distance`, beyond which all share the last.
  """
  half, exact = buckets // 2, buckets // 4
  distance = np.arange(frames)[None] - np.arange(frames)[:, None]
  far = np.maximum(np.abs(distance), 1).astype(np.float32)
  grown = np.log(far / np.float32(exact)) / math.log(max_distance / exact)
  grown = exact + (grown * np.float32(half - exact)).astype(np.int64)
  near, grown = np.abs(distance), np.minimum(grown, half - 1)
  within = np.where(near < exact, near, grown)
  return (within + (distance > 0) * half).astype(np.int32)


def _dense(config: WavLMConfig, width: int, name: str, dtype: Any) -> nn.Dense:
  init = nn.initializers.normal(config.initializer_range)
  return layers.dense(width, name, dtype, kernel_init=init)


class GatedAttention(nn.Module):
  """Self-attention whose relative position bias is gated by the query.

      score = q k / sqrt(d) + (a (b c - 1) + 2) bias

  with a, b in (0, 1) from each head's part of the input and c per head.
  """

  config: WavLMConfig
  dtype: Any
  train: bool

  @nn.compact
  def __call__(self, x, bias, seen, rows) -> Array:
    """[batch, time, hidden] -> the same in `dtype`.

    Bias is float32 [heads, time, time], seen the keys bool [batch, time], or
    None for all, rows int32 [batch].
    """
    config, precision = self.config, precision_of(self.dtype)
    heads = config.num_attention_heads
    head_width = config.hidden_size // heads

    def by_head(x):
      return x.reshape(*x.shape[:2], heads, head_width)

    def project(name):
      return by_head(_dense(config, config.hidden_size, name, self.dtype)(x))

    # Eight projections of each head's input, summed by four to two gates.
    gates = _dense(config, 8, 'gate', self.dtype)(by_head(x))
    gates = gates.astype(jnp.float32).reshape(*gates.shape[:-1], 2, 4)
    gates = jax.nn.sigmoid(jnp.sum(gates, axis=-1))
    constant = self.param('gate_constant', nn.initializers.ones, (heads,))
    first, second = gates[..., 0], gates[..., 1]
    gate = first * (second * constant[None, None] - 1) + 2
    gate = jnp.swapaxes(gate, 1, 2)[..., None]  # [batch, heads, query, 1]

    scores = jnp.einsum(
      'bqhd,bkhd->bhqk',
      project('query') * jnp.asarray(head_width**-0.5, self.dtype),
      project('key'),
      precision=precision,
      preferred_element_type=jnp.float32,
    )
    scores = scores + gate * bias[None]
    if seen is not None:
      scores = jnp.where(seen[:, None, None, :], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
    weights = Dropout(config.attention_dropout)(weights, rows, train=self.train)
    mixed = jnp.einsum(
      'bhqk,bkhd->bqhd', weights, project('value'), precision=precision
    )
    out = _dense(config, config.hidden_size, 'out', self.dtype)
    return out(mixed.reshape(x.shape))


class TransformerLayer(nn.Module):
  """One layer, pre-LN where `do_stable_layer_norm`, else post-LN."""

  config: WavLMConfig
  dtype: Any
  train: bool

  @nn.compact
  def __call__(self, x, bias, seen, rows) -> Array:
    """[batch, time, hidden] -> the same; arguments as `GatedAttention`."""
    config = self.config

    def norm(name):
      return layers.layer_norm(name, config.layer_norm_eps)

    def dense(width, name):
      return _dense(config, width, name, self.dtype)

    def attend(y):
      settings = config, self.dtype, self.train
      y = GatedAttention(*settings, name='attention')(y, bias, seen, rows)
      return Dropout(config.hidden_dropout)(y, rows, train=self.train)

    def feed_forward(y):
      y = dense(config.intermediate_size, 'intermediate')(y)
      y = ACTIVATIONS[config.hidden_act](y)
      y = Dropout(config.activation_dropout)(y, rows, train=self.train)
      y = dense(config.hidden_size, 'output')(y)
      return Dropout(config.hidden_dropout)(y, rows, train=self.train)

    if config.do_stable_layer_norm:
      x = x + attend(norm('layer_norm')(x))
      return x + feed_forward(norm('final_layer_norm')(x))
    x = norm('layer_norm')(x + attend(x))
    return norm('final_layer_norm')(x + feed_forward(x))


class _ScannedLayer(nn.Module):
  """A layer as the body of a scan: LayerDrop and rematerialisation."""

  config: WavLMConfig
  dtype: Any
  train: bool
  remat: bool
  keep_hidden: bool

  @nn.compact
  def __call__(self, x, skip, bias, seen, rows):
    kind = nn.remat(TransformerLayer, prevent_cse=False)
    kind = kind if self.remat else TransformerLayer
    layer = kind(self.config, self.dtype, self.train, name='layer')
    x = by_rows(x)
    dropping = self.train and self.config.layerdrop > 0
    if dropping and not self.is_initializing():

      def run(layer, x):
        return layer(x, bias, seen, rows)

      # A true branch: a dropped layer costs nothing.
      y = nn.cond(skip, lambda layer, x: x, run, layer, x)
    else:
      y = layer(x, bias, seen, rows)
    return y, (y if self.keep_hidden else None)


class TransformerEncoder(nn.Module):
  """Position embedding, then all layers; fields as `WavLM` has them."""

  config: WavLMConfig
  dtype: Any = jnp.float32
  remat: bool = False
  unroll: int = 1
  final_norm: bool = True

  @nn.compact
  def __call__(self, x, seen, rows, *, train, keep_hidden):
    """Returns the last state [batch, time, hidden], and with `keep_hidden` all.

    These [layers + 1, batch, time, hidden] are the input of the first layer and
    the output of each, the last before the final norm of a pre-LN model.
    """
    config = self.config
    x = x.astype(jnp.float32)
    if seen is not None:
      x = jnp.where(seen[:, :, None], x, 0)
    position = PositionEmbedding(config, self.dtype, name='position')
    x = x + position(x)
    norm = layers.layer_norm('layer_norm', config.layer_norm_eps)
    if not config.do_stable_layer_norm:
      x = norm(x)
    x = Dropout(config.hidden_dropout)(x, rows, train=train)

    depth, number = config.num_hidden_layers, config.num_buckets
    normal = nn.initializers.normal(config.initializer_range)
    shape = (number, config.num_attention_heads)
    # One table for all layers, looked up once.
    table = self.param('relative_bias', normal, shape)
    buckets = relative_buckets(x.shape[1], number, config.max_bucket_distance)
    bias = jnp.moveaxis(table[buckets], -1, 0)
    skip = jnp.zeros(depth, bool)
    if train and config.layerdrop > 0:
      rng = self.make_rng('dropout')
      drawn = jax.random.bernoulli(rng, config.layerdrop, (depth,))
      skip = drawn & (jnp.arange(depth) > 0)  # The first is always run.
    start = x
    scanned = nn.scan(
      _ScannedLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=depth,
      unroll=self.unroll,
    )
    x, hidden = scanned(
      config, self.dtype, train, self.remat, keep_hidden, name='layers'
    )(x, skip, bias, seen, rows)
    if config.do_stable_layer_norm and self.final_norm:
      x = norm(x)
    if keep_hidden:
      hidden = jnp.concatenate([start[None], hidden])
    return x, hidden


class WavLM(nn.Module):
  """Waveform [batch, samples] at 16 kHz -> frames [batch, time, hidden].

  Attributes:
    config: shape, see `WavLMConfig.from_text`.
    dtype: type of the products; parameters and the result are float32.
    remat: recompute each transformer layer in the backward pass.
    freeze_conv: no gradient enters the convolutional encoder.
    norm_over_padding: see `FeatureEncoder`; True is Hugging Face's way.
    unroll: layers per step of the scan; more compile longer, may run faster.
    final_norm: False leaves out the last norm of a pre-LN model.
  """

  config: WavLMConfig
  dtype: Any = jnp.float32
  remat: bool = False
  freeze_conv: bool = True
  norm_over_padding: bool = False
  unroll: int = 1
  final_norm: bool = True

  @nn.compact
  def __call__(
    self,
    samples: Array,
    length: Array | None = None,
    rows: Array | None = None,
    *,
    train: bool = False,
    keep_hidden: bool = False,
  ) -> tuple[Array, Array, dict[str, Array | None]]:
    """Encodes samples [batch, samples], zero padded, at least a receptive field.

    Length, int32 [batch], is of the valid samples, or None: all, and no mask is
    used. Training needs rows, int32 [batch].

    Returns:
      frames float32 [batch, time, hidden], the number of valid ones int32
      [batch], and {'conv_features' [batch, time, channels], 'hidden' as of
      `TransformerEncoder`}.
    """
    config = self.config
    size, least = samples.shape[1], config.receptive_field
    if size < least:
      raise ValueError(
        f'audio of {size} samples is shorter than the receptive field of {least}'
        ' samples; pad the batch to at least that'
      )
    features = FeatureEncoder(
      config, self.norm_over_padding, self.dtype, name='feature_extractor'
    )(samples, length)
    if self.freeze_conv:
      features = jax.lax.stop_gradient(features)
    frames = features.shape[1]
    if length is None:
      valid, seen = jnp.full(samples.shape[0], frames, jnp.int32), None
    else:
      valid = config.frames(length)
      seen = layers.frame_mask(valid, frames)
    project = FeatureProjection(config, self.dtype, name='feature_projection')
    x = project(features, rows, train=train)
    x = self._spec_augment(x, valid, rows, train)
    settings = config, self.dtype, self.remat, self.unroll, self.final_norm
    encoder = TransformerEncoder(*settings, name='encoder')
    x, hidden = encoder(x, seen, rows, train=train, keep_hidden=keep_hidden)
    return x, valid, {'conv_features': features, 'hidden': hidden}

  def _spec_augment(self, x, valid, rows, train):
    """Replaces spans of time by a learned vector, spans of channels by 0."""
    config = self.config
    if not config.has_mask_vector:
      return x
    width = config.hidden_size
    uniform = nn.initializers.uniform(1.0)
    vector = self.param('masked_spec_embed', uniform, (width,))
    if not train or not config.apply_spec_augment:
      return x

    def masked(axis: str, valid: Array, size: int) -> Array:
      prob, length, spans = (
        getattr(config, f'mask_{axis}_{name}')
        for name in ('prob', 'length', 'min_masks')
      )
      settings = {'prob': prob, 'length': length, 'min_spans': spans}
      rng = self.make_rng('dropout')
      return random_spans(rng, rows, valid, size, **settings)

    if config.mask_time_prob > 0:
      hidden = masked('time', valid, x.shape[1])[:, :, None]
      x = jnp.where(hidden, vector.astype(x.dtype)[None, None], x)
    if config.mask_feature_prob > 0:
      hidden = masked('feature', jnp.full_like(valid, width), width)
      x = jnp.where(hidden[:, None], 0, x)
    return x
