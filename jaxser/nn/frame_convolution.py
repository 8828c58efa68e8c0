"""Convolution over frames as matrix products, one for each tap.

    y[t] = sum_k x[t * stride + k - width // 2] W[k] + b,   zeros beyond the ends

Values and parameters are those of `flax.linen.Conv`. A library convolution is
slow in two places where an engine puts it: XLA's CPU compiler falls back to a
naive loop for its gradient inside `scan` and `map` (training EmoSphere-SER's
log-mel encoder took eight times as long there), and under vmap over kernels,
for folds and seeds, it becomes a grouped one. Products are neither.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.numerics import precision_of

Array = jax.Array


class FrameConvolution(nn.Module):
  """[batch, time, in] -> [batch, ceil(time / stride), features].

  Attributes:
    features: channels of the result.
    width: taps, odd; both ends are zero padded by width // 2.
    stride: frames from one result to the next.
    dtype: type of the computation; parameters are float32.
  """

  features: int
  width: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves.

    Raises:
      ValueError: if the width is even.
    """
    if self.width % 2 == 0:
      raise ValueError(f'FrameConvolution needs an odd width, not {self.width}')
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (self.width, x.shape[-1], self.features),
    ).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    time, half = x.shape[1], self.width // 2
    x = jnp.pad(x.astype(self.dtype), ((0, 0), (half, half), (0, 0)))
    count = -(-time // self.stride)
    y = bias.astype(self.dtype)[None, None]
    for tap in range(self.width):
      seen = x[:, tap : tap + (count - 1) * self.stride + 1 : self.stride]
      y = y + jnp.matmul(seen, kernel[tap], precision=precision_of(self.dtype))
    return y
