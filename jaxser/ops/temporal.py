"""TIM-Net's two expensive operations, over several streams at once.

A stream is a direction of time; arrays are [streams, batch, time, channels], so
that one batched product does both. Gradients are written out: products and
shifts keep their speed under vmap over runs, where library convolutions become
grouped ones, and on a CPU take a third less time.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxser.ops.collectives import psum

_HIGHEST = lax.Precision.HIGHEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def causal_convolution(x: Array, kernel: Array, dilation: int) -> Array:
  """y[t] = sum_k x[t - (width - 1 - k) dilation] kernel[k], zeros before x.

  x [streams, batch, time, in] and kernel [streams, width, in, out], whose last
  tap meets the present, give [streams, batch, time, out].
  """
  y = _product(x, kernel[:, -1])
  for tap, lag in _lags(x, kernel, dilation):
    y += _delayed(_product(x, kernel[:, tap]), lag)
  return y


def _convolution_forward(x, kernel, dilation):
  return causal_convolution(x, kernel, dilation), (x, kernel)


def _convolution_backward(dilation, saved, dy):
  form = functools.partial(_convolution_gradients, dilation)
  cpu = functools.partial(form, in_parts=True)
  return lax.platform_dependent(*saved, dy, cpu=cpu, default=form)


def _convolution_gradients(dilation, x, kernel, dy, in_parts=False):
  """Returns the gradients of x and of the kernel.

  A CPU is faster with flat arrays and parts of them, which save it products with
  zeros; a TPU, whose lanes are frames, would copy each.
  """
  time, dx = x.shape[2], _product(dy, kernel[:, -1].swapaxes(1, 2))
  taps = [jnp.zeros_like(kernel[:, 0])] * (kernel.shape[1] - 1)
  for tap, lag in _lags(x, kernel, dilation):
    back = kernel[:, tap].swapaxes(1, 2)
    if in_parts:
      future = dy[:, :, lag:]
      taps[tap] = _correlation(_flat(x[:, :, : time - lag]), _flat(future))
      dx = dx.at[:, :, : time - lag].add(_product(future, back))
    else:
      future = _delayed(dy, -lag)
      taps[tap] = _correlation(x, future)
      dx += _product(future, back)
  pair = map(_flat, (x, dy)) if in_parts else (x, dy)
  return dx, jnp.stack([*taps, _correlation(*pair)], axis=1)


causal_convolution.defvjp(_convolution_forward, _convolution_backward)


def _lags(x: Array, kernel: Array, dilation: int) -> list[tuple[int, int]]:
  """Returns the taps that meet the past of x, and by how many frames."""
  width, time = kernel.shape[1], x.shape[2]
  lags = [(tap, (width - 1 - tap) * dilation) for tap in range(width - 1)]
  return [(tap, lag) for tap, lag in lags if lag < time]


def _delayed(x: Array, lag: int) -> Array:
  """y[t] = x[t - lag], zeros where x has no such frame."""
  still = (0, 0, 0)
  return lax.pad(
    x, jnp.zeros((), x.dtype), (still, still, (lag, -lag, 0), still)
  )


def _flat(x: Array) -> Array:
  """[s, b, t, c] -> [s, b * t, c]."""
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _product(x: Array, matrix: Array) -> Array:
  """[s, b, t, i] times [s, i, o] -> [s, b, t, o]."""
  return jnp.einsum('sbti,sio->sbto', x, matrix, precision=_HIGHEST)


def _correlation(x: Array, y: Array) -> Array:
  """Sum over batch and time, or both in one axis, of x_i y_o -> [s, i, o]."""
  inner = tuple(range(1, x.ndim - 1))
  numbers = ((inner, inner), ((0,), (0,)))
  return lax.dot_general(x, y, numbers, precision=_HIGHEST)


def _wide(channels: Array) -> Array:
  return channels[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalised_relu(x, scale, bias, factor, mask, epsilon):
  """BatchNorm in training mode, ReLU and spatial dropout in one.

      z = relu(scale (x - mean) / sqrt(variance + epsilon) + bias) factor

  Mean and variance [streams, channels] are over batch and time of the rows with
  mask 1, [batch], on all devices. Two passes, not E[x^2] - mean^2, keep float32
  exact for channels whose mean is far above their spread. x is [streams, batch,
  time, channels], scale and bias [streams, channels], factor [streams, batch,
  channels] what dropout multiplies with.

  Returns:
    z and (mean, variance, count [] of time steps). Gradients flow through z to
    x, scale and bias alone; those of scale and bias are this device's share.
  """
  return _normalised_forward(x, scale, bias, factor, mask, epsilon)[0]


def _normalised_forward(x, scale, bias, factor, mask, epsilon):
  weight = mask[None, :, None, None]
  count = psum(jnp.sum(mask) * x.shape[2])
  safe = jnp.maximum(count, 1)
  mean = psum(jnp.sum(x * weight, (1, 2))) / safe
  centred = x - _wide(mean)
  variance = psum(jnp.sum(centred * centred * weight, (1, 2))) / safe
  inverse = lax.rsqrt(variance + epsilon)
  y = centred * _wide(scale * inverse) + _wide(bias)
  z = jnp.maximum(y, 0) * factor[:, :, None]
  saved = (centred, inverse, scale, bias, factor, weight, safe)
  return (z, (mean, variance, count)), saved


def _normalised_backward(epsilon, saved, cotangents):
  centred, inverse, scale, bias, factor, weight, count = saved
  dz, _ = cotangents
  slope = scale * inverse
  positive = centred * _wide(slope) + _wide(bias) > 0
  dy = jnp.where(positive, dz * factor[:, :, None], 0)
  dbias = jnp.sum(dy, (1, 2))
  dscale = jnp.sum(dy * centred, (1, 2)) * inverse
  # Padding rows are in no mean, so the means' gradients do not reach them.
  mean = _wide(psum(dbias) / count)
  tilt = _wide(psum(dscale) / count * inverse)
  dx = (dy - weight * (mean + centred * tilt)) * _wide(slope)
  return dx, dscale, dbias, None, None


normalised_relu.defvjp(_normalised_forward, _normalised_backward)
