"""The feature specs against librosa, resampy, soxr and their own contracts."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from data_prep import audio, features, resample
from data_prep.errors import UserError

with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  librosa = pytest.importorskip('librosa')
  resampy = pytest.importorskip('resampy')


def noise(samples):
  return np.random.default_rng(samples).uniform(-1, 1, samples).astype('f')


def spec_of(name):
  extra = {'signal_length': 20000} if name == 'librosa22k' else {}
  return features.by_name(name, **extra)


each_spec = pytest.mark.parametrize(
  'name', ['librosa22k', 'kaldi16k', 'wave16k']
)


def reference_resample(waveform, rate):
  """resampy with the filter that it had before 0.4, as librosa calls it."""
  old = {'num_zeros': 64, 'precision': 9, 'rolloff': 0.9475937167399596}
  old['window'] = lambda size: np.kaiser(size, 14.769656459379492)
  result = resampy.resample(waveform, rate, 22050, filter='sinc_window', **old)
  length = int(np.ceil(len(waveform) * 22050 / rate))
  return librosa.util.fix_length(result, size=length)


@pytest.mark.parametrize(
  'rate', [8000, 11025, 16000, 22049, 22051, 24000, 44100, 48000, 96000]
)
@pytest.mark.parametrize('seconds', [0.05, 0.7])
def test_kaiser_best_is_resampy(rate, seconds):
  waveform = noise(int(rate * seconds) + 1)
  result = resample.resample_kaiser(waveform, rate)
  expected = reference_resample(waveform, rate)
  assert result.dtype == np.float32
  assert result.shape == expected.shape
  # The same sums in the same order: a unit in the last place at most.
  np.testing.assert_allclose(result, expected, rtol=0, atol=1.2e-7)
  # Some outputs alone are the same numbers.
  outputs = len(result) // 3, len(result) - 5
  first, last = resample.inputs_for(outputs, rate, 22050, len(waveform))
  where = {'start': first, 'samples': len(waveform), 'outputs': outputs}
  part = resample.resample_kaiser(waveform[first:last], rate, **where)
  np.testing.assert_array_equal(part, result[slice(*outputs)])


@pytest.mark.parametrize('rate', [16000, 44100, 48000])
def test_kaiser_best_v04_is_what_resampy_ships_today(rate):
  waveform = noise(rate // 2)
  result = resample.resample(waveform, rate, 22050, 'kaiser_best_v04')
  expected = resampy.resample(waveform, rate, 22050, filter='kaiser_best')
  result = result[: len(expected)]
  np.testing.assert_allclose(result, expected, rtol=0, atol=1.2e-7)


@pytest.mark.parametrize('rate', [8000, 22050, 44100, 48000])
def test_soxr_is_librosas_default(rate):
  waveform = noise(rate // 3)
  result = resample.resample_soxr_hq(waveform, rate)
  expected = librosa.resample(waveform, orig_sr=rate, target_sr=16000)
  np.testing.assert_allclose(result, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize('name', ['kaiser_best_v04', 'soxr_hq'])
def test_another_resampler_is_another_spec(name):
  """They differ by what costs a published checkpoint several per cent."""
  given = noise(48000), 48000
  other = features.Librosa22k(22050, resampler=name)
  assert other.parameters()['resampler'] == name
  difference = other(*given) - features.Librosa22k(22050)(*given)
  assert 1 < np.abs(difference).max() < 80


def test_short_audio_and_equal_rates():
  for samples in (1, 2, 3, 100):
    result = resample.resample_kaiser(noise(samples), 48000)
    assert result.shape == (-(-samples * 22050 // 48000),)
    assert np.isfinite(result).all()
  waveform = noise(100)
  same = resample.resample_kaiser(waveform, 22050)
  for result in (same, resample.resample_soxr_hq(waveform, 16000)):
    np.testing.assert_array_equal(result, waveform)
    assert not np.shares_memory(result, waveform)


@pytest.mark.parametrize('samples', [5000, 40000, 40001, 100000])
def test_log_mel_is_librosas(samples):
  waveform = noise(samples) * np.hanning(samples).astype(np.float32)
  result = features.Librosa22k(40000)(waveform, 22050)
  fitted = features.fit_centre(waveform, 40000)
  power = librosa.feature.melspectrogram(y=fitted, sr=22050)
  assert result.dtype == np.float32
  assert result.shape == (79, 128)
  expected = librosa.power_to_db(power).T
  np.testing.assert_allclose(result, expected, rtol=0, atol=2e-4)


def test_fit_centre_pads_the_odd_sample_on_the_right():
  x = np.arange(1, 6)
  np.testing.assert_array_equal(features.fit_centre(x, 8), [0, *x, 0, 0])
  np.testing.assert_array_equal(features.fit_centre(x, 2), [2, 3])
  np.testing.assert_array_equal(features.fit_centre(x, 5), x)


def test_silence_and_dynamic_range():
  silent = features.Librosa22k(3000)(np.zeros(2000, np.float32), 16000)
  # Ten times a logarithm, whose last bit differs between processors.
  np.testing.assert_allclose(silent, -100, rtol=1e-6)
  loud = features.Librosa22k(60000)(noise(5000), 22050)
  assert loud.max() - loud.min() == pytest.approx(80, abs=1e-5)


@pytest.mark.parametrize('rate', [16000, 22050, 44100])
@each_spec
def test_shape_tells_the_shape(name, rate):
  convention = spec_of(name)
  for samples in (700, 3217, 30000):
    samples = samples * rate // 16000
    result = convention(noise(samples), rate)
    assert result.shape == convention.shape(samples, rate)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
  frames = {'librosa22k': 40, 'kaldi16k': 432, 'wave16k': 69664}
  assert convention.shape(69664)[0] == frames[name]


OPENSMILE = """
import numpy as np
from data_prep import features
noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32) / 10
for name, bins in (('egemaps', 88), ('compare', 6373)):
  spec = features.by_name(name)
  result = spec(noise, 22050)
  assert result.shape == spec.shape(20000, 22050) == (1, bins)
  assert result.dtype == np.float32
  assert np.isfinite(result).all()
  assert spec.part(10**6, 16000, length=1) == (0, 10**6)
