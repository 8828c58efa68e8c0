"""WavLM in Flax: the encoder of Hugging Face's `WavLMModel`.

Layers are scanned: their parameters lie stacked on a leading axis, so a model
of 24 layers compiles as fast as one of one. The residual stream, the norms and
the softmax are float32; products run in `dtype`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.layers import Dropout, frame_mask, layer_norm
from jaxser.nn.wavlm_config import WavLMConfig
from jaxser.nn.wavlm_frontend import (
  FeatureEncoder,
  FeatureProjection,
  PositionEmbedding,
  random_spans,
)
from jaxser.nn.wavlm_layers import TransformerLayer, relative_buckets

Array = jax.Array


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
    dropping = self.train and self.config.layerdrop > 0
    if dropping and not self.is_initializing():
      # A true branch: a dropped layer costs nothing.
      y = nn.cond(
        skip,
        lambda layer, x: x,
        lambda layer, x: layer(x, bias, seen, rows),
        layer,
        x,
      )
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
  def __call__(
    self,
    x: Array,
    seen: Array | None,
    rows: Array | None,
    *,
    train: bool,
    keep_hidden: bool,
  ) -> tuple[Array, Array | None]:
    """Encodes x [batch, time, hidden].

    Returns:
      The last state [batch, time, hidden] and, with `keep_hidden`, every state
      [layers + 1, batch, time, hidden]: the input of the first layer and the
      output of each, the last before the final norm of a pre-LN model.
    """
    config = self.config
    x = x.astype(jnp.float32)
    if seen is not None:
      x = jnp.where(seen[:, :, None], x, 0)
    x = x + PositionEmbedding(config, self.dtype, name='position')(x)
    norm = layer_norm('layer_norm', config.layer_norm_eps)
    if not config.do_stable_layer_norm:
      x = norm(x)
    x = Dropout(config.hidden_dropout)(x, rows, train=train)

    frames, layers = x.shape[1], config.num_hidden_layers
    table = self.param(
      'relative_bias',
      nn.initializers.normal(config.initializer_range),
      (config.num_buckets, config.num_attention_heads),
      jnp.float32,
    )
    # One table for all layers, looked up once.
    buckets = relative_buckets(
      frames, config.num_buckets, config.max_bucket_distance
    )
    bias = jnp.moveaxis(table[buckets], -1, 0)
    skip = jnp.zeros(layers, bool)
    if train and config.layerdrop > 0:
      drawn = jax.random.bernoulli(
        self.make_rng('dropout'), config.layerdrop, (layers,)
      )
      skip = drawn & (jnp.arange(layers) > 0)  # The first is always run.
    start = x
    scanned = nn.scan(
      _ScannedLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=layers,
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
    unroll: layers per step of the scan; more of them compile longer and may
      run faster.
    final_norm: False leaves out the norm after the last layer of a pre-LN
      model.
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
    """Encodes speech.

    Args:
      samples: [batch, samples], zero padded.
      length: int32 [batch], valid samples, or None: all, and no mask is used.
      rows: int32 [batch], batch['row']; needed in training.
      train: dropout, LayerDrop and SpecAugment as the config says.
      keep_hidden: also return every hidden state.

    Returns:
      frames float32 [batch, time, hidden], the number of valid ones int32
      [batch], and {'conv_features' [batch, time, channels], 'hidden' [layers +
      1, batch, time, hidden] or None}.

    Raises:
      ValueError: if there are fewer samples than the receptive field.
    """
    config = self.config
    if samples.shape[1] < config.receptive_field:
      raise ValueError(
        f'audio of {samples.shape[1]} samples is shorter than the receptive'
        f' field of {config.receptive_field} samples; pad the batch to at least'
        ' that'
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
      seen = frame_mask(valid, frames)
    x = FeatureProjection(config, self.dtype, name='feature_projection')(
      features, rows, train=train
    )
    x = self._spec_augment(x, valid, rows, train)
    x, hidden = TransformerEncoder(
      config,
      self.dtype,
      self.remat,
      self.unroll,
      self.final_norm,
      name='encoder',
    )(x, seen, rows, train=train, keep_hidden=keep_hidden)
    return x, valid, {'conv_features': features, 'hidden': hidden}

  def _spec_augment(self, x, valid, rows, train):
    """Replaces spans of time by a learned vector, spans of channels by 0."""
    config = self.config
    if not config.has_mask_vector:
      return x
    vector = self.param(
      'masked_spec_embed',
      nn.initializers.uniform(1.0),
      (config.hidden_size,),
      jnp.float32,
    )
    if not train or not config.apply_spec_augment:
      return x

    def masked(axis: str, valid: Array, size: int) -> Array:
      def setting(name: str) -> Any:
        return getattr(config, f'mask_{axis}_{name}')

      return random_spans(
        self.make_rng('dropout'),
        rows,
        valid,
        size,
        prob=setting('prob'),
        length=setting('length'),
        min_spans=setting('min_masks'),
      )

    if config.mask_time_prob > 0:
      hidden = masked('time', valid, x.shape[1])[:, :, None]
      x = jnp.where(hidden, vector.astype(x.dtype)[None, None], x)
    if config.mask_feature_prob > 0:
      width = config.hidden_size
      hidden = masked('feature', jnp.full_like(valid, width), width)
      x = jnp.where(hidden[:, None], 0, x)
    return x
