"""Augmentation of one utterance; what is random comes as an argument.

An utterance x is [time, bins] or, a waveform, [samples], of which `length`,
int32 [], is valid and the rest zero; so are all results. Batches are these
functions under `jax.vmap`.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

TAPS = 16
"""Neighbours to each side from which `change_speed` interpolates."""


def valid(x: Array, length: Array) -> Array:
  """Returns booleans [time], or [time, 1] of frames: what is no padding."""
  inside = jnp.arange(x.shape[0]) < length
  return inside.reshape(-1, *(1,) * (x.ndim - 1))


def time_mask(x: Array, length: Array, start: Array, width: Array) -> Array:
  """Sets the frames `start <= t < start + width` to the utterance's mean.

  Masks are int32 [...]. Source: Park et al., "SpecAugment", Interspeech 2019
  (arXiv 1904.08779), who set them to zero, the mean of their features.
  """
  return _mask(x, length, start, width, axis=0)


def frequency_mask(
  x: Array, length: Array, start: Array, width: Array
) -> Array:
  """Sets the bins `start <= b < start + width` to the utterance's mean.

  Of log-mel frames these are bands of frequencies, also for a network that
  takes MFCCs of what is left. Masks and source: as `time_mask`.
  """
  return _mask(x, length, start, width, axis=1)


def _mask(x, length, start, width, axis):
  kept, position = valid(x, length), jnp.arange(x.shape[axis])
  start, width = start.reshape(-1, 1), width.reshape(-1, 1)
  inside = (position[None] >= start) & (position[None] < start + width)
  masked = jnp.expand_dims(jnp.any(inside, axis=0), 1 - axis)
  count = jnp.maximum(length, 1) * x.shape[1]
  mean = jnp.sum(jnp.where(kept, x, 0)) / count
  return jnp.where(kept & masked, mean, x)


def gain(
  x: Array, length: Array, decibels: Array, unit: float | None = None
) -> Array:
  """Makes an utterance louder by `decibels`, float32 [].

      waveform     10^(decibels / 20) x                 (unit None)
      log power    x + decibels * unit

  `unit` is one dB of log power: 1, or log(10) / 10 of natural logarithms.
  On log-mel this is the gain of the waveform, but for the logarithm's floor.
  """
  if unit is None:
    return x * 10 ** (decibels / 20)
  return jnp.where(valid(x, length), x + decibels * unit, x)


def add_noise(
  x: Array, length: Array, noise: Array, snr: Array, unit: float | None = None
) -> Array:
  """Adds white noise at a signal-to-noise ratio of `snr` dB, float32 [].

      waveform     x + sqrt(P / R) noise,          noise ~ Normal(0, 1)
      log power    log(exp(x) + P / R noise),      noise ~ Exponential(1)

  with R = 10^(snr / 10), P the mean power of the valid part, `noise` in the
  shape of x and `unit` as of `gain`. Powers of independent signals add on the
  mean; that of white Gaussian noise in one bin of a spectrum is exponentially
  distributed. In mel bands, the noise has the same mean power in each.
  """
  kept, count = valid(x, length), jnp.maximum(length, 1)
  if unit is None:
    power = jnp.sum(jnp.where(kept, x, 0) ** 2) / count
    return jnp.where(kept, x + jnp.sqrt(power / 10 ** (snr / 10)) * noise, x)
  nats = math.log(10) / 10 / unit
  signal = jnp.where(kept, x * nats, -jnp.inf)
  # Where nothing is valid nothing is used; -inf would make it NaN on the way.
  mean = jax.nn.logsumexp(jnp.where(length > 0, signal, 0))
  mean -= jnp.log(count * x.shape[1])
  level = mean - snr * (math.log(10) / 10) + jnp.log(noise)
  return jnp.where(kept, jnp.logaddexp(signal, level) / nats, x)


def shift(x: Array, length: Array, by: Array) -> Array:
  """Moves an utterance `by` frames or samples later, int32 [], in a circle.

  y[t] = x[(t - by) mod length]: nothing is lost and nothing made up.
  """
  moved = x[(jnp.arange(x.shape[0]) - by) % jnp.maximum(length, 1)]
  return jnp.where(valid(x, length), moved, x)


def change_speed(
  x: Array, length: Array, percent: Array
) -> tuple[Array, Array]:
  """Plays a waveform at `percent`, int32 [], of its speed; pitch follows.

      y[t] = sum_n x[n] c sinc(c (p - n)) cos^2(pi (p - n) / (2 TAPS))

  with p = t percent / 100, |p - n| < TAPS and c = min(1, 100 / percent), the
  limit of what a faster one can hold. Source: Ko et al., "Audio augmentation
  for speech recognition", Interspeech 2015, with 90, 100 and 110.

  Returns:
    The waveform [samples] (at most 2^31 / percent) and its length; a slower
    one that no longer fits is cut.
  """
  size = x.shape[0]
  # Whole numbers: a float32 position would be off by 1 / 64 in a long waveform.
  scaled = jnp.arange(size) * percent
  first, fraction = scaled // 100, (scaled % 100) / 100
  limit = jnp.minimum(1, 100 / percent)
  y = jnp.zeros_like(x)
  for offset in range(1 - TAPS, TAPS + 1):
    n, distance = first + offset, fraction - offset
    weight = limit * jnp.sinc(limit * distance)
    weight *= jnp.cos(jnp.pi / 2 / TAPS * distance) ** 2
    there = (n >= 0) & (n < length)
    y += jnp.where(there, x[jnp.clip(n, 0, size - 1)], 0) * weight
  length = jnp.minimum(-(-length * 100 // percent), size)
  return jnp.where(valid(y, length), y, 0), length


def mix(
  x: Array, length: Array, other: Array, other_length: Array, share: Array
) -> Array:
  """Mixes two utterances: share x + (1 - share) other, share float32 [].

  `other`, in the shape of x, is repeated from its start, or cut, to the length
  of x; targets are mixed in the same way. Source: Zhang et al., "mixup: Beyond
  empirical risk minimization", ICLR 2018 (arXiv 1710.09412).
  """
  tiled = other[jnp.arange(x.shape[0]) % jnp.maximum(other_length, 1)]
  mixed = share * x + (1 - share) * tiled
  return jnp.where(valid(x, length), mixed, x)
