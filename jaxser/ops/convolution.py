"""Convolution in two dimensions that stays fast under vmap and inside loops.

The values are those of `jax.lax.conv`, but under vmap over kernels (folds,
seeds) convolutions run one by one: XLA's grouped convolution has gradients that
were measured fifty times slower on a CPU. And on a CPU the gradient of the
kernel is a sum over blocks, in the layout that XLA does not turn into a naive
loop inside `scan` and `map`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

_conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1))
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Bytes of images and gradients that a CPU takes at a time, and in so many rows at
# least: measured, the best of all sizes of DSNet are within a tenth.
_CACHE, _ROWS = 2**21, 8


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
  """The same as a sum over blocks that the cache of a CPU holds."""
  (batch, height), above = x.shape[:2], window[0] // 2
  row = (x.nbytes + gradient.nbytes) // (batch * height)
  groups, images = _cut(batch, _CACHE // (_ROWS * row))
  strips, rows = _cut(height, _CACHE // (images * row))
  more = groups * images - batch, strips * rows - height
  rest, across = [(0, 0)] * 2, (window[1] // 2,) * 2
  x = jnp.pad(x, [(0, more[0]), (above, above + more[1]), *rest])
  gradient = jnp.pad(gradient, [(0, more[0]), (0, more[1]), *rest])
  dtype = jnp.promote_types(x.dtype, jnp.float32)

  def add(i, total):
    first = i // strips * images, i % strips * rows, 0, 0
    size = images, rows + 2 * above, *x.shape[2:]
    image = lax.dynamic_slice(x, first, size)
    kernel = lax.dynamic_slice(
      gradient, first, (images, rows, *gradient.shape[2:])
    )
    # In another layout XLA's convolution is a naive loop inside of loops.
    return total + _conv(
      image.transpose(3, 1, 2, 0),
      kernel.transpose(1, 2, 0, 3),
      padding=[(0, 0), across],
      dimension_numbers=_LAYOUT,
      precision=precision,
      preferred_element_type=dtype,
    )

  start = jnp.zeros((x.shape[-1], *window, gradient.shape[-1]), dtype)
  total = lax.fori_loop(0, groups * strips, add, start)
  return total.transpose(1, 2, 0, 3).astype(x.dtype)


def _cut(size: int, most: int) -> tuple[int, int]:
  """Returns how many equal parts of at most `most` hold a size, and theirs."""
  parts = -(-size // max(most, 1))
  return parts, -(-size // parts)


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
