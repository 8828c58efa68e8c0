"""Losses over a global, masked batch, and the reversal of a gradient.

`_share` ends the names of those that return this device's partial sum.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxser.ops.collectives import psum

EPSILON = 1e-6
"""Added to the norm of a row by `orthogonality_penalty`."""


def cross_entropy(logits: Array, label: Array, smoothing: float = 0.0) -> Array:
  """Returns the negative log-likelihood [batch] of labels in nats.

  The target of logits [batch, classes] is `(1 - smoothing) one-hot + smoothing
  / classes`; a label of -1 has no one-hot, so without smoothing it gives 0.
  """
  classes = logits.shape[-1]
  target = jax.nn.one_hot(label, classes, dtype=logits.dtype)
  target = target * (1 - smoothing) + smoothing / classes
  return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def weighted_cross_entropy_share(
  logits: Array, label: Array, weights: Array, mask: Array
) -> Array:
  """Returns this device's part of `sum(w_i ce_i) / sum(w_i)`, float32 [].

  Of logits [rows, classes] and label int32 [rows]; w_i is the weight, of weights
  [classes], of the row's class, 0 where mask, bool [rows], is False. If no row
  counts, the result is 0.
  """
  label = jnp.where(mask, label, 0)
  weight = jnp.where(mask, weights[label], 0.0)
  total = psum(jnp.sum(weight))
  entropy = cross_entropy(logits, label)
  return jnp.sum(weight * entropy) / jnp.where(total > 0, total, 1.0)


@jax.custom_jvp
def _gap(d: Array) -> Array:
  """Returns t d + log(1 - t^2) with t = tanh(d / 2), for any finite d."""
  t, size = jnp.tanh(d / 2), jnp.abs(d)
  near = size < 1
  small = t * d + jnp.log1p(-jnp.square(jnp.where(near, t, 0)))
  # Far from zero log(1 - t^2) = 2 log 2 - |d| - 2 log(1 + e^-|d|), in which |d|
  # cancels against t d by hand.
  decay = jnp.exp(-size)
  large = 2 * (math.log(2) - size * decay / (1 + decay) - jnp.log1p(decay))
  return jnp.where(near, small, large)


@_gap.defjvp
def _gap_jvp(primals: tuple[Array], tangents: tuple[Array]):
  (d,), (tangent,) = primals, tangents
  return _gap(d), d * (1 - jnp.square(jnp.tanh(d / 2))) / 2 * tangent


def jensen_shannon(p_logits: Array, q_logits: Array) -> Array:
  """Returns the Jensen-Shannon divergence [...] in nats, at least float32.

  Of p = softmax(p_logits) and q = softmax(q_logits), [..., classes], finite, of
  any magnitude, with m = (p + q) / 2:

      JS(p, q) = (KL(p || m) + KL(q || m)) / 2,    0 <= JS <= log 2
               = sum_i m_i (t_i d_i + log(1 - t_i^2)) / 2

  The second form, d = log q - log p and t = tanh(d / 2) = (q - p) / (q + p), is
  computed: no term is negative, so nothing cancels. Source: Lin, "Divergence
  measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991).
  """
  dtype = jnp.promote_types(jnp.result_type(p_logits, q_logits), jnp.float32)
  log_p = jax.nn.log_softmax(p_logits.astype(dtype))
  log_q = jax.nn.log_softmax(q_logits.astype(dtype))
  middle = (jnp.exp(log_p) + jnp.exp(log_q)) / 2
  return jnp.sum(middle * _gap(log_q - log_p), axis=-1) / 2


def orthogonality_penalty(a: Array, b: Array, mask: Array) -> Array:
  """Returns the mean squared inner product of columns of centred matrices.

      A' = A - mean of its rows            (likewise B')
      A" = A' / (|A'| + 1e-6), row by row  (|A'| held constant in the gradient)
      penalty = mean over the d x d' entries of (A"^T B")^2

  of a [rows, d] and b [rows, d'], at least float32 []. Rows where mask [rows]
  is 0 are never used, not even if NaN. Values and gradients are finite, 0 for
  equal rows or a single one. Source: Bousmalis et al., "Domain Separation
  Networks" (NIPS 2016), in the form of DSNet (arXiv 2312.15593).
  """
  dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
  weight = (mask > 0).astype(dtype)[:, None]
  count = jnp.maximum(psum(jnp.sum(weight)), 1)

  def normalised(x):
    x = jnp.where(weight > 0, x.astype(dtype), 0)
    # Twice: the first mean is rounded, and rows that are equal would keep that
    # rounding error, which the division by their tiny norm then blows up.
    for _ in range(2):
      x = x - psum(jnp.sum(x * weight, axis=0, keepdims=True)) / count
    x = x * weight
    constant = jax.lax.stop_gradient(x)
    norm = jnp.sqrt(jnp.sum(constant * constant, axis=-1, keepdims=True))
    return x / (norm + EPSILON)

  highest = jax.lax.Precision.HIGHEST
  inner = jnp.matmul(normalised(a).T, normalised(b), precision=highest)
  return jnp.mean(psum(inner) ** 2)


@jax.custom_vjp
def reverse_gradient(x: Array, strength: Array) -> Array:
  """Returns x [...]; its gradient comes back times -strength (float []).

  Source: Ganin and Lempitsky, "Unsupervised domain adaptation by
  backpropagation", ICML 2015, equations 6 and 7.
  """
  del strength
  return x


reverse_gradient.defvjp(
  lambda x, strength: (x, strength),
  lambda strength, gradient: (-strength * gradient, jnp.zeros_like(strength)),
)