spec(noise[:900], 16000)
"""


def test_opensmile_gives_one_vector_of_the_whole_recording():
  """In a process of its own: it aborts one that has loaded TensorFlow."""
  pytest.importorskip('opensmile')
  command = [sys.executable, '-c', OPENSMILE]
  done = subprocess.run(command, capture_output=True, text=True)
  assert 'less than one frame of 60 ms' in done.stderr.splitlines()[-1]


def test_opensmile_is_not_run_beside_tensorflow(monkeypatch):
  pytest.importorskip('opensmile')
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(UserError, match='--num_workers=2 or more'):
    features.by_name('compare')(noise(20000), 22050)


def test_without_opensmile_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(features.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[opensmile\]'"):
    features.by_name('egemaps')


def test_kaldi_is_a_power_spectrum_of_the_scaled_waveform():
  """Ten times the amplitude is 2 ln 10 more, as energy is."""
  kaldi, waveform = features.Kaldi16k(), noise(8000) / 20
  quiet, loud = kaldi(waveform, 16000), kaldi(10 * waveform, 16000)
  np.testing.assert_allclose(loud - quiet, 2 * np.log(10), atol=2e-3)
  # White noise of this variance, through a 640-sample Hamming window.
  assert quiet.mean() > 10
  message = r'lasts 39\.9 ms, less than one frame of 40 ms'
  with pytest.raises(audio.AudioError, match=message):
    kaldi(noise(639), 16000)


def test_the_part_that_is_needed():
  kaldi = features.Kaldi16k()
  assert kaldi.part(10**6, 16000) == (0, 10**6)
  first, last = kaldi.part(10**6, 44100, length=100)
  waveform = noise(10**6)
  part = kaldi(waveform[first:last], 44100)[:100]
  np.testing.assert_allclose(part, kaldi(waveform, 44100)[:100], atol=2e-3)


@pytest.mark.parametrize('shape', [(0,), (2, 100)])
@each_spec
def test_other_shapes_are_errors(name, shape):
  with pytest.raises(audio.AudioError, match='needs a mono waveform'):
    spec_of(name)(np.zeros(shape, np.float32), 16000)


def test_wrong_names_and_values_list_the_right_ones():
  with pytest.raises(ValueError, match="'mfcc'; valid are librosa22k, kaldi"):
    features.by_name('mfcc')
  for value in (0, -1, 1.5, True, None):
    with pytest.raises(ValueError, match='must be a whole number'):
      features.Librosa22k(value)
  with pytest.raises(ValueError, match="resampler 'linear' is unknown; choose"):
    features.Librosa22k(22050, resampler='linear')


def test_parameters_name_everything_that_the_numbers_depend_on():
  log_mel = {'fft_length': 2048, 'hop_length': 512, 'bins': 128}
  log_mel |= {'sample_rate': 22050, 'signal_length': 96000}
  log_mel |= {'floor': 1e-10, 'range_db': 80.0, 'resampler': 'kaiser_best_v03'}
  log_mel |= {'num_zeros': 64, 'precision': 9}
  log_mel |= {'rolloff': 0.9475937167399596, 'beta': 14.769656459379492}
  assert features.Librosa22k(96000).parameters() == log_mel
  assert features.Kaldi16k().parameters()['resampler'] == 'soxr_hq'
  wave = {'sample_rate': 16000, 'resampler': 'soxr_hq'}
  assert features.Wave16k().parameters() == wave
