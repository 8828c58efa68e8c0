"""Lin's concordance correlation coefficient over a global, masked batch."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxser.ops.collectives import psum


def concordance(pred: Array, target: Array, mask: Array | None = None) -> Array:
  """CCC of each column over the rows of the whole batch, float32 [columns].

      2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2 + 1e-8)

  with moments divided by the count, in a second pass around the means, so that
  a small spread on a large offset keeps its digits. Constant columns and fewer
  than two rows give 0 with finite gradients. Rows of pred and target
  [rows, columns] where mask [rows] is 0 are never used, not even if NaN.
  Source: Lin, Biometrics 45 (1989).
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
