"""Jensen-Shannon divergence of categorical distributions given as logits.

With p = softmax(p_logits), q = softmax(q_logits) and m = (p + q) / 2,

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2,    0 <= JS <= log 2

Differences of logarithms that nearly cancel would cost half of the digits, so
it is computed from d = log q - log p and t = tanh(d / 2) = (q - p) / (q + p):

    JS = sum_i m_i (t_i d_i + log(1 - t_i^2)) / 2

whose terms are not negative, so that nothing cancels between them. Source: Lin,
"Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37
(1991).
"""

import math

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import mean_share, psum

Array = jax.Array


@jax.custom_jvp
def _gap(d: Array) -> Array:
  """t d + log(1 - t^2) with t = tanh(d / 2), for any finite d."""
  t = jnp.tanh(d / 2)
  size = jnp.abs(d)
  near = size < 1
  t_near = jnp.where(near, t, 0)
  small = t * d + jnp.log1p(-jnp.square(t_near))
  # Far from zero log(1 - t^2) = 2 log 2 - |d| - 2 log(1 + e^-|d|), in which |d|
  # cancels against t d by hand.
  decay = jnp.exp(-size)
  large = 2 * (math.log(2) - size * decay / (1 + decay) - jnp.log1p(decay))
  return jnp.where(near, small, large)


@_gap.defjvp
def _gap_jvp(primals: tuple[Array], tangents: tuple[Array]):
  (d,), (tangent,) = primals, tangents
  return _gap(d), d * (1 - jnp.square(jnp.tanh(d / 2))) / 2 * tangent


def jensen_shannon_rows(p_logits: Array, q_logits: Array) -> Array:
  """Divergence of each pair of distributions, in nats.

  Args:
    p_logits: [..., classes], finite, of any magnitude.
    q_logits: the same shape.

  Returns:
    [...], between 0 and log 2; symmetric in its arguments.

  Raises:
    ValueError: the shapes differ.
  """
  if p_logits.shape != q_logits.shape:
    raise ValueError(
      'Jensen-Shannon divergence needs two arrays of one shape, not '
      f'{p_logits.shape} and {q_logits.shape}.'
    )
  dtype = jnp.promote_types(jnp.result_type(p_logits, q_logits), jnp.float32)
  log_p = jax.nn.log_softmax(p_logits.astype(dtype))
  log_q = jax.nn.log_softmax(q_logits.astype(dtype))
  middle = (jnp.exp(log_p) + jnp.exp(log_q)) / 2
  return jnp.sum(middle * _gap(log_q - log_p), axis=-1) / 2


def jensen_shannon(
  p_logits: Array, q_logits: Array, mask: Array | None = None
) -> Array:
  """Mean divergence over the rows that count, in nats.

  Args:
    p_logits: [rows, classes].
    q_logits: [rows, classes].
    mask: [rows], 1 for a row that counts and 0 for padding, or None. What a
      row with 0 holds is never used, not even if it is NaN.

  Returns:
    [] mean over the whole batch; 0 if no row counts. The same on every
    device.

  Raises:
    ValueError: the shapes do not fit.
  """
  weight = jnp.ones(p_logits.shape[:1]) if mask is None else mask
  if p_logits.ndim != 2 or weight.shape != p_logits.shape[:1]:
    raise ValueError(
      'jensen_shannon needs [rows, classes] and a mask [rows], not '
      f'{p_logits.shape} and {weight.shape}.'
    )
  counts = weight[:, None] > 0
  values = jensen_shannon_rows(
    jnp.where(counts, p_logits, 0), jnp.where(counts, q_logits, 0)
  )
  weight = (weight > 0).astype(values.dtype)
  return psum(mean_share(values, weight))
