"""Predictions equal those of evaluation, in few shapes and in order."""

import types

import jax
import numpy as np
import pytest

from data_prep import features as features_lib
from jaxser.engine.evaluator import Evaluator
from jaxser.engine.mesh import Placement
from jaxser.models import audio_features as hearing
from jaxser.models import ensemble as members
from jaxser.models import predictor as engine
from jaxser.models import saved as models
from jaxser.models import timing
from jaxser.ops import spherical
from tests import trained

SMALL = {
  'timnet': {'num_blocks': 2, 'filters': 8},
  'dsnet': {'channels': (4, 4), 'embedding': 8, 'max_frames': 64},
  'emosphere': {'width': 8},
}


@pytest.fixture(scope='module')
def speech(tmp_path_factory):
  return trained.write_speech(tmp_path_factory.mktemp('speech'))


@pytest.fixture(scope='module', params=list(SMALL))
def run(request, speech, tmp_path_factory):
  name = request.param
  folder = tmp_path_factory.mktemp(name)
  return trained.write_run(folder, name, speech, **SMALL[name])


def inputs_of(paths):
  return [hearing.Input(str(path), path) for path in paths]


def said(recordings):
  answers = [r.answer for r in recordings]
  return np.array([a.vad if a.scores is None else a.scores for a in answers])


def test_predictions_are_those_of_evaluate(run, speech):
  """Fold by fold, and the ensemble is their mean."""
  placement = Placement()
  evaluator = Evaluator.create(run.system, run.source, placement, 8)
  rows = np.arange(len(speech))
  description = models.open(run.workdir)
  wanted = []
  for fold in (0, 1):
    weights = run.weights[0, fold, 'best_on_dev']
    wanted.append(evaluator.answers(*placement.put_state(weights), rows))
    chosen = members.choose(description, folds=(fold,))
    predictor = engine.Predictor(description, members.load(description, chosen))
    found = said(predictor.predict(inputs_of(speech)))
    np.testing.assert_allclose(found, wanted[-1], rtol=1e-5, atol=1e-5)
  assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
  chosen = members.choose(description)
  predictor = engine.Predictor(description, members.load(description, chosen))
  found = said(predictor.predict(inputs_of(speech)))
  np.testing.assert_allclose(
    found, np.mean(wanted, axis=0), rtol=1e-5, atol=1e-5
  )


@pytest.fixture(scope='module')
def sphere(speech, tmp_path_factory):
  folder = tmp_path_factory.mktemp('sphere')
  run = trained.write_run(folder, 'emosphere', speech, folds=1, width=8)
  return models.open(run.workdir)


def heard(description, sizes):
  """Recordings of random frames; those of size 0 could not be read."""
  rng = np.random.default_rng(0)
  for i, size in enumerate(sizes):
    frames = rng.standard_normal((size, 80)).astype(np.float32)
    pieces = (hearing.Piece(0.0, 1.0, frames),) if size else ()
    yield hearing.Heard(f'{i}', 1.0, pieces, '' if size else f'{i}: broken')


def test_lengths_share_few_shapes_and_come_out_in_order(sphere):
  loaded = members.load(sphere, members.choose(sphere))
  rng = np.random.default_rng(1)
  longest = sphere.max_length
  sizes = [*rng.integers(1, longest + 1, 60), 0, 1, longest, 0]
  predictor = engine.Predictor(sphere, loaded)
  found = list(predictor.answer(heard(sphere, sizes), 8))
  assert [r.name for r in found] == [str(i) for i in range(len(sizes))]
  assert [bool(r.error) for r in found] == [not size for size in sizes]
  assert len(predictor.shapes) <= 4
  assert len(predictor.lengths) == 4
  # A rare long one among many short ones is not kept waiting for ever, and the
  # company that a recording keeps changes nothing.
  lone = [longest, *[2] * 200]
  other = engine.Predictor(sphere, loaded)
  taken = []

  def counted():
    for item in heard(sphere, lone):
      taken.append(item)
      yield item

  answers = other.answer(counted(), 8)
  first = next(answers)
  assert first.name == '0'
  assert len(taken) < 60
  assert len([first, *answers]) == len(lone)


def test_regions_are_those_of_the_system(sphere):
  loaded = members.load(sphere, members.choose(sphere))
  region = engine.region_of(sphere, loaded)
  names = spherical.region_names('octants')
  points = np.random.default_rng(0).uniform(1, 7, (40, 3)).astype(np.float32)
  points[0] = 4
  index = spherical.region_index(spherical.to_cube(points, 1, 7), 'octants')
  assert [region(p) for p in points] == [names[int(i)] for i in index]


def test_features_on_the_device_give_the_same_answers(speech, tmp_path_factory):
  folder = tmp_path_factory.mktemp('timnet')
  run = trained.write_run(folder, 'timnet', speech, folds=1, **SMALL['timnet'])
  description = models.open(run.workdir)
  loaded = members.load(description, members.choose(description))
  answers = []
  for where in ('host', 'device'):
    predictor = engine.Predictor(description, loaded, features_on=where)
    answers.append(said(predictor.predict(inputs_of(speech))))
  np.testing.assert_allclose(answers[1], answers[0], atol=1e-4)
  # The middle of a long recording is heard, as in training.
  ears = hearing.Ears(description)
  assert ears.window == pytest.approx(33_000 / 22_050)
  start, end = ears.heard(10.0)
  assert (start + end) / 2 == pytest.approx(5)
  assert end - start == pytest.approx(ears.window)


def test_waveforms_are_normalised_and_too_short_ones_refused(speech):
  description = types.SimpleNamespace(
    convention=features_lib.Wave16k(),
    normalization=(0.25, 2.0),
    max_length=4000,
    system=types.SimpleNamespace(min_length=400),
  )
  ears = hearing.Ears(description)
  found = ears.hear(hearing.Input('x', speech[0]))
  (piece,) = found.pieces
  wave = features_lib.Wave16k()(*hearing.audio.decode(speech[0]))
  np.testing.assert_allclose(
    piece.features, (wave[:4000] - 0.25) / (2 + 1e-6), rtol=1e-6, atol=1e-7
  )
  assert (piece.start, piece.end) == (0, 0.25)
  short = hearing.Ears(description, segment=0.02).hear(
    hearing.Input('x', speech[0])
  )
  assert 'gives 320 values at 16000 Hz, the model needs at least 400' in (
    short.error
  )
  assert short.error.startswith('x: ')


def test_a_file_beyond_all_numbers_is_an_error_not_a_nan(sphere, tmp_path):
  import soundfile

  path = tmp_path / 'loud.wav'
  soundfile.write(path, np.full(8000, 1e30), 16_000, 'FLOAT')
  found = hearing.Ears(sphere).hear(hearing.Input(str(path), path))
  assert 'full scale is 1; normalise the file' in found.error


def test_timing_says_what_it_measured(sphere):
  loaded = members.load(sphere, members.choose(sphere))
  found = timing.measure(
    sphere, loaded, files=6, seconds=0.3, num_workers=1, repeats=2
  )
  assert found['files'] == 6
  assert 0 < found['warm_latency_s'] < found['first_latency_s']
  low, high = found['files_per_s_range']
  assert 0 < low <= found['files_per_s'] <= high
  text = '\n'.join(timing.lines(found))
  assert 'kaldi16k features on the host' in text
  assert jax.default_backend() == 'cpu'
