"""A stack of runs equals single runs; resident batches equal streamed ones.

Compared within float32 rounding, as another program adds in another order. What
is stopped and continued is compared exactly: it is the same program.
"""

import dataclasses
import functools
import signal

import jax
import numpy as np
import pytest

from configs import dsnet, emosphere, timnet
from jaxser.data import pipeline, protocols
from jaxser.engine import interruption, sharding
from jaxser.systems import registry
from tests import fakes, in_memory_main, toys
from tests.recorder import Recorder, check_equal

CORPUS = {'speakers': 5, 'classes': 3, 'frames': 8, 'bins': 80, 'repeats': 2}
CONFIG = {'epochs': 7, 'batch_size': 8, 'eval_batch_size': 4}
CONFIG |= {'checkpoint_every': 3, 'optimizer.learning_rate': 3e-2}
CONFIG['runs_at_once'] = 6
ONE = jax.devices()[:1]
PHASES = 'epochs chosen on both splits, in phases'
NEUTRAL = 'neutral references, drops and an early end'
VALENCE = 'valence, micro-batches, now and then a score'
AUGMENTED = 'augmented batches'
AVERAGED = 'weighed classes, drawn evenly, and averaged weights'
ON_TEST = {'select_on_test': True, 'selection_metric': 'war'}
STREAMED = {'data.cache_gib': 0.0}
PLATEAU = {'name': 'plateau', 'patience': 1, 'stop_patience': 2, 'metric': 'f1'}
MIXED = {'time_masks': 1, 'frequency_masks': 1, 'gain_db': 3.0}
MIXED |= {'snr_db': (10.0, 20.0), 'shift': 0.2, 'mixup': 0.5}
EVENLY = {'class_weight': 'balanced', 'balanced_sampling': True, 'ema': 0.9}
EVENLY |= {'optimizer.clip_norm': 0.01, 'schedule.name': 'cosine'}
CASES = {
  PHASES: ({'early_epochs': 2}, {**ON_TEST, 'optimizer.learning_rate': 2e-3}),
  NEUTRAL: (
    {'references': ('neutral', 'neutral2', 'test')}
    | {'predicts_with_neutral': True, 'outputs': 4},
    {f'schedule.{name}': value for name, value in PLATEAU.items()},
  ),
  VALENCE: (
    {'task': 'regression'},
    {'selection_metric': 'ccc_mean', 'accumulate': 2, 'eval_every': 2},
  ),
  AUGMENTED: ({}, {f'augment.{name}': value for name, value in MIXED.items()}),
  AVERAGED: ({}, {**EVENLY, 'schedule.warmup_epochs': 1.5}),
}


