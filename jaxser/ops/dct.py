"""The discrete cosine transform that turns log-mel frames into MFCCs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def dct_matrix(size: int, num_coefficients: int) -> np.ndarray:
  """The orthonormal DCT-II, float64 [size, num_coefficients], lowest first.

  `D[n, k] = s_k cos(π k (2 n + 1) / (2 N))`, `s_0 = sqrt(1 / N)` and
  `s_k = sqrt(2 / N)` for `k > 0`, with `N = size`.
  """
  n = np.arange(size)[:, None]
  k = np.arange(num_coefficients)[None, :]
  matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * size)) * np.sqrt(2 / size)
  matrix[:, 0] = np.sqrt(1 / size)
  matrix.flags.writeable = False  # Cached: every caller gets this very array.
  return matrix


def mfcc(log_mel: jax.Array, num_coefficients: int = 39) -> jax.Array:
  """Mel-frequency cepstral coefficients of log-mel frames, in their dtype.

  `c[..., k] = Σ_n log_mel[..., n] D[n, k]`, D as in `dct_matrix`, of log_mel
  [..., mels], for TIM-Net in dB. The mean over the mels goes to the first
  coefficient by itself: it is far larger than what is around it (a silent frame
  of -53 dB has c_0 = -603), and its rounding would drown the small.
  """
  size = log_mel.shape[-1]
  matrix = jnp.asarray(dct_matrix(size, num_coefficients), log_mel.dtype)
  # Any number would do here, so it has no part in the gradient.
  mean = jax.lax.stop_gradient(log_mel.mean(axis=-1, keepdims=True))
  coefficients = jnp.matmul(
    log_mel - mean, matrix, precision=jax.lax.Precision.HIGHEST
  )
  return coefficients.at[..., :1].add(float(np.sqrt(size)) * mean)
