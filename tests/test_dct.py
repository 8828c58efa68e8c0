"""The cosine transform against scipy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from jaxser.ops import dct


def _log_mel(*shape):
  """Values with the range of a log-mel spectrogram in dB."""
  return np.random.default_rng(0).uniform(-100, 40, shape).astype(np.float32)


def test_equals_scipy_in_float64():
  log_mel = _log_mel(3, 188, 128)
  expected = scipy.fft.dct(log_mel.astype(np.float64), axis=-1, norm='ortho')
  for transform in (dct.mfcc, jax.jit(jax.vmap(dct.mfcc))):
    result = transform(jnp.asarray(log_mel))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected[..., :39], rtol=0, atol=1e-4)
  matrix = dct.dct_matrix(128, 128)
  np.testing.assert_allclose(matrix.T @ matrix, np.eye(128), atol=1e-13)


def test_silence_has_one_coefficient_to_the_last_digit():
  silent = jnp.full((2, 128), -53.27399, jnp.float32)
  expected = np.zeros((2, 39))
  expected[:, 0] = np.float64(silent[0, 0]) * np.sqrt(128)
  result = dct.mfcc(silent)
  np.testing.assert_allclose(result, expected, rtol=2e-7, atol=4e-6)


def test_the_gradient_is_the_transpose():
  log_mel, cotangent = jnp.asarray(_log_mel(5, 128)), _log_mel(5, 39)
  gradient = jax.grad(lambda x: (dct.mfcc(x) * cotangent).sum())(log_mel)
  expected = cotangent.astype(np.float64) @ dct.dct_matrix(128, 39).T
  np.testing.assert_allclose(gradient, expected, atol=2e-4)
