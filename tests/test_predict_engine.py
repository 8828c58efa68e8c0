"""Predictions equal those of evaluation, in few shapes and in order."""

import numpy as np
import pytest
import soundfile

from data_prep import features as features_lib
from jaxser.models import audio_features as audio_lib
from jaxser.models import latency, predictor
from jaxser.models.output import Recording
from jaxser.ops import spherical
from tests import trained


def values(recordings):
  return np.array([[*(r.vad or r.scores).values()] for r in recordings])


@pytest.mark.parametrize('system', list(trained.SMALL))
def test_predictions_are_those_of_the_system_on_the_corpus(
  system, trained_run, speech
):
  """Fold by fold, and the ensemble is their mean."""
  run, wanted = trained_run(system), []
  for fold in (0, 1):
    weights = run.weights[0, fold, 'best_on_dev']
    wanted.append(trained.outputs(run.system, run.source, *weights))
    model = predictor.load(run.workdir, folds=(fold,))
    found = values(model.predict(speech))
    np.testing.assert_allclose(found, wanted[-1], rtol=1e-5, atol=1e-5)
  assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
  model, mean = predictor.load(run.workdir), np.mean(wanted, 0)
  found = values(model.predict(speech))
  np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-5)
  # From Python: one file, its samples, and what the network makes of it.
  wave, rate = soundfile.read(speech[0])
  found = values([model.predict(speech[0]), model.predict(wave, rate)])
  np.testing.assert_allclose(found, mean[[0, 0]], rtol=1e-4, atol=1e-5)
  assert model.embed(speech[0]).shape[0] == 2
  assert len(model.embed([speech[0], speech[1]])) == 2
  with pytest.raises(audio_lib.InputError, match='give sample_rate=HZ'):
    model.predict(wave)
  with pytest.raises(audio_lib.InputError, match=r'gone\.wav: no such file'):
    model.predict('gone.wav')


@pytest.fixture(scope='module')
def sphere(trained_run):
  return predictor.load(trained_run('emosphere').workdir)


def features(sizes):
  """Recordings of random frames; those of size 0 could not be read."""
  rng = np.random.default_rng(0)
  for i, size in enumerate(sizes):
    frames = rng.standard_normal((size, 80)).astype(np.float32)
    error = '' if size else f'{i}: broken'
    yield Recording(name=f'{i}', error=error), [frames] if size else []


def test_lengths_share_few_shapes_and_come_out_in_order(sphere):
  rng = np.random.default_rng(1)
  longest = sphere.description.max_length
  sizes = [*rng.integers(1, longest + 1, 60), 0, 1, longest, 0]
  sphere.shapes.clear()
  found = list(sphere.predict_features(features(sizes), 8))
  assert [r.name for r in found] == [str(i) for i in range(len(sizes))]
  assert [bool(r.error) for r in found] == [not size for size in sizes]
  assert len(sphere.shapes) <= len(sphere.lengths) == 4
  # The company that a recording keeps changes nothing, and it need not wait for
  # thousands of others.
  taken = []

  def counted():
    for item in features([longest, *[2] * 200]):
      taken.append(item)
      yield item

  predictions = sphere.predict_features(counted(), 8)
  recording = next(predictions)
  assert recording.name == '0'
  assert len(taken) < 100
  assert len(list(predictions)) == 200
  (alone,) = sphere.predict_features(features([longest]), 1)
  np.testing.assert_allclose(values([recording]), values([alone]), rtol=1e-5)


def test_regions_are_those_of_the_system(sphere):
  region = predictor.region_of(sphere.description, sphere.models)
  names = spherical.region_names('octants')
  points = np.random.default_rng(0).uniform(1, 7, (40, 3)).astype(np.float32)
  points[0] = 4
  index = spherical.region_index(spherical.to_cube(points, 1, 7), 'octants')
  assert [region(p) for p in points] == [names[int(i)] for i in index]


