"""Lin's concordance correlation coefficient over a global, masked batch.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2 + 1e-8)

with biased moments (divided by the count). Source: Lin, Biometrics 45 (1989).
"""

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import psum

Array = jax.Array


def concordance(pred: Array, target: Array, mask: Array | None = None) -> Array:
  """CCC of each column, over the rows of the whole batch.

  Columns are shifted and the moments taken around the means in a second pass,
  so that a small spread on a large offset keeps its digits. Constant columns give 0, as do
  fewer than two rows, and their gradients are finite.

  Args:
    pred: [rows, columns].
    target: [rows, columns].
    mask: [rows], 1 for a row that counts and 0 for padding, or None. What a
      row with 0 holds is never used, not even if it is NaN.

  Returns:
    float32 [columns], the same on every device.
  """
  if mask is None:
    mask = jnp.ones(pred.shape[0])
  weight = (mask > 0).astype(jnp.float32)[:, None]
  pred = jnp.where(weight > 0, pred.astype(jnp.float32), 0.0)
  target = jnp.where(weight > 0, target.astype(jnp.float32), 0.0)

  def total(value):
    return psum(jnp.sum(value, axis=0))

  count = jnp.maximum(total(weight), 1)
  # CCC does not change when both columns move together. Near zero the means
  # themselves are exact; far from it they would round by more than the spread.
  shift = jax.lax.stop_gradient(total(target) / count)[None]
  pred = (pred - shift) * weight
  target = (target - shift) * weight
  pred_mean, target_mean = total(pred) / count, total(target) / count
  pred = (pred - pred_mean[None]) * weight
  target = (target - target_mean[None]) * weight
  covariance = total(pred * target) / count
  spread = total(pred * pred + target * target) / count
  offset = (pred_mean - target_mean) ** 2
  return 2 * covariance / (spread + offset + 1e-8)
