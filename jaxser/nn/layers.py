"""Layers that every system shares: dropout and BatchNorm that know of padding.

Both give the same numbers on one device, on a mesh and under pmap: dropout
because its key is folded with the row's position in the global batch, BatchNorm
because its moments are those of the valid entries of the global batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.ops.collectives import psum

Array = jax.Array


def masked_moments(x: Array, mask: Array | None) -> tuple[Array, Array, Array]:
  """Mean, biased variance and count over all axes but the last.

  Args:
    x: [batch, ..., channels].
    mask: None, or 1 and 0 in [batch], [batch, time], ...: a leading part of the
      shape of x. Entries with 0 are left out.

  Returns:
    mean [channels], variance [channels], count []. An empty mask gives zeros.
  """
  axes = tuple(range(x.ndim - 1))
  if mask is None:
    weight = jnp.ones((*x.shape[:-1], 1), x.dtype)
  else:
    weight = mask.astype(x.dtype).reshape(
      mask.shape + (1,) * (x.ndim - mask.ndim)
    )
    weight = jnp.broadcast_to(weight, (*x.shape[:-1], 1))

  def total(value):
    return psum(jnp.sum(value, axes))

  count = total(weight)[0]
  safe = jnp.maximum(count, 1)
  mean = total(x * weight) / safe
  centred = (x - mean.reshape((1,) * len(axes) + (-1,))) * weight
  # The second pass costs one more sweep and keeps float32 exact for features
  # whose mean is far larger than their spread, such as log-mel in dB.
  variance = total(centred * centred) / safe
  return mean, variance, count


class BatchNorm(nn.Module):
  """Batch normalisation over the valid entries of the global batch.

  Attributes:
    epsilon: added to the variance.
    momentum: share of the old running value that is kept (Keras' sense).
    unbiased: whether the running variance uses count - 1 (PyTorch does).
  """

  epsilon: float = 1e-3
  momentum: float = 0.99
  unbiased: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool,
    mask: Array | None = None,
    shift: Array | None = None,
  ) -> Array:
    """Normalises x + shift.

    Args:
      x: [batch, ..., channels].
      train: whether to use the batch's moments and update the running ones.
      mask: see `masked_moments`.
      shift: [channels], such as the bias of the layer before. In training it
        cancels, so it only enters the running mean and its gradient is exactly
        zero, where adding it would leave rounding noise for Adam to amplify.
    """
    width = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, width)
    bias = self.param('bias', nn.initializers.zeros, width)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, width)
    variance = self.variable('batch_stats', 'var', jnp.ones, width)
    if train:
      mu, sigma2, count = masked_moments(x, mask)
      if not self.is_initializing():
        seen = sigma2
        if self.unbiased:
          seen = sigma2 * count / jnp.maximum(count - 1, 1)
        keep = jnp.where(count > 0, self.momentum, 1.0)
        moved = mu if shift is None else mu + jax.lax.stop_gradient(shift)
        mean.value = keep * mean.value + (1 - keep) * moved
        variance.value = keep * variance.value + (1 - keep) * seen
    else:
      mu, sigma2 = mean.value, variance.value
      if shift is not None:
        mu = mu - shift
    inverse = scale * jax.lax.rsqrt(sigma2 + self.epsilon)
    row = (1,) * (x.ndim - 1) + (-1,)
    return x * inverse.reshape(row) + (bias - mu * inverse).reshape(row)


def row_bernoulli(
  rng: Array, rows: Array, keep: float, shape: Sequence[int]
) -> Array:
  """Booleans [batch, *shape], each row drawn from `rng` and its global row."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)

  def draw(key):
    return jax.random.bernoulli(key, keep, tuple(shape))

  return jax.vmap(draw)(keys)


class Dropout(nn.Module):
  """Dropout whose mask does not depend on how the batch is sharded.

  Attributes:
    rate: probability of dropping an entry.
    shared: axes over which one mask is used; (1,) on [batch, time, channels]
      drops whole channels (spatial dropout).
  """

  rate: float
  shared: Sequence[int] = ()

  @nn.compact
  def __call__(self, x: Array, rows: Array, *, train: bool) -> Array:
    """Drops entries of x [batch, ...]; rows int32 [batch] are batch['row']."""
    if not train or self.rate == 0:
      return x
    shape = [
      1 if axis in self.shared else size for axis, size in enumerate(x.shape)
    ]
    kept = row_bernoulli(
      self.make_rng('dropout'), rows, 1 - self.rate, shape[1:]
    )
    kept = jnp.broadcast_to(kept, x.shape)
    return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))
