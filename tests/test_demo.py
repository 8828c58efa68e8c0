"""The demo corpus: repeatable, audible, consistent, learnable but not easy."""

import os
import threading

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.io.wavfile
import scipy.signal
from sklearn import linear_model, model_selection, pipeline, preprocessing, svm

from data_prep import corpora, demo, tables, voice

NAMES = demo.utterance_names()
LABELS = np.array([name.split('-')[2] for name in NAMES])


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Folder of the written corpus."""
  directory = tmp_path_factory.mktemp('corpora') / 'demo'
  demo.write_corpus(directory)
  return directory


@pytest.fixture(scope='module')
def waveforms(corpus):
  """Name -> samples, as read back from the files."""
  read = {n: scipy.io.wavfile.read(corpus / f'{n}.wav') for n in NAMES}
  assert {rate for rate, _ in read.values()} == {16_000}
  return {name: samples for name, (_, samples) in read.items()}


@pytest.fixture(scope='module')
def pitch(waveforms):
  """Name -> median fundamental frequency, Hz."""
  found = {}
  for name, samples in waveforms.items():
    signal = samples / 32768
    periods = librosa.yin(signal, fmin=65, fmax=480, sr=16_000)
    energy = librosa.feature.rms(y=signal)[0] ** 2
    found[name] = np.median(periods[energy > 0.1 * energy.max()])
  return found


def _bands(samples):
  """Log power in 32 mel-spaced bands `[32, frames]`, dB."""
  _, _, spectrum = scipy.signal.stft(samples / 32768, 16_000, nperseg=512)
  mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34)
  edges = 700 * (10 ** (mel / 2595) - 1)
  frequency = np.linspace(0, 8000, 257)
  rising = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
  falling = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
  triangles = np.maximum(0, np.minimum(rising, falling))
  return 10 * np.log10(triangles @ np.abs(spectrum) ** 2 + 1e-12)


def _by_class(values, speaker):
  """Mean of values over the utterances of one speaker, per class."""
  mine = np.array([name.startswith(speaker) for name in NAMES])
  values = np.array([values[name] for name in NAMES])
  return {
    label: values[mine & (label == LABELS)].mean() for label in demo.CLASSES
  }


def test_an_utterance_depends_on_nothing_but_its_name(waveforms):
  name = 'demo_m2-c-fear-2'
  alone = demo.synthesise(name)
  assert alone.dtype == np.int16
  assert alone.tobytes() == waveforms[name].tobytes()


def test_the_recipe_has_not_changed():
  # Loose, so that another NumPy may round differently; a change beyond this
  # is a new recipe, and demo.RECIPE must count up.
  samples = demo.synthesise('demo_f1-a-angry-1')
  spectrum = scipy.fft.dct(_bands(samples).mean(axis=1), norm='ortho')
  assert len(samples) == 18_560
  np.testing.assert_allclose(
    spectrum[:6], [-347.40, 26.21, -12.12, -5.73, -22.52, -12.30], atol=0.05
  )
  assert demo.plan('demo_f1-a-angry-1').vad == (2.47, 4.95, 6.48)


def test_files_are_audible_and_clean(waveforms):
  for name, samples in waveforms.items():
    assert (samples.dtype, samples.ndim) == (np.int16, 1), name
    assert 0.9 <= len(samples) / 16_000 <= 1.6, name
    signal = samples / 32768
    peak, level = np.abs(signal).max(), 10 * np.log10(np.mean(signal**2))
    assert peak < 0.95, (name, peak)
    assert -36 < level < -14, (name, level)
    assert abs(signal.mean()) < 0.01, name
    # Silence at both ends, but never digital silence in the middle.
    assert np.abs(signal[[0, -1]]).max() < 1e-3, name
    edges = np.concatenate([signal[:400], signal[-400:]])
    assert np.abs(edges).max() < 0.25 * peak, name
    frames = signal[400:-400]
    frames = frames[: len(frames) // 160 * 160].reshape(-1, 160)
    assert frames.std(axis=1).min() > 1e-4, name


def test_filters_are_the_textbooks_and_leave_no_steps_when_they_move():
  signal = np.random.default_rng(0).standard_normal(4000)
  section = voice._resonator(np.full(51, 700.0), 120.0)
  ours = voice._filter(signal, np.ones((51, 1)), section, 608)
  textbook = scipy.signal.lfilter([1.0], section[0], signal)
  # Windows at the two ends are not complete.
  np.testing.assert_allclose(ours[:3900], textbook[:3900], atol=2e-4)
  # Through a filter whose resonance sweeps, a pure tone stays one line: what
  # switching coefficients would add lies far from it in frequency.
  tone = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
  section = voice._resonator(500 + 400 * np.sin(np.arange(201) / 5), 90.0)
  numerator = section.sum(axis=1, keepdims=True)
  swept = voice._filter(tone, numerator, section, 608)[1600:-1600]
  power = np.abs(np.fft.rfft(swept * np.hanning(len(swept)))) ** 2
  frequency = np.fft.rfftfreq(len(swept), 1 / 16_000)
  assert power[frequency > 1000].max() < 1e-7 * power.max()


def test_the_voice_follows_emotion(waveforms, pitch):
  level = {n: 20 * np.log10(np.std(w)) for n, w in waveforms.items()}
  seconds = {n: len(w) / 16_000 for n, w in waveforms.items()}
  overall = _by_class(pitch, 'demo')
  assert overall['angry'] > 1.07 * overall['neutral']
  assert overall['sad'] < 0.93 * overall['neutral']
  for speaker in demo.SPEAKERS:
    means = _by_class(pitch, speaker.name)
    assert means['angry'] > means['neutral'] > means['sad'], speaker.name
    assert means['fear'] > means['neutral'], speaker.name
    assert means['neutral'] == pytest.approx(speaker.pitch, rel=0.15)
    means = _by_class(level, speaker.name)
    assert means['angry'] > means['neutral'] + 2 > means['sad'] + 4
    means = _by_class(seconds, speaker.name)
    assert means['sad'] > means['neutral'] > means['angry']


def test_vad_lies_on_the_scale_and_drives_the_voice(waveforms, pitch):
  points = np.array([demo.plan(name).vad for name in NAMES])
  assert points.min() >= demo.VAD_RANGE[0]
  assert points.max() <= demo.VAD_RANGE[1]
  for label, centre in demo.CENTRES.items():
    inside = points[label == LABELS]
    np.testing.assert_allclose(inside.mean(axis=0), centre, atol=0.25)
    # The offset is that of the utterance, not one per class.
    assert (inside.std(axis=0) > 0.25).all(), label
  usual = {s.name: np.log(s.pitch) for s in demo.SPEAKERS}
  raised = [np.log(pitch[n]) - usual[n.split('-')[0]] for n in NAMES]
  level = [np.log(np.std(waveforms[n])) for n in NAMES]
  seconds = [len(waveforms[n]) for n in NAMES]
  arousal, dominance = points[:, 1], points[:, 2]
  assert np.corrcoef(raised, arousal)[0, 1] > 0.7
  assert np.corrcoef(level, arousal)[0, 1] > 0.7
  assert np.corrcoef(level, dominance)[0, 1] > 0.5
  assert np.corrcoef(seconds, arousal)[0, 1] < -0.5


def test_a_simple_model_learns_it_across_speakers_and_not_perfectly(waveforms):
  points = np.array([demo.plan(name).vad for name in NAMES])
  features = []
  for name in NAMES:
    bands = _bands(waveforms[name])
    change = np.diff(bands, axis=1).std(axis=1)
    features.append(np.r_[bands.mean(axis=1), bands.std(axis=1), change])

  def predict(model, targets):
    return model_selection.cross_val_predict(
      pipeline.make_pipeline(preprocessing.StandardScaler(), model),
      np.array(features),
      targets,
      groups=[name.split('-')[0] for name in NAMES],
      cv=model_selection.LeaveOneGroupOut(),
    )

  # Classes are of equal size: accuracy is the unweighted average recall.
  assert 0.75 < np.mean(predict(svm.SVC(C=3.0), LABELS) == LABELS) < 0.97
  predicted = predict(linear_model.Ridge(300.0), points)
  for column, least in enumerate((0.5, 0.8, 0.6)):
    x, y = predicted[:, column], points[:, column]
    ccc = 2 * np.cov(x, y, bias=True)[0, 1]
    ccc /= x.var() + y.var() + (x.mean() - y.mean()) ** 2
    assert least < ccc < 0.98, (column, ccc)


def test_what_is_written_is_complete_balanced_and_says_that_it_is_synthetic(
  corpus,
):
  spec, manifest, difference = corpora.read('demo', corpus)
  assert not difference
  assert [u.id for u in manifest.utterances] == list(NAMES)
  assert list(NAMES) == sorted(
    NAMES, key=lambda n: (n.split('-')[2], tables.natural_key(n))
  )
  assert manifest.vad_range == (1.0, 7.0)
  assert all(u.vad == demo.plan(u.id).vad for u in manifest.utterances)
  assert all(spec.fields(u.path) for u in manifest.utterances)
  genders = {(u.speaker, u.gender) for u in manifest.utterances}
  assert sum(gender == 'female' for _, gender in genders) == 3
  # Every speaker has neutral speech of every text, as DSNet's references need.
  neutral = {
    (u.speaker, u.text) for u in manifest.utterances if u.label == 'neutral'
  }
  assert len(neutral) == 6 * 4
  text = (corpus / 'README.txt').read_text()
  assert text.startswith('SYNTHETIC')
  assert 'Do not report a score on them as a result' in text
  assert sorted(os.listdir(corpus)) == sorted(
    [f'{name}.wav' for name in NAMES] + ['README.txt', 'manifest.tsv']
  )


@pytest.fixture
def quick(monkeypatch):
  """Writing costs nothing: every utterance is a short tone."""
  tone = np.arange(160, dtype=np.int16)
  monkeypatch.setattr(demo, 'synthesise', lambda name: tone)


def refused(directory, message):
  with pytest.raises(tables.CorpusError, match=message):
    demo.write_corpus(directory)


def test_a_folder_is_filled_once_and_another_is_left_alone(
  tmp_path, quick, monkeypatch
):
  (tmp_path / 'demo').mkdir()
  demo.write_corpus(tmp_path / 'demo')
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'thesis.txt').write_text('mine')
  refused(other, 'other: is not empty and')
  assert [p.name for p in other.iterdir()] == ['thesis.txt']
  refused(other / 'thesis.txt', r'thesis.txt: is a file')
  refused(other / 'thesis.txt' / 'demo', r'thesis.txt.*is a file')
  before = {f: f.stat().st_mtime_ns for f in (tmp_path / 'demo').iterdir()}
  monkeypatch.setattr(demo, 'synthesise', None)
  demo.write_corpus(tmp_path / 'demo')
  assert {f: f.stat().st_mtime_ns for f in before} == before
  (tmp_path / 'demo' / f'{NAMES[7]}.wav').unlink()
  refused(
    tmp_path / 'demo', rf'(?s)1 of the 240.*Delete the folder.*{NAMES[7]}'
  )
  with pytest.raises(tables.CorpusError, match=rf'missing.*\n.*{NAMES[7]}'):
    corpora.read('demo', tmp_path / 'demo', on_error='skip')


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
  def fails(name):
    if name == NAMES[3]:
      raise OSError(28, 'No space left on device')
    return np.zeros(160, np.int16)

  monkeypatch.setattr(demo, 'synthesise', fails)
  refused(tmp_path / 'deep' / 'demo', 'cannot be written .No space left')
  assert list((tmp_path / 'deep').iterdir()) == []


def test_writers_that_start_together_make_one_corpus(tmp_path, monkeypatch):
  barrier = threading.Barrier(3, timeout=60)
  errors = []

  def together(name):
    if name == NAMES[0]:
      barrier.wait()
    return np.zeros(160, np.int16)

  def write():
    try:
      demo.write_corpus(tmp_path / 'demo')
    except Exception as error:
      errors.append(error)

  monkeypatch.setattr(demo, 'synthesise', together)
  threads = [threading.Thread(target=write) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert errors == []
  assert [p.name for p in tmp_path.iterdir()] == ['demo']
  assert len(corpora.read('demo', tmp_path / 'demo')[1].utterances) == 240


def test_an_unknown_name_is_an_error_that_shows_the_known_ones():
  for name in ('', 'demo_f1', 'demo_f9-a-angry-1', 'demo_f1-a-angry-3'):
    with pytest.raises(tables.CorpusError, match=r'not an utterance.*demo_m3'):
      demo.synthesise(name)
