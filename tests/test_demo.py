"""The demo corpus: repeatable, audible, consistent, learnable but not easy."""

import os
import threading

import numpy as np
import pytest
import scipy.fft
import scipy.io.wavfile
import scipy.signal
from sklearn import linear_model, model_selection, pipeline, preprocessing, svm

from data_prep import corpora, demo, tables, voice
from data_prep import manifest as manifest_lib

NAMES = demo.utterance_names()


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Folder of the written corpus."""
  directory = tmp_path_factory.mktemp('corpora') / 'demo'
  demo.write_corpus(directory)
  return directory


@pytest.fixture(scope='module')
def waveforms(corpus):
  """Name -> samples, as read back from the files."""
  result = {}
  for name in NAMES:
    rate, samples = scipy.io.wavfile.read(corpus / f'{name}.wav')
    assert rate == 16_000
    result[name] = samples
  return result


@pytest.fixture(scope='module')
def pitch(waveforms):
  """Name -> median fundamental frequency, Hz."""
  return {name: _pitch(waveforms[name]) for name in NAMES}


def _pitch(samples):
  """Median over frames of the highest peak of the autocorrelation."""
  signal = samples / 32768
  # Below the second formant of most vowels, the period is plainest.
  signal = scipy.signal.sosfiltfilt(
    scipy.signal.butter(4, 900, fs=16_000, output='sos'), signal
  )
  frames = np.lib.stride_tricks.sliding_window_view(signal, 640)[::160]
  energy = (frames**2).mean(axis=1)
  frames = frames[energy > 0.1 * energy.max()] * np.hanning(640)
  power = np.abs(np.fft.rfft(frames, 2048)) ** 2
  # The window itself makes long lags look weak.
  window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)
  longest = 16_000 // 65
  correlation = np.fft.irfft(power)[:, :longest] / window[:longest]
  correlation = correlation / correlation[:, :1]
  lags = np.arange(16_000 // 480, longest)
  candidates = correlation[:, lags]
  # The first lag that is nearly the best: later ones are its multiples.
  best = candidates.max(axis=1, keepdims=True)
  peak = (candidates >= 0.93 * best).argmax(axis=1)
  peak = [
    p + int(np.argmax(row[p : p + 12]))
    for p, row in zip(peak, candidates, strict=True)
  ]
  return float(np.median(16_000 / lags[peak]))


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
  return {
    label: np.mean(
      [v for n, v in values.items() if n.startswith(speaker) and label in n]
    )
    for label in demo.CLASSES
  }


def test_an_utterance_depends_on_nothing_but_its_name(waveforms):
  name = 'demo_m2-c-fear-2'
  alone = demo.synthesise(name)
  assert alone.dtype == np.int16
  assert alone.tobytes() == waveforms[name].tobytes()
  np.random.default_rng(0).standard_normal(100)
  assert demo.synthesise(name).tobytes() == alone.tobytes()
  assert demo.plan(name) == demo.plan(name)


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


def test_names_are_complete_and_in_published_order():
  assert len(set(NAMES)) == 240
  order = sorted(
    NAMES,
    key=lambda name: (
      demo.CLASSES.index(name.split('-')[2]),
      tables.natural_key(name),
    ),
  )
  assert list(NAMES) == order
  assert sorted(demo.CLASSES) == list(demo.CLASSES)


def test_files_are_audible_and_clean(waveforms):
  for name, samples in waveforms.items():
    assert samples.dtype == np.int16, name
    assert samples.ndim == 1, name
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


def test_moving_filters_leave_no_steps():
  # Through a filter whose resonance sweeps, a pure tone stays one line: what
  # switching coefficients would add lies far from it in frequency.
  hops = 200
  tone = np.sin(2 * np.pi * 200 * np.arange(hops * 80) / 16_000)
  centre = 500 + 400 * np.sin(np.arange(hops + 1) / 5)
  section = voice._resonator(centre, 90.0)
  numerator = section.sum(axis=1, keepdims=True)
  swept = voice._filter(tone, numerator, section, 608)[1600:-1600]
  swept *= np.hanning(len(swept))
  power = np.abs(np.fft.rfft(swept)) ** 2
  frequency = np.fft.rfftfreq(len(swept), 1 / 16_000)
  assert power[frequency > 1000].max() < 1e-7 * power.max()


def test_a_fixed_filter_is_the_textbook_one():
  rng = np.random.default_rng(0)
  signal = rng.standard_normal(4000)
  section = voice._resonator(np.full(51, 700.0), 120.0)
  ours = voice._filter(signal, np.ones((51, 1)), section, 608)
  textbook = scipy.signal.lfilter([1.0], section[0], signal)
  # Windows at the two ends are not complete.
  np.testing.assert_allclose(ours[:3900], textbook[:3900], atol=2e-4)


def test_pitch_is_that_of_the_speaker_and_follows_emotion(pitch):
  overall = _by_class(pitch, 'demo')
  assert overall['angry'] > 1.07 * overall['neutral']
  assert overall['sad'] < 0.93 * overall['neutral']
  for speaker in demo.SPEAKERS:
    means = _by_class(pitch, speaker.name)
    assert means['angry'] > means['neutral'] > means['sad'], speaker.name
    assert means['fear'] > means['neutral'], speaker.name
    assert means['neutral'] == pytest.approx(speaker.pitch, rel=0.15)


def test_loudness_and_pace_follow_emotion(waveforms):
  level = {n: 20 * np.log10(np.std(w)) for n, w in waveforms.items()}
  seconds = {n: len(w) / 16_000 for n, w in waveforms.items()}
  for speaker in demo.SPEAKERS:
    means = _by_class(level, speaker.name)
    assert means['angry'] > means['neutral'] + 2 > means['sad'] + 4
    means = _by_class(seconds, speaker.name)
    assert means['sad'] > means['neutral'] > means['angry']


def test_vad_lies_on_the_scale_and_drives_the_voice(waveforms, pitch):
  points = np.array([demo.plan(name).vad for name in NAMES])
  low, high = demo.VAD_RANGE
  assert points.min() >= low
  assert points.max() <= high
  labels = np.array([name.split('-')[2] for name in NAMES])
  for label, centre in demo.CENTRES.items():
    inside = points[labels == label]
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
  speakers = [name.split('-')[0] for name in NAMES]
  labels = np.array([name.split('-')[2] for name in NAMES])
  points = np.array([demo.plan(name).vad for name in NAMES])
  features = []
  for name in NAMES:
    bands = _bands(waveforms[name])
    change = np.diff(bands, axis=1).std(axis=1)
    features.append(
      np.concatenate([bands.mean(axis=1), bands.std(axis=1), change])
    )

  def predict(model, targets):
    return model_selection.cross_val_predict(
      pipeline.make_pipeline(preprocessing.StandardScaler(), model),
      np.array(features),
      targets,
      groups=speakers,
      cv=model_selection.LeaveOneGroupOut(),
    )

  # Classes are of equal size: accuracy is the unweighted average recall.
  recall = np.mean(predict(svm.SVC(C=3.0), labels) == labels)
  assert 0.75 < recall < 0.97, recall
  predicted = predict(linear_model.Ridge(300.0), points)
  for column, least in enumerate((0.5, 0.8, 0.6)):
    x, y = predicted[:, column], points[:, column]
    ccc = 2 * np.cov(x, y, bias=True)[0, 1]
    ccc /= x.var() + y.var() + (x.mean() - y.mean()) ** 2
    assert least < ccc < 0.98, (column, ccc)


def test_the_manifest_is_complete_and_balanced(corpus):
  manifest = demo.demo_manifest(corpus)
  assert [u.id for u in manifest.utterances] == list(NAMES)
  assert manifest.vad_range == (1.0, 7.0)
  spec = corpora.get('demo')
  assert corpora.compare(spec, manifest).complete
  assert all(spec.fields(u.path) for u in manifest.utterances)
  genders = {(u.speaker, u.gender) for u in manifest.utterances}
  assert sum(gender == 'female' for _, gender in genders) == 3
  # Every speaker has neutral speech of every text, as DSNet's partner needs.
  neutral = {
    (u.speaker, u.text) for u in manifest.utterances if u.label == 'neutral'
  }
  assert len(neutral) == 6 * 4
  # The table beside the audio says the same.
  table = manifest_lib.read_manifest(
    corpus / 'manifest.tsv', corpus='demo', vad_range=(1, 7)
  )
  assert table.utterances == manifest.utterances


def test_the_folder_says_that_it_is_synthetic(corpus):
  text = (corpus / 'README.txt').read_text()
  assert text.startswith('SYNTHETIC')
  assert 'Do not report a score on them as a result' in text
  assert sorted(os.listdir(corpus)) == sorted(
    [f'{name}.wav' for name in NAMES] + ['README.txt', 'manifest.tsv']
  )


def test_writing_again_changes_nothing(corpus, monkeypatch):
  before = {f.name: f.stat().st_mtime_ns for f in corpus.iterdir()}

  def never(name):
    raise AssertionError('synthesised again')

  monkeypatch.setattr(demo, 'synthesise', never)
  demo.write_corpus(corpus)
  assert {f.name: f.stat().st_mtime_ns for f in corpus.iterdir()} == before


@pytest.fixture
def quick(monkeypatch):
  """Writing costs nothing: every utterance is a short tone."""
  tone = np.arange(160, dtype=np.int16)
  monkeypatch.setattr(demo, 'synthesise', lambda name: tone)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
  def fails(name):
    if name == NAMES[3]:
      raise OSError(28, 'No space left on device')
    return np.zeros(160, np.int16)

  monkeypatch.setattr(demo, 'synthesise', fails)
  with pytest.raises(OSError, match='No space left'):
    demo.write_corpus(tmp_path / 'deep' / 'demo')
  assert list((tmp_path / 'deep').iterdir()) == []


def test_writers_that_start_together_make_one_corpus(tmp_path, monkeypatch):
  barrier = threading.Barrier(3, timeout=60)

  def together(name):
    if name == NAMES[0]:
      barrier.wait()
    return np.zeros(160, np.int16)

  monkeypatch.setattr(demo, 'synthesise', together)
  errors = []

  def write():
    try:
      demo.write_corpus(tmp_path / 'demo')
    except Exception as error:
      errors.append(error)

  threads = [threading.Thread(target=write) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert errors == []
  assert [p.name for p in tmp_path.iterdir()] == ['demo']
  assert len(demo.demo_manifest(tmp_path / 'demo').utterances) == 240


def test_an_empty_folder_is_filled_and_another_is_left_alone(tmp_path, quick):
  empty, other = tmp_path / 'empty', tmp_path / 'other'
  empty.mkdir()
  demo.write_corpus(empty)
  assert len(list(empty.glob('*.wav'))) == 240
  other.mkdir()
  (other / 'thesis.txt').write_text('mine')
  with pytest.raises(manifest_lib.CorpusError, match='other: is not empty and'):
    demo.write_corpus(other)
  assert [p.name for p in other.iterdir()] == ['thesis.txt']
  with pytest.raises(manifest_lib.CorpusError, match=r'thesis.txt: is a file'):
    demo.write_corpus(other / 'thesis.txt')


def test_missing_files_are_named(tmp_path, quick):
  directory = tmp_path / 'demo'
  demo.write_corpus(directory)
  (directory / f'{NAMES[7]}.wav').unlink()
  message = rf'1 of the 240 wav files(?s:.)*Delete the folder(?s:.)*{NAMES[7]}'
  with pytest.raises(manifest_lib.CorpusError, match=message):
    demo.write_corpus(directory)
  with pytest.raises(manifest_lib.CorpusError, match=message):
    demo.demo_manifest(directory)
  manifest = demo.demo_manifest(directory, on_error='skip')
  assert manifest.missing == (NAMES[7],)
  assert len(manifest.utterances) == 239


@pytest.mark.parametrize(
  'name', ['', 'demo_f1', 'demo_f9-a-angry-1', 'demo_f1-a-angry-3']
)
def test_an_unknown_name_is_an_error_that_shows_the_known_ones(name):
  with pytest.raises(
    manifest_lib.CorpusError, match=r'not an utterance.*demo_m3'
  ):
    demo.synthesise(name)