def make(case, **more):
  """An experiment and six runs of unequal size: two seeds of three folds."""
  system, changes = CASES[case]
  about = {**CORPUS, 'classes': max(3, system.get('outputs', 3))}
  changes = {**CONFIG, **changes, **more}
  experiment = toys.make_experiment(toys.Toy(**system), changes, **about)
  corpus = experiment.source.corpus
  first, second, third, *_ = protocols.make_folds(corpus, 'speaker_independent')
  # The second has fewer steps, the third no split to choose epochs on.
  second = dataclasses.replace(
    second, train=second.train[-11:], dev=second.dev[-3:], test=second.test[-5:]
  )
  if experiment.config.schedule.name != 'plateau':
    third = dataclasses.replace(third, dev=np.zeros(0, int))
  folds = first, second, third
  return experiment, [(seed, fold) for seed in (0, 3) for fold in folds]


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
  # tests/test_pipeline.py has the real stream.
  monkeypatch.setattr(pipeline, 'stream', in_memory_main.stream)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """case -> what streamed runs, one after the other, on one device give."""

  @functools.cache
  def train(case):
    experiment, runs = make(case, **STREAMED)
    folder = tmp_path_factory.mktemp('alone')
    found = Recorder(folder).train(experiment, runs, devices=ONE)
    assert {one.batches for one in found.finished.values()} == {'streamed'}
    # The cases do what their names say.
    every = [one.predictions for one in found.finished.values()]
    assert (min(one['last'][0] for one in every) < 7) == (case == NEUTRAL)
    chosen = {one[name][0] for one in every for name in one if name != 'last'}
    assert (len(chosen) > 1) == (case != AUGMENTED)
    rates = [r['learning_rate'] for r in found.rows if r['split'] == 'train']
    drops = case in (NEUTRAL, AVERAGED)
    assert (max(rates) > 9 * min(rates)) == drops
    for one in found.finished.values():
      assert ('ema_last' in one.weights) == (case == AVERAGED)
    return found

  return train


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ('case', 'devices', 'changes', 'side_by_side'),
  [
    slow(PHASES, 1, {'runs_at_once': 6}, False),
    # Two for each pair of devices that share batches, the last stack half full.
    (PHASES, 8, {'runs_at_once': 4}, True),
    (NEUTRAL, 1, {'runs_at_once': 6}, True),
    # Eight devices, two of them idle.
    slow(NEUTRAL, 8, {'runs_at_once': 6}, False),
    # Two groups of four devices that share batches.
    (VALENCE, 8, {'runs_at_once': 2}, False),
    slow(AUGMENTED, 8, {'runs_at_once': 2}, True),
    (AVERAGED, 8, {'runs_at_once': 4}, True),
    (VALENCE, 8, STREAMED, None),
    (AUGMENTED, 8, {**STREAMED, 'parallel': 'pmap'}, None),
    (VALENCE, 8, {**STREAMED, 'parallel': 'fsdp'}, None),
  ],
)
def test_a_stack_equals_single_runs(
  alone, tmp_path, case, devices, changes, side_by_side, monkeypatch
):
  monkeypatch.setattr(sharding, 'LARGE', 64)  # Of fsdp.
  experiment, runs = make(case, **changes)
  how = {'devices': jax.devices()[:devices], 'side_by_side': side_by_side}
  ours = Recorder(tmp_path).train(experiment, runs, **how)
  batches = {one.batches for one in ours.finished.values()}
  at_once = changes.get('runs_at_once')
  assert batches == {'resident' if at_once else 'streamed'}
  assert not at_once or f'{at_once} of 6 runs at once on ' in ours.printed
  check_equal(ours, alone(case), 1e-5)


@pytest.mark.parametrize(
  ('case', 'cache_gib'),
  [slow(PHASES, 0.0), (NEUTRAL, 1.0), slow(AVERAGED, 1.0), (AUGMENTED, 0.0)],
)
def test_stopped_and_continued_is_the_same(case, cache_gib, tmp_path):
  changes = {'runs_at_once': 4, 'data.cache_gib': cache_gib}
  experiment, runs = make(case, **changes)
  whole = Recorder(tmp_path / 'whole').train(experiment, runs, devices=ONE)
  # Before any epoch, in or after one, in the next stack.
  for stop_at in (1, 3, 9):
    ours = Recorder(tmp_path / str(stop_at), stop_at)
    with pytest.raises(interruption.Interrupted):
      ours.train(experiment, runs, devices=ONE)
    check_equal(ours.train(experiment, runs, devices=ONE), whole, 0)


def test_test_labels_are_not_read_before_the_end(tmp_path):
  experiment, runs = make(NEUTRAL)
  corpus, runs = experiment.source.corpus, runs[:1]
  labels, neutral = corpus.table.labels, corpus.classes.index('neutral')
  clean = Recorder(tmp_path / 'clean').train(experiment, runs)
  # This system is told the neutral utterances of a split it predicts, no more.
  test = runs[0][1].test
  hidden = test[labels[test] != neutral]
  assert np.unique(labels[hidden]).size > 1
  labels[hidden] = labels[hidden[0]]
  fold, *_ = protocols.make_folds(corpus, 'speaker_independent')
  np.testing.assert_equal(vars(fold), vars(runs[0][1]))
  other = Recorder(tmp_path / 'poisoned').train(experiment, runs)
  check_equal(other, clean, 0)


def test_a_loss_that_is_not_finite_ends_its_run_alone(alone, tmp_path):
  experiment, runs = make(PHASES)
  first, *rest = [fold for _, fold in runs[:3]]
  others = [rows for f in rest for rows in (f.train, f.dev, f.test)]
  rows = np.setdiff1d(first.train, np.concatenate([first.dev, *others]))
  experiment.source.arrays[0][rows[0]] = np.nan
  ours = Recorder(tmp_path).train(experiment, runs)
  for seed in (0, 3):
    found = ours.finished.pop((seed, 0))
    assert found.failure.startswith(f'seed {seed} fold 0, epoch 1: the loss')
    assert not found.predictions
    assert not found.weights
    assert found.failure in ours.printed
  assert len(ours.finished) == 4
  for name, found in ours.finished.items():
    other = alone(PHASES).finished[name].predictions
    for selection, (epoch, values) in found.predictions.items():
      assert epoch == other[selection][0]
      np.testing.assert_allclose(values, other[selection][1], atol=1e-5)


