"""TIM-Net's two expensive operations, over several streams at once.

A stream is a direction of time; arrays are [streams, batch, time, channels], so
that one batched product does both. Gradients are written out: products of
slices make a training step on a CPU a third faster than library convolutions,
which become grouped ones under vmap over folds.
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
  width, time = kernel.shape[1], x.shape[2]
  y = _product(x, kernel[:, -1])
  for tap in range(width - 1):
    lag = (width - 1 - tap) * dilation
    if lag < time:
      past = _product(x[:, :, : time - lag], kernel[:, tap])
      y = y.at[:, :, lag:].add(past)
  return y


def _convolution_forward(x, kernel, dilation):
  return causal_convolution(x, kernel, dilation), (x, kernel)


def _convolution_backward(dilation, saved, dy):
  x, kernel = saved
  width, time = kernel.shape[1], x.shape[2]
  dx = _product(dy, kernel[:, -1].swapaxes(1, 2))
  taps = []
  for tap in range(width - 1):
    lag = (width - 1 - tap) * dilation
    if lag < time:
      future = dy[:, :, lag:]
      taps.append(_correlation(x[:, :, : time - lag], future))
      back = _product(future, kernel[:, tap].swapaxes(1, 2))
      dx = dx.at[:, :, : time - lag].add(back)
    else:
      taps.append(jnp.zeros_like(kernel[:, tap]))
  return dx, jnp.stack([*taps, _correlation(x, dy)], axis=1)


causal_convolution.defvjp(_convolution_forward, _convolution_backward)


def _flat(x: Array) -> Array:
  """[s, b, t, c] -> [s, b * t, c]."""
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _product(x: Array, matrix: Array) -> Array:
  """[s, b, t, i] times [s, i, o] -> [s, b, t, o]."""
  flat = jnp.einsum('sni,sio->sno', _flat(x), matrix, precision=_HIGHEST)
  return flat.reshape(*x.shape[:-1], matrix.shape[-1])


def _correlation(x: Array, y: Array) -> Array:
  """Sum over batch and time of x_i y_o -> [s, i, o]."""
  return jnp.einsum('sni,sno->sio', _flat(x), _flat(y), precision=_HIGHEST)


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
