"""Orthogonality penalty between two subspaces of one representation.

With A and B of shape [rows, d],

    A' = A - mean of its rows            (likewise B')
    A" = A' / (|A'| + 1e-6), row by row  (|A'| held constant in the gradient)
    penalty = mean over the d x d entries of (A"^T B")^2

Source: the soft subspace orthogonality constraint of Bousmalis et al., "Domain
Separation Networks" (NIPS 2016), in the form that DSNet trains with (Chen and
Zhang, arXiv 2312.15593).
"""

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import psum

Array = jax.Array

EPSILON = 1e-6
"""Added to the norm of a row."""


def _centred(x: Array, weight: Array, count: Array) -> Array:
  # Twice: the first mean is rounded, and rows that are equal would keep that
  # rounding error, which the division by their tiny norm then blows up.
  for _ in range(2):
    mean = psum(jnp.sum(x * weight, axis=0, keepdims=True)) / count
    x = x - mean
  return x * weight


def _normalised(x: Array) -> Array:
  still = jax.lax.stop_gradient(x)
  norm = jnp.sqrt(jnp.sum(still * still, axis=-1, keepdims=True))
  return x / (norm + EPSILON)


def orthogonality_penalty(
  a: Array,
  b: Array,
  mask: Array | None = None,
) -> Array:
  """Mean squared inner product of the columns of two centred matrices.

  Zero rows, equal rows and a batch of one give finite values and gradients
  (the last two give 0).

  Args:
    a: [rows, d].
    b: [rows, d'].
    mask: [rows], 1 for a row that counts and 0 for padding, or None. What a
      row with 0 holds is never used, not even if it is NaN.

  Returns:
    [] the penalty of the whole batch, the same on every device, so that a loss
    that is summed over devices takes its share of it.

  Raises:
    ValueError: the shapes do not fit.
  """
  if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[0]:
    raise ValueError(
      'orthogonality_penalty needs two matrices with the same number of rows, '
      f'not {a.shape} and {b.shape}.'
    )
  dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
  a, b = a.astype(dtype), b.astype(dtype)
  if mask is None:
    weight = jnp.ones((a.shape[0], 1), dtype)
  elif mask.shape != a.shape[:1]:
    raise ValueError(
      f'orthogonality_penalty needs a mask {a.shape[:1]}, not {mask.shape}.'
    )
  else:
    weight = (mask > 0).astype(dtype)[:, None]
    a, b = jnp.where(weight > 0, a, 0), jnp.where(weight > 0, b, 0)

  count = jnp.maximum(psum(jnp.sum(weight)), 1)
  a = _normalised(_centred(a, weight, count))
  b = _normalised(_centred(b, weight, count))
  inner = psum(jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST))
  return jnp.mean(inner * inner)
