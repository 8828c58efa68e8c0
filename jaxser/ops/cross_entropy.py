"""Cross-entropy with class weights over a global, masked batch."""

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import psum

Array = jax.Array


def weighted_cross_entropy(
  logits: Array,
  index: Array,
  weights: Array,
  mask: Array,
) -> Array:
  """Share of `sum(w_i ce_i) / sum(w_i)` over the global batch.

  Args:
    logits: [rows, classes].
    index: int32 [rows]; what masked rows hold is not used.
    weights: [classes]; w_i is that of the row's class.
    mask: bool [rows].

  Returns:
    float32 []; the sum over the devices is the loss. No row gives 0.
  """
  index = jnp.where(mask, index, 0)
  entropy = -jnp.take_along_axis(
    jax.nn.log_softmax(logits), index[:, None], axis=-1
  )[:, 0]
  weight = jnp.where(mask, weights[index], 0.0)
  total = psum(jnp.sum(weight))
  return jnp.sum(weight * entropy) / jnp.where(total > 0, total, 1.0)
