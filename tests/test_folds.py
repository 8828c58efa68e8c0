"""The program of all folds equals the other engine, whatever its shape.

What is compared with the other engine is compared within float32 rounding, as
another program adds in another order; what is stopped and continued, bit by
bit, as it is the same program.
"""

import functools

import jax
import numpy as np
import pytest

from jaxser.data import protocols
from jaxser.engine import interruption
from jaxser.engine.folds import engine as engine_lib
from jaxser.engine.folds.grid import Grid
from tests import recorder, toys

pytestmark = pytest.mark.slow

ROUNDING = 1e-6
CORPUS = {'speakers': 5, 'classes': 3, 'frames': 8, 'bins': 80, 'repeats': 2}
CONFIG = {
  'epochs': 7,
  'batch_size': 8,
  'eval_batch_size': 4,
  'checkpoint_every': 3,
  'optimizer.learning_rate': 3e-2,
  'folds_at_once': 6,
}
PHASES = 'epochs chosen on both sides, in phases'
PARTNERS = 'neutral partners, drops and an early end'
VALENCE = 'valence, micro-batches, now and then a score'
CASES = {
  PHASES: (
    {'early_epochs': 2},
    {
      'select_on_test': True,
      'selection_metric': 'war',
      'optimizer.learning_rate': 2e-3,
    },
  ),
  PARTNERS: (
    {'needs_neutral': True, 'outputs': 4},
    {
      'schedule.name': 'plateau',
      'schedule.patience': 1,
      'schedule.stop_patience': 2,
      'schedule.metric': 'f1',
    },
  ),
  VALENCE: (
    {'task': 'regression'},
    {'selection_metric': 'ccc_mean', 'accumulate': 2, 'eval_every': 2},
  ),
}


def make(case, **more):
  """Context and six trainings of unequal size: two seeds of three folds."""
  system, changes = CASES[case]
  about = {**CORPUS, 'classes': max(3, system.get('outputs', 3))}
  shared = toys.make_context(
    toys.Toy(**system), {**CONFIG, **changes, **more}, **about
  )
  folds = protocols.make_folds(shared.source.corpus, 'speaker_independent')[:3]
  # The second has fewer steps, the third no side to choose epochs on.
  folds[1] = protocols.Fold(
    1, folds[1].train[-11:], folds[1].dev[:3], folds[1].test[:5]
  )
  if shared.config.schedule.name != 'plateau':
    folds[2] = protocols.Fold(
      2, folds[2].train, np.zeros(0, int), folds[2].test
    )
  return shared, [(seed, fold) for seed in (0, 3) for fold in folds]


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  """Case -> context, trainings, and what the other engine makes of them."""

  @functools.cache
  def train(case):
    shared, trainings = make(case)
    workdir = tmp_path_factory.mktemp('stream')
    return shared, trainings, recorder.stream(shared, trainings, workdir)

  return train


@pytest.mark.parametrize(
  ('case', 'devices', 'at_once', 'side_by_side', 'grid'),
  [
    (PHASES, 1, 6, False, (1, 1)),
    # Two for each pair of devices that share batches, the last group half full.
    (PHASES, 8, 4, True, (4, 2)),
    (PARTNERS, 1, 6, True, (1, 1)),
    # Eight devices, two of them idle.
    (PARTNERS, 8, 6, False, (8, 1)),
    (VALENCE, 8, 2, False, (2, 4)),
  ],
)
def test_equals_the_other_engine(
  expected, tmp_path, case, devices, at_once, side_by_side, grid
):
  _, trainings, theirs = expected(case)
  shared, _ = make(case, folds_at_once=at_once)
  engine = engine_lib.Engine(
    shared,
    trainings,
    devices=jax.devices()[:devices],
    side_by_side=side_by_side,
  )
  assert engine.at_once == at_once
  assert (engine.grid.folds, engine.grid.data) == grid
  ours = recorder.folds(engine, shared, trainings, recorder.Recorder(tmp_path))
  recorder.check_equal(ours, theirs, ROUNDING)


@pytest.mark.parametrize('case', CASES)
def test_the_cases_do_what_their_names_say(expected, case):
  _, _, theirs = expected(case)
  ends = {answers['last'][0] for answers in theirs.answers.values()}
  assert (min(ends) < 7) == (case == PARTNERS)
  chosen = {
    answers[name][0]
    for answers in theirs.answers.values()
    for name in answers
    if name != 'last'
  }
  assert len(chosen) > 1, 'every selection chose the same epoch'


@pytest.mark.parametrize('case', [PHASES, PARTNERS])
def test_stopped_and_continued_is_the_same_bit_by_bit(case, tmp_path):
  shared, trainings = make(case, folds_at_once=4)
  engine = engine_lib.Engine(
    shared, trainings, devices=jax.devices()[:1], side_by_side=False
  )
  whole = recorder.folds(
    engine, shared, trainings, recorder.Recorder(tmp_path / 'whole')
  )
  # Before any epoch, after some of the first group, in the second group.
  for stop_at in (1, 3, 6):
    ours = recorder.Recorder(tmp_path / str(stop_at), stop_at)
    with pytest.raises(interruption.Interrupted):
      recorder.folds(engine, shared, trainings, ours)
    assert len(ours.answers) == (4 if stop_at == 6 else 0)
    recorder.folds(engine, shared, trainings, ours)
    recorder.check_equal(ours, whole, 0)


@pytest.mark.parametrize(
  ('trainings', 'devices', 'groups', 'sharing'),
  [(1, 8, 1, 8), (3, 8, 4, 2), (5, 8, 8, 1), (100, 8, 8, 1), (4, 6, 6, 1)],
)
def test_trainings_go_along_folds_first(trainings, devices, groups, sharing):
  grid = Grid(trainings, jax.devices()[:devices])
  assert (grid.folds, grid.data) == (groups, sharing)
  assert grid.slots(trainings) % groups == 0