class Steep(toys.Toy):
  """A loss that is finite where its gradient is not."""

  def loss(self, params, *args, **options):
    loss, aux = super().loss(params, *args, **options)
    return loss + jax.numpy.sqrt(0 * params['weight'].sum()), aux


def test_a_gradient_that_is_not_finite_ends_its_run(tmp_path):
  experiment, runs = make(PHASES, epochs=1)
  experiment = dataclasses.replace(experiment, system=Steep())
  ours = Recorder(tmp_path).train(experiment, runs[:1])
  failure = ours.finished[0, 0].failure
  assert 'epoch 1: the gradient of step 1 is not finite' in failure
  assert 'last finite loss: none' in failure
  assert not ours.rows


def test_a_signal_after_the_last_step_still_stops():
  with pytest.raises(interruption.Interrupted) as stop, interruption.watch():
    signal.raise_signal(signal.SIGTERM)
  assert stop.value.exit_code == 143
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize('resident', [True, False])
def test_every_phase_is_compiled_once(resident, tmp_path, monkeypatch):
  compiled = []
  real = toys.Toy.loss

  def loss(self, *args, phase):
    compiled.append(phase)
    return real(self, *args, phase=phase)

  monkeypatch.setattr(toys.Toy, 'loss', loss)
  changes = {'runs_at_once': 1, 'data.cache_gib': float(resident)}
  experiment, runs = make(PHASES, **changes)
  ours = Recorder(tmp_path).train(experiment, runs[:2], devices=ONE)
  assert compiled == ['early', 'main']
  assert ours.printed.count("Compiling the training step, phase 'early'") == 1


SHARED = {'epochs': 6, 'batch_size': 8, 'checkpoint_every': 3}
SHARED['runs_at_once'] = 2
TIMNET = {'epochs': 20, 'checkpoint_every': 10, 'select_on_test': True}
TIMNET |= {'model.num_blocks': 2, 'model.filters': 8}
DSNET = {'model.channels': (4, 4), 'model.embedding': 8, 'model.max_frames': 24}
DSNET |= {'schedule.patience': 1, 'schedule.stop_patience': 3}
EMOSPHERE = {'model.width': 8, 'model.decay_epochs': 3}
EMOSPHERE['optimizer.learning_rate'] = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
  ('recipe', 'changes', 'classes', 'bins'),
  [
    (timnet, TIMNET, 3, 128),
    (dsnet, DSNET, 4, 80),
    (emosphere, EMOSPHERE, 3, 80),
  ],
  ids=['timnet', 'dsnet', 'emosphere'],
)
def test_a_stack_of_each_system(recipe, changes, classes, bins, tmp_path):
  """Only the order of additions can tell a stack from single runs: 1e-5.

  Adam divides by the root of small squares and so carries such differences on;
  after all epochs a probability, or a value on the scale of 1 to 7, may differ
  by 1e-3, while a wrong batch, mask or key changes it by 1e-1.
  """
  config = recipe.get_config()
  config.update_from_flattened_dict({**SHARED, **changes})
  corpus = fakes.corpus(frames=24, vary=True, classes=classes, bins=bins)
  system = registry.create(config, corpus)
  folds = protocols.make_folds(corpus, 'speaker_independent')[:2]
  runs = [(1, fold) for fold in folds]

  def trained(folder, **more):
    experiment = toys.experiment_of(config, system, corpus)
    found = Recorder(tmp_path / folder)
    return found.train(experiment, runs, devices=ONE, **more)

  ours = trained('stack', side_by_side=recipe == dsnet)
  config.data.cache_gib = 0.0
  theirs = trained('alone')
  check_equal(ours, theirs, 1e-3)
  losses, wanted = (
    [row['loss'] for row in found.rows if row['split'] == 'train']
    for found in (ours, theirs)
  )
  first = [row['epoch'] <= 2 for row in ours.rows if row['split'] == 'train']
  assert sum(first) == 4
  np.testing.assert_allclose(*np.array([losses, wanted])[:, first], rtol=1e-5)
  assert np.ptp(wanted) > 0.1, 'nothing was learned, so nothing was compared'
