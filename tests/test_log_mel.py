"""Log-mel on the device says what librosa says on the host."""

import functools

import jax
import numpy as np
import pytest

from data_prep import features as features_lib
from jaxser.ops.log_mel import log_mel

LENGTH = 33_000
CONVENTION = features_lib.Librosa22k(LENGTH)
TIME = np.arange(LENGTH) / 22_050


@pytest.fixture(scope='module')
def on_device():
  return jax.jit(functools.partial(log_mel, spec=CONVENTION))


def largest_difference(found, wanted):
  # At the cut-off of 80 dB rounding decides on which side a value lies.
  above = wanted > wanted.max() - 79.999
  np.testing.assert_allclose(found[~above], wanted[~above], atol=2e-3)
  return np.abs(found - wanted)[above].max()


@pytest.mark.parametrize(
  ('signal', 'tolerance'),
  [
    (0.1 * np.random.default_rng(0).standard_normal(LENGTH), 1e-3),
    (0.5 * np.sin(2 * np.pi * 440 * TIME), 1e-3),
    (np.r_[np.zeros(30_000), np.full(3000, 1e-3)], 1e-3),
    (np.zeros(LENGTH), 1e-4),
    # 80 dB below a loud sweep the rounding of a float32 transform is heard.
    (0.9 * np.sin(2 * np.pi * (200 + 4000 * TIME) * TIME), 3e-3),
  ],
  ids=['noise', 'tone', 'quiet end', 'silence', 'sweep'],
)
def test_synthetic_signals_agree(on_device, signal, tolerance):
  signal = signal.astype(np.float32)
  found = np.asarray(on_device(signal[None]))[0]
  wanted = CONVENTION(signal, 22_050)
  assert largest_difference(found, wanted) <= tolerance
