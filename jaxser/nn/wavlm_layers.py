"""One transformer layer of WavLM: gated relative attention, feed-forward.

Source: Chen et al., "WavLM" (2022), section 3.1, with the gates as in Hugging
Face's `WavLMModel`. `config` is the shape, `dtype` the type of the products.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxser.nn import layers
from jaxser.nn.layers import NEVER, Dropout, precision_of
from jaxser.nn.wavlm_config import ACTIVATIONS, WavLMConfig

Array = jax.Array


def relative_buckets(
  frames: int, buckets: int, max_distance: int
) -> np.ndarray:
  """Bucket of every (query, key) pair, int32 [frames, frames].

  Half of the buckets are for keys after the query. Of each half, the first
  half are single distances, the others grow logarithmically up to
  `max_distance`, beyond which all share the last.
  """
  half = buckets // 2
  exact = half // 2
  distance = np.arange(frames)[None] - np.arange(frames)[:, None]
  far = np.maximum(np.abs(distance), 1).astype(np.float32)
  grown = np.log(far / np.float32(exact)) / math.log(max_distance / exact)
  grown = exact + (grown * np.float32(half - exact)).astype(np.int64)
  within = np.where(
    np.abs(distance) < exact, np.abs(distance), np.minimum(grown, half - 1)
  )
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
  def __call__(
    self, x: Array, bias: Array, seen: Array | None, rows: Array | None
  ) -> Array:
    """[batch, time, hidden] -> the same in `dtype`.

    Args:
      x: the input.
      bias: float32 [heads, time, time], shared by all layers.
      seen: bool [batch, time], keys that may be seen, or None: all.
      rows: int32 [batch], batch['row'].
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
    gates = gates.astype(jnp.float32)
    gates = jax.nn.sigmoid(
      jnp.sum(gates.reshape(*gates.shape[:-1], 2, 4), axis=-1)
    )
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
  def __call__(
    self, x: Array, bias: Array, seen: Array | None, rows: Array | None
  ) -> Array:
    """[batch, time, hidden] -> the same; arguments as `GatedAttention`."""
    config = self.config

    def norm(name):
      return layers.layer_norm(name, config.layer_norm_eps)

    def dense(width, name):
      return _dense(config, width, name, self.dtype)

    def attend(y):
      y = GatedAttention(config, self.dtype, self.train, name='attention')(
        y, bias, seen, rows
      )
      return Dropout(config.hidden_dropout)(y, rows, train=self.train)

    def feed_forward(y):
      y = ACTIVATIONS[config.hidden_act](
        dense(config.intermediate_size, 'intermediate')(y)
      )
      y = Dropout(config.activation_dropout)(y, rows, train=self.train)
      y = dense(config.hidden_size, 'output')(y)
      return Dropout(config.hidden_dropout)(y, rows, train=self.train)

    if config.do_stable_layer_norm:
      x = x + attend(norm('layer_norm')(x))
      return x + feed_forward(norm('final_layer_norm')(x))
    x = norm('layer_norm')(x + attend(x))
    return norm('final_layer_norm')(x + feed_forward(x))