def test_features_on_the_device_give_the_same_predictions(speech, trained_run):
  folder = trained_run('timnet').workdir
  host, device = (
    predictor.load(folder, features_on=place) for place in ('host', 'device')
  )
  found = [values(model.predict(speech)) for model in (host, device)]
  np.testing.assert_allclose(found[1], found[0], atol=1e-4)
  # The middle of a long recording is used, as in training.
  assert host.extractor.window == pytest.approx(33_000 / 22_050)
  start, end = host.extractor.used(10.0)
  assert (start + end) / 2 == pytest.approx(5)
  assert end - start == pytest.approx(host.extractor.window)


def extracted(extractor, wave, rate=16_000):
  return extractor.extract(audio_lib.Input('x', (np.float32(wave), rate)))


def test_waveforms_are_normalised(speech):
  extractor = audio_lib.FeatureExtractor(
    spec=features_lib.Wave16k(),
    normalization=(0.25, 2.0),
    row_shape=(4000,),
    shortest=400,
    window=0.25,
    frame=0.025,
  )
  wave, rate = soundfile.read(speech[0], dtype='float32')
  recording, (found,) = extracted(extractor, wave, rate)
  wanted = (wave[:4000] - 0.25) / (2 + 1e-6)
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
  assert (recording.start, recording.end) == (0, 0.25)


NOISE = np.float32(np.random.default_rng(0).standard_normal(16_000) * 0.1)


@pytest.mark.parametrize(
  ('wave', 'reason'),
  [
    (NOISE * 0, 'x: silence: no sample is further than 0 from the mean'),
    (NOISE * 0 + 0.2, 'x: silence'),  # Direct current.
    (NOISE * 1e-3, 'x: silence'),
    (NOISE[:1], 'x: lasts 0.1 ms, less than one frame of 40 ms'),
    (NOISE[:160], 'x: lasts 10.0 ms, less than one frame of 40 ms'),
    (NOISE * 1e30, 'full scale is 1; normalise the file'),
    (NOISE * np.nan, 'are not finite'),
    (NOISE[None], 'x: an array must be [samples] or [samples, channels], not'),
  ],
)
def test_nothing_is_predicted_of_nothing(sphere, wave, reason):
  recording, found = extracted(sphere.extractor, wave)
  assert reason in recording.error
  assert not found


def test_integers_in_a_float_array_quiet_and_clipped_audio_are_noticed(sphere):
  plain, (wanted,) = extracted(sphere.extractor, NOISE)
  assert not plain.warnings
  for wave, warning in (
    (NOISE * 2e-2, 'very quiet'),
    (np.clip(NOISE * 20, -1, 1), 'clipped'),
    (NOISE * 32_768, 'all were divided by 32768'),
  ):
    recording, (found,) = extracted(sphere.extractor, wave)
    assert warning in recording.warnings[0]
  np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_silent_segment_has_a_reason_and_no_part_in_the_mean(speech, sphere):
  wave, rate = soundfile.read(speech[0])
  size = int(0.4 * rate)
  model = predictor.Predictor(sphere.description, sphere.models, segment=0.4)
  talk = np.concatenate([wave[:size], np.zeros(size), wave[size : 2 * size]])
  found = model.predict(talk, rate)
  assert [bool(s.error) for s in found.segments] == [False, True, False]
  assert found.segments[1].error.startswith('silence')
  spoken = values([found.segments[i] for i in (0, 2)])
  np.testing.assert_allclose(values([found])[0], spoken.mean(0), rtol=1e-5)


def test_timing_says_what_it_measured(sphere):
  found = latency.measure(
    sphere, files=6, seconds=0.3, num_workers=1, repeats=2
  )
  assert found['files'] == 6
  assert 0 < found['warm_latency_s'] < found['first_latency_s']
  low, high = found['files_per_s_range']
  assert 0 < low <= found['files_per_s'] <= high
  assert 'kaldi16k features on the host' in latency.lines(found)[0]
