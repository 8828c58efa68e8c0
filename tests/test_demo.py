"""The demo corpus: repeatable, audible, consistent, learnable but not easy."""

import threading
from concurrent import futures

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.io.wavfile
import scipy.signal
from sklearn import linear_model, model_selection, pipeline, preprocessing, svm

from data_prep import corpora, demo, tables
from jaxser.evaluation import metrics

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


def _bands(samples):
  """Log power in 32 mel-spaced bands `[32, frames]`, dB."""
  _, _, spectrum = scipy.signal.stft(samples / 32768, 16_000, nperseg=512)
  triangles = librosa.filters.mel(
    sr=16_000, n_fft=512, n_mels=32, htk=True, norm=None
  )
  return 10 * np.log10(triangles @ np.abs(spectrum) ** 2 + 1e-12)


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


def test_vad_lies_on_the_scale_about_the_centre_of_its_class():
  points = np.array([demo.plan(name).vad for name in NAMES])
  assert points.min() >= demo.VAD_RANGE[0]
  assert points.max() <= demo.VAD_RANGE[1]
  for label, centre in demo.CENTRES.items():
    inside = points[label == LABELS]
    np.testing.assert_allclose(inside.mean(axis=0), centre, atol=0.25)
    # The offset is that of the utterance, not one per class.
    assert (inside.std(axis=0) > 0.25).all(), label


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
  found = metrics.concordance(points, predicted)
  assert (found > [0.5, 0.8, 0.6]).all(), found
  assert (found < 0.98).all(), found


def test_what_is_written_is_complete_balanced_and_says_that_it_is_synthetic(
  corpus,
):
  spec, manifest, difference = corpora.read('demo', corpus)
  assert not difference
  assert [u.id for u in manifest.utterances] == list(NAMES)
  order = sorted(NAMES, key=lambda n: (n.split('-')[2], tables.natural_key(n)))
  assert list(NAMES) == order
  assert manifest.vad_range == (1.0, 7.0)
  assert all(u.vad == demo.plan(u.id).vad for u in manifest.utterances)
  assert all(spec.fields(u.path) for u in manifest.utterances)
  genders = {(u.speaker, u.gender) for u in manifest.utterances}
  assert sum(gender == 'female' for _, gender in genders) == 3
  # Every speaker has neutral speech of every text, as DSNet's references need.
  neutral = [u for u in manifest.utterances if u.label == 'neutral']
  assert len({(u.speaker, u.text) for u in neutral}) == 6 * 4
  text = (corpus / 'README.txt').read_text()
  assert text.startswith('SYNTHETIC')
  assert 'Do not report a score on them as a result' in text
  others = {path.name for path in corpus.iterdir() if path.suffix != '.wav'}
  assert others == {'README.txt', 'manifest.tsv'}


def refused(directory, message):
  with pytest.raises(tables.CorpusError, match=message):
    demo.write_corpus(directory)


def test_a_folder_is_filled_once_and_another_is_left_alone(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(demo, 'synthesise', lambda name: np.zeros(160, np.int16))
  ours, other = tmp_path / 'demo', tmp_path / 'other'
  ours.mkdir()
  demo.write_corpus(ours)
  other.mkdir()
  (other / 'thesis.txt').write_text('mine')
  refused(other, 'other: is not empty and')
  assert [p.name for p in other.iterdir()] == ['thesis.txt']
  refused(other / 'thesis.txt', r'thesis.txt: is a file')
  refused(other / 'thesis.txt' / 'demo', r'thesis.txt.*is a file')
  before = {f: f.stat().st_mtime_ns for f in ours.iterdir()}
  monkeypatch.setattr(demo, 'synthesise', None)
  demo.write_corpus(ours)
  assert {f: f.stat().st_mtime_ns for f in before} == before
  (ours / f'{NAMES[7]}.wav').unlink()
  refused(ours, rf'(?s)1 of the 240.*Delete the folder.*{NAMES[7]}')
  with pytest.raises(tables.CorpusError, match=rf'missing.*\n.*{NAMES[7]}'):
    corpora.read('demo', ours, on_error='skip')


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

  def together(name):
    if name == NAMES[0]:
      barrier.wait()
    return np.zeros(160, np.int16)

  monkeypatch.setattr(demo, 'synthesise', together)
  with futures.ThreadPoolExecutor(3) as pool:  # Errors of any come out here.
    list(pool.map(demo.write_corpus, [tmp_path / 'demo'] * 3))
  assert [p.name for p in tmp_path.iterdir()] == ['demo']
  assert len(corpora.read('demo', tmp_path / 'demo')[1].utterances) == 240


def test_an_utterance_depends_on_its_name_alone_and_that_must_be_known(
  waveforms,
):
  name = 'demo_m2-c-fear-2'
  assert demo.synthesise(name).dtype == np.int16
  np.testing.assert_array_equal(demo.synthesise(name), waveforms[name])
  for name in ('', 'demo_f1', 'demo_f9-a-angry-1', 'demo_f1-a-angry-3'):
    with pytest.raises(tables.CorpusError, match=r'not an utterance.*demo_m3'):
      demo.synthesise(name)
