"""The cosine transform against scipy in float64, and under transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxser.ops import dct


def _log_mel(*shape):
  """Values with the range of a log-mel spectrogram in dB."""
  return np.random.default_rng(0).uniform(-100, 40, shape).astype(np.float32)


def test_equals_scipy_in_float64():
  log_mel = _log_mel(3, 188, 128)
  expected = scipy.fft.dct(log_mel.astype(np.float64), axis=-1, norm='ortho')
  result = dct.mfcc(jnp.asarray(log_mel))
  assert result.shape == (3, 188, 39)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected[..., :39], rtol=0, atol=1e-4)


def test_the_matrix_is_orthonormal():
  matrix = dct.dct_matrix(128, 128)
  np.testing.assert_allclose(matrix.T @ matrix, np.eye(128), atol=1e-13)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(128), atol=1e-13)


def test_silence_has_one_coefficient_to_the_last_digit():
  silent = jnp.full((2, 128), -53.27399, jnp.float32)
  expected = np.zeros((2, 39))
  expected[:, 0] = np.float64(silent[0, 0]) * np.sqrt(128)
  result = dct.mfcc(silent)
  np.testing.assert_allclose(result, expected, rtol=1e-7, atol=2e-6)


def test_all_coefficients_invert_to_the_input():
  log_mel = _log_mel(7, 16)
  coefficients = dct.mfcc(jnp.asarray(log_mel), 16)
  back = scipy.fft.idct(np.asarray(coefficients), axis=-1, norm='ortho')
  np.testing.assert_allclose(back, log_mel, atol=1e-4)


def test_jit_and_vmap_change_nothing():
  log_mel = jnp.asarray(_log_mel(4, 20, 128))
  expected = dct.mfcc(log_mel)
  np.testing.assert_allclose(jax.jit(dct.mfcc)(log_mel), expected, atol=1e-4)
  np.testing.assert_allclose(
    jax.jit(jax.vmap(jax.vmap(dct.mfcc)))(log_mel), expected, atol=1e-4
  )


def test_the_gradient_is_the_transpose():
  log_mel = jnp.asarray(_log_mel(5, 128))
  cotangent = _log_mel(5, 39)
  gradient = jax.grad(lambda x: (dct.mfcc(x) * cotangent).sum())(log_mel)
  expected = cotangent.astype(np.float64) @ dct.dct_matrix(128, 39).T
  np.testing.assert_allclose(gradient, expected, atol=2e-4)


def test_too_many_coefficients_is_an_error():
  with pytest.raises(
    ValueError, match='num_coefficients is 39; 20 values have'
  ):
    dct.mfcc(jnp.zeros((3, 20)))
