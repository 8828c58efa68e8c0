"""Convolution in two dimensions that stays fast under vmap and inside loops.

    y[h, w, o] = sum_{i, j, c} x[h + i - r, w + j - r', c] k[i, j, c, o]

with stride 1 and zeros beyond the edges ('SAME'), as in `jax.lax.conv`. Values
are those of `jax.lax.conv_general_dilated`; two things differ in how they are
computed:

- Under vmap over kernels (folds, seeds) XLA would turn it into a grouped
  convolution, whose gradients were measured fifty times slower on a CPU than
  the same convolutions one by one. Here they run one by one.
- On a CPU the gradient of the kernel is written as matrix products: XLA's own
  form falls back to a naive loop inside `scan` and `map`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def _one_by_one(function: Callable[[Array, Array], Array]):
  """The function with a batching rule that loops over the mapped axis."""
  mapped = jax.custom_batching.custom_vmap(function)

  @mapped.def_vmap
  def _(size, batched, first, second):
    def spread(value, is_batched):
      if is_batched:
        return value
      return jnp.broadcast_to(value, (size, *value.shape))

    values = spread(first, batched[0]), spread(second, batched[1])
    return lax.map(lambda pair: mapped(*pair), values), True

  return mapped


def _convolve(x: Array, kernel: Array, precision) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


def _kernel_gradient(
  x: Array, gradient: Array, precision, window: tuple[int, int]
) -> Array:
  """Gradient of the kernel as one convolution: what XLA knows on GPU, TPU."""
  rows, columns = (size // 2 for size in window)
  # Channels take the part of the batch, and the gradient that of the kernel.
  return lax.conv_general_dilated(
    x,
    gradient,
    window_strides=(1, 1),
    padding=((rows, rows), (columns, columns)),
    dimension_numbers=('CHWN', 'IHWO', 'HWNC'),
    precision=precision,
  )


def _kernel_gradient_cpu(
  x: Array, gradient: Array, precision, window: tuple[int, int]
) -> Array:
  """The same as one matrix product for each row of the window."""
  rows, columns = window
  height, width, channels = x.shape[1:]
  around = [(0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)]
  padded = jnp.pad(x, around)
  wide = jnp.concatenate(
    [padded[:, :, j : j + width] for j in range(columns)], axis=-1
  )
  flat = gradient.reshape(-1, gradient.shape[-1])
  products = [
    jnp.matmul(
      wide[:, i : i + height].reshape(-1, columns * channels).T,
      flat,
      precision=precision,
      preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    for i in range(rows)
  ]
  kernel = jnp.stack(products).reshape(rows, columns, channels, -1)
  return kernel.astype(x.dtype)


@functools.cache
def _function(precision, window: tuple[int, int]):
  """The differentiable convolution for one precision and window."""

  @_one_by_one
  def forward(x, kernel):
    return _convolve(x, kernel, precision)

  @_one_by_one
  def input_gradient(gradient, kernel):
    flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    return _convolve(gradient, flipped, precision)

  @_one_by_one
  def kernel_gradient(x, gradient):
    options = {'precision': precision, 'window': window}
    return lax.platform_dependent(
      x,
      gradient,
      cpu=functools.partial(_kernel_gradient_cpu, **options),
      default=functools.partial(_kernel_gradient, **options),
    )

  def backward(saved, gradient):
    x, kernel = saved
    return input_gradient(gradient, kernel), kernel_gradient(x, gradient)

  @jax.custom_vjp
  def convolution(x, kernel):
    return forward(x, kernel)

  convolution.defvjp(lambda *pair: (forward(*pair), pair), backward)
  return convolution


def convolve(
  x: Array, kernel: Array, precision: str | lax.Precision | None = None
) -> Array:
  """Convolves images with a kernel of odd size, stride 1, 'SAME' padding.

  Differentiable in reverse mode only.

  Args:
    x: [batch, height, width, channels].
    kernel: [rows, columns, channels, filters], the dtype of x.
    precision: of the products, as in `jax.lax.conv_general_dilated`. None is
      the platform's default (TF32 on NVIDIA GPUs, as in PyTorch).

  Returns:
    [batch, height, width, filters].
  """
  return _function(precision, kernel.shape[:2])(x, kernel)
