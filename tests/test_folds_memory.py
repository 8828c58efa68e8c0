"""What fits is predicted; what does not is trained a few at a time."""

import jax
import numpy as np
import pytest

from jaxser.core import config as config_lib
from jaxser.data import protocols
from jaxser.engine.folds import choice, memory, scores
from jaxser.engine.folds import engine as engine_lib
from jaxser.evaluation import metrics
from tests import recorder, toys

CONFIG = {'epochs': 2, 'batch_size': 8, 'seeds': 4, 'folds_at_once': 8}


def make(**more):
  """Eight trainings: four seeds of two folds."""
  shared = toys.make_context(toys.Toy(), {**CONFIG, **more}, bins=16)
  folds = protocols.make_folds(shared.source.corpus, 'speaker_independent')[:2]
  return shared, [(seed, fold) for seed in range(4) for fold in folds]


@pytest.fixture(scope='module')
def whole():
  """All eight at once, on one device, side by side."""
  shared, trainings = make()
  return engine_lib.Engine(
    shared, trainings, devices=jax.devices()[:1], side_by_side=True
  )


def test_too_many_are_trained_a_few_at_a_time(whole, tmp_path):
  assert whole.at_once == 8
  shared, trainings = make(folds_memory_gib=whole.needed / 2 / memory.GIB)
  few = engine_lib.Engine(
    shared, trainings, devices=jax.devices()[:1], side_by_side=True
  )
  assert 1 <= few.at_once <= 4
  assert few.needed <= whole.needed / 2
  ours = recorder.folds(
    few, shared, trainings, recorder.Recorder(tmp_path / 'few')
  )
  shared, _ = make()
  theirs = recorder.folds(
    whole, shared, trainings, recorder.Recorder(tmp_path / 'whole')
  )
  recorder.check_equal(ours, theirs, 1e-6)


def test_memory_for_not_even_one_says_what_to_do():
  shared, trainings = make(folds_memory_gib=1e-6, engine='folds')
  with pytest.raises(
    memory.DoesNotFitError,
    match=r'one training with the corpus needs .* GiB.*engine=stream',
  ):
    choice.choose(shared, trainings, print)
  said = []
  with shared.config.unlocked():
    shared.config.engine = 'auto'
  assert choice.choose(shared, trainings, said.append) is None
  assert 'Engine stream: --config.engine=folds: one training' in said[0]


def test_auto_takes_the_program_where_it_can_and_says_so():
  shared, trainings = make(folds_at_once=0)
  said = []
  engine = choice.choose(shared, trainings, said.append)
  # On a CPU more than one per device would only take memory.
  assert engine.at_once == jax.device_count() == 8
  assert said[0].startswith('Engine folds: 8 of 8 trainings at once on 8 x 1')
  shared, trainings = make(engine='stream')
  assert choice.choose(shared, trainings, said.append) is None


@pytest.mark.parametrize(
  ('field', 'value', 'reason'),
  [
    ('parallel', 'pmap', 'trains fold by fold'),
    ('data.cache_gib', 1e-6, 'the corpus is larger than'),
    ('data.buckets', (4,), 'batches of several lengths'),
  ],
)
def test_what_the_program_cannot_do_is_streamed(field, value, reason):
  shared, trainings = make(**{field: value})
  said = []
  assert choice.choose(shared, trainings, said.append) is None
  assert reason in said[0]
  with shared.config.unlocked():
    shared.config.engine = 'folds'
  with pytest.raises(config_lib.ConfigError, match=reason):
    choice.choose(shared, trainings, print)


def test_pmap_is_refused_before_anything_starts():
  shared, _ = make(engine='folds', parallel='pmap')
  with pytest.raises(
    config_lib.ConfigError, match=r'use --config\.engine=stream'
  ):
    config_lib.validate(shared.config)


def test_the_budget_is_the_devices_or_the_users():
  device = jax.devices()[0]
  assert memory.budget(device, 0.5) == 2**29
  shared = memory.available_host_bytes() / jax.local_device_count()
  assert 0.5 * shared < memory.budget(device) < shared


def test_scores_agree_with_those_of_the_host():
  rng = np.random.default_rng(0)
  probabilities = rng.dirichlet(np.ones(4), 50).astype(np.float32)
  # Class 3 is never said.
  labels = rng.integers(0, 3, 50).astype(np.int32)
  mask = (rng.random(50) < 0.8).astype(np.float32)
  real = mask > 0
  counted = jax.jit(scores.classification)(
    probabilities, np.where(real, labels, -1), mask
  )
  confusion = metrics.Confusion.empty(4).add(
    labels[real], probabilities[real].argmax(-1)
  )
  np.testing.assert_array_equal(counted['confusion'], confusion.counts)
  for name, value in confusion.value().items():
    np.testing.assert_allclose(
      scores.value(counted, name), value, rtol=1e-6, err_msg=name
    )
  likelihood = probabilities[real, labels[real]]
  np.testing.assert_allclose(
    counted['loss'], -np.log(likelihood).mean(), rtol=1e-5
  )
  vad = rng.uniform(1, 7, (50, 3)).astype(np.float32)
  answers = (vad + rng.standard_normal((50, 3))).astype(np.float32)
  vad[5] = np.nan
  known = real & np.isfinite(vad).all(-1)
  found = jax.jit(scores.regression)(answers, vad, mask)
  expected = metrics.concordance(vad[known], answers[known])
  np.testing.assert_allclose(found['ccc'], expected, rtol=1e-5)
  np.testing.assert_allclose(
    scores.value(found, 'ccc_mean'), expected.mean(), rtol=1e-5
  )
