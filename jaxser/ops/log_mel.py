"""The log-mel spectrogram of TIM-Net's features, on the accelerator.

The numbers are those of `data_prep.features.Librosa22k` from the fitted
waveform on: librosa's default mel spectrogram in dB. Resampling and fitting
stay on the host.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Slaney's scale: linear up to 1 kHz, then 27 steps per factor of 6.4.
_LINEAR_HZ = 200.0 / 3
_KNEE_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27


def slaney_mel(hertz: np.ndarray) -> np.ndarray:
  """Frequency in Hz -> mel, on the scale of Slaney's Auditory Toolbox."""
  hertz = np.asarray(hertz, np.float64)
  above = np.log(np.maximum(hertz, _KNEE_HZ) / _KNEE_HZ) / _LOG_STEP
  return np.minimum(hertz, _KNEE_HZ) / _LINEAR_HZ + above


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
  """The inverse of `slaney_mel`."""
  mel = np.asarray(mel, np.float64)
  knee = _KNEE_HZ / _LINEAR_HZ
  above = np.exp(_LOG_STEP * np.maximum(mel - knee, 0))
  return np.minimum(mel, knee) * _LINEAR_HZ * above


@functools.cache
def mel_filters(sample_rate: int, fft_length: int, bins: int) -> np.ndarray:
  """Triangles between neighbouring mel frequencies, each of area 1.

  Args:
    sample_rate: Hz.
    fft_length: of the spectrum, whose frequencies are `k sample_rate /
      fft_length` for `k <= fft_length / 2`.
    bins: number of triangles between 0 Hz and the Nyquist frequency.

  Returns:
    float32 `[fft_length // 2 + 1, bins]`.
  """
  frequencies = np.arange(fft_length // 2 + 1) * (sample_rate / fft_length)
  top = slaney_mel(sample_rate / 2)
  corners = slaney_hertz(np.linspace(0, top, bins + 2))
  low, middle, high = corners[:-2], corners[1:-1], corners[2:]
  at = frequencies[:, None]
  rising = (at - low) / (middle - low)
  falling = (high - at) / (high - middle)
  triangles = np.maximum(0, np.minimum(rising, falling))
  filters = (triangles * (2 / (high - low))).astype(np.float32)
  filters.flags.writeable = False  # Cached: every caller gets this very array.
  return filters


def log_mel(
  signal: Array,
  *,
  sample_rate: int = 22050,
  fft_length: int = 2048,
  hop_length: int = 512,
  bins: int = 128,
  floor: float = 1e-10,
  range_db: float = 80.0,
) -> Array:
  """Log-mel spectrogram in dB; frames are centred, edges zero padded.

  `10 log10(max(floor, |STFT|^2 M))` with a periodic Hann window and M as in
  `mel_filters`, cut off `range_db` below the maximum of each utterance.

  Args:
    signal: float32 `[batch, samples]`, full scale 1.
    sample_rate: Hz.
    fft_length: samples per frame; a multiple of `hop_length`.
    hop_length: samples between frames.
    bins: mel bins.
    floor: smallest power before the logarithm.
    range_db: dynamic range of an utterance.

  Returns:
    float32 `[batch, 1 + samples // hop_length, bins]`.
  """
  frames = 1 + signal.shape[1] // hop_length
  parts = fft_length // hop_length
  # Whole hops that cover every frame; a frame is `parts` neighbouring hops.
  total = (frames + parts - 1) * hop_length
  left = fft_length // 2
  signal = jnp.pad(
    signal, ((0, 0), (left, max(0, total - left - signal.shape[1])))
  )
  hops = signal[:, :total].reshape(-1, frames + parts - 1, hop_length)
  framed = jnp.concatenate(
    [hops[:, i : i + frames] for i in range(parts)], axis=-1
  )
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft_length) / fft_length)
  framed = framed * jnp.asarray(window, signal.dtype).reshape(1, 1, -1)
  spectrum = jnp.fft.rfft(framed)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  filters = jnp.asarray(mel_filters(sample_rate, fft_length, bins))
  mel = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
  decibels = 10 * jnp.log10(jnp.maximum(mel, floor))
  loudest = jnp.max(decibels, axis=(1, 2), keepdims=True)
  return jnp.maximum(decibels, loudest - range_db)
