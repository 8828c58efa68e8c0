"""The log-mel spectrogram of TIM-Net's features, on the accelerator."""

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.features import Librosa22k, mel_filters


def log_mel(signal: jax.Array, spec: Librosa22k) -> jax.Array:
  """Log-mel spectrogram in dB; frames are centred, edges zero padded.

  `10 log10(max(floor, |STFT|^2 M))` with a periodic Hann window and the mel
  filters M, cut off `spec.range_db` below the maximum of each utterance: what
  `spec` computes on the host, from the resampled and fitted waveform on. Of
  signal float32 [batch, samples], full scale 1, it is float32 [batch,
  1 + samples // hop_length, bins]; a frame must be a multiple of a hop.
  """
  hop, length = spec.hop_length, spec.fft_length
  frames, parts = 1 + signal.shape[1] // hop, length // hop
  # Whole hops that cover every frame; a frame is `parts` neighbouring hops.
  total, left = (frames + parts - 1) * hop, length // 2
  right = max(0, total - left - signal.shape[1])
  signal = jnp.pad(signal, ((0, 0), (left, right)))
  hops = signal[:, :total].reshape(-1, frames + parts - 1, hop)
  framed = jnp.concatenate(
    [hops[:, i : i + frames] for i in range(parts)], axis=-1
  )
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
  framed = framed * jnp.asarray(window, signal.dtype).reshape(1, 1, -1)
  spectrum = jnp.fft.rfft(framed)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  filters = jnp.asarray(mel_filters(spec.sample_rate, length, spec.bins))
  mel = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
  decibels = 10 * jnp.log10(jnp.maximum(mel, spec.floor))
  loudest = jnp.max(decibels, axis=(1, 2), keepdims=True)
  return jnp.maximum(decibels, loudest - spec.range_db)
