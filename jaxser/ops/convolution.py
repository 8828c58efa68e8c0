"""Convolution in two dimensions that stays fast under vmap and inside loops.

The values are those of `jax.lax.conv`, but under vmap over kernels (folds,
seeds) convolutions run one by one: XLA's grouped convolution has gradients that
were measured fifty times slower on a CPU. And on a CPU the gradient of the
kernel is written as matrix products: XLA's own form falls back to a naive loop
inside `scan` and `map`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

_conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1))
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Bytes of images and gradients that a CPU takes at a time: what its cache holds.
_CACHE = 2**23


def _one_by_one(function: Callable[[Array, Array], Array]):
  """The function with a batching rule that loops over the mapped axis."""
  mapped = jax.custom_batching.custom_vmap(function)

  @mapped.def_vmap
  def _(size, batched, *values):
    values = tuple(
      x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
      for x, is_batched in zip(values, batched, strict=True)
    )
    return lax.map(lambda pair: mapped(*pair), values), True

  return mapped


def _kernel_gradient(x: Array, gradient: Array, precision, window):
  """Gradient of the kernel as one convolution: what XLA knows on GPU, TPU."""
  # Channels take the part of the batch, and the gradient that of the kernel.
  return _conv(
    x,
    gradient,
    padding=[(size // 2, size // 2) for size in window],
    dimension_numbers=('CHWN', 'IHWO', 'HWNC'),
    precision=precision,
  )


def _kernel_gradient_cpu(x: Array, gradient: Array, precision, window):
  """The same over parts of the batch, in the one layout that is fast in loops."""
  count, dtype = len(x), jnp.promote_types(x.dtype, jnp.float32)
  most = max(1, count * _CACHE // (x.nbytes + gradient.nbytes))
  images = next(n for n in range(min(most, count), 0, -1) if count % n == 0)

  def add(total, part):
    found = _conv(
      part[0].transpose(3, 1, 2, 0),
      part[1].transpose(1, 2, 0, 3),
      padding=[(size // 2, size // 2) for size in window],
      dimension_numbers=_LAYOUT,
      precision=precision,
      preferred_element_type=dtype,
    )
    return total + found, None

  parts = [v.reshape(-1, images, *v.shape[1:]) for v in (x, gradient)]
  start = jnp.zeros((x.shape[-1], *window, gradient.shape[-1]), dtype)
  total, _ = lax.scan(add, start, parts)
  return total.transpose(1, 2, 0, 3).astype(x.dtype)


@functools.cache
def _function(precision, window: tuple[int, int]):
  """The differentiable convolution for one precision and window."""
  same = functools.partial(
    _conv,
    padding='SAME',
    dimension_numbers=_LAYOUT,
    precision=precision,
  )
  forward = _one_by_one(same)

  @_one_by_one
  def input_gradient(gradient, kernel):
    return same(gradient, jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3))

  @_one_by_one
  def kernel_gradient(x, gradient):
    cpu, default = (
      functools.partial(form, precision=precision, window=window)
      for form in (_kernel_gradient_cpu, _kernel_gradient)
    )
    return lax.platform_dependent(x, gradient, cpu=cpu, default=default)

  def backward(saved, gradient):
    x, kernel = saved
    return input_gradient(gradient, kernel), kernel_gradient(x, gradient)

  convolution = jax.custom_vjp(lambda x, kernel: forward(x, kernel))
  convolution.defvjp(lambda *pair: (forward(*pair), pair), backward)
  return convolution


def convolve(
  x: Array, kernel: Array, precision: str | lax.Precision | None = None
) -> Array:
  """Convolves images with a kernel of odd size, stride 1, 'SAME' padding.

      y[h, w, o] = sum_{i, j, c} x[h + i - r, w + j - r', c] k[i, j, c, o]

  x [batch, height, width, channels] with kernel [rows, columns, channels,
  filters] of the same dtype gives [batch, height, width, filters]. Precision is
  that of `jax.lax.conv_general_dilated`: None is the platform's default (TF32
  on NVIDIA GPUs, as in PyTorch). Differentiable in reverse mode only.
  """
  return _function(precision, kernel.shape[:2])(x, kernel)
