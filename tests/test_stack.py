"""The step of a stack on one device, eight devices and under pmap."""

import functools

import jax
import ml_collections
import numpy as np
import optax
import pytest

from jaxser.data import pipeline
from jaxser.engine import distributed, stack, step
from jaxser.engine.sharding import EVERYWHERE, ROWS, RUNS, STEPS, Sharding
from jaxser.systems.base import System
from jaxser.systems.timnet import TimNet
from tests import fakes

SYSTEM = TimNet(num_classes=3, num_blocks=2, dropout=0.3)
CONFIG = ml_collections.ConfigDict(
  {
    'epochs': 3,
    'schedule': {'name': 'constant', 'warmup_epochs': 0.0},
    'optimizer': {
      'name': 'adam',
      'learning_rate': 1e-3,
      'head_learning_rate': 0.0,
      'clip_norm': 0.0,
      'b1': 0.93,
      'b2': 0.98,
      'eps': 1e-8,
      'weight_decay': 0.1,
    },
  }
)


@functools.cache
def source():
  return pipeline.Source(fakes.corpus(speakers=5, repeats=3, frames=16))


def one_device():
  return Sharding(devices=jax.devices()[:1])


def train(
  sharding, *, batch_size=13, accumulate=1, padded=0, steps=10, weights=None
):
  """Ten steps of four batches an epoch; the last has six utterances of 13."""
  rows = np.arange(len(source().corpus.table))
  sampler = pipeline.Sampler(
    rows=rows,
    lengths=np.zeros(len(rows), int),
    batch_size=batch_size,
    padded_size=padded or sharding.padded(batch_size, accumulate),
    buckets=(source().max_length,),
    seed=(0, 0),
  )
  assert sampler.steps_per_epoch == 4
  optimizer = step.make_optimizer(CONFIG, SYSTEM)
  example = source().batch(sampler.epoch(0)[0])
  state = step.create_state(SYSTEM, optimizer, jax.random.key(1), example)
  state = state.replace(class_weights=weights)
  state = sharding.put(stack.stacked([state], 1), RUNS)
  programs = stack.Programs(SYSTEM, optimizer, sharding, accumulate=accumulate)
  function, losses = programs.train(), []
  for i, slot in enumerate(list(sampler.from_position(0, 0, 3))[:steps]):
    batch = jax.tree.map(lambda x: x[None, None], source().batch(slot))
    epoch = sharding.put(np.int32(i // 4), EVERYWHERE)
    batch = sharding.put(batch, STEPS)
    state, metrics = function(state, {}, batch, None, epoch)
    losses.append(metrics)
  return jax.device_get((state, losses))


@functools.cache
def alone():
  return train(one_device())


def assert_close(found, expected, tolerance=1e-5):
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_losses_parameters_and_statistics_after_ten_steps(parallel):
  sharding = Sharding(parallel=parallel)
  assert sharding.per_run == 8
  state, losses = train(sharding)
  expected, expected_losses = alone()
  rows = [float(x['rows'].item()) for x in losses]
  assert rows == [13, 13, 13, 6] * 2 + [13, 13]
  for found, other in zip(losses, expected_losses, strict=True):
    assert found.keys() == other.keys()
    assert_close(found, other)
  assert_close(state.params, expected.params)
  assert_close(state.model_state, expected.model_state)
  assert state.step.tolist() == [10]


def test_more_padding_changes_nothing():
  state, losses = train(one_device(), padded=24)
  assert_close(losses, alone()[1])
  assert_close(state.params, alone()[0].params)


def test_classes_weigh_the_same_on_eight_devices():
  weights = np.array([1, 5, 0.2], np.float32)
  state, losses = train(one_device(), steps=4, weights=weights)
  assert abs(losses[0]['loss'] - alone()[1][0]['loss']) > 1e-3
  for parallel in ('jit', 'pmap'):
    found = train(Sharding(parallel=parallel), steps=4, weights=weights)
    assert_close(found[1], losses)
    assert_close(found[0].params, state.params)
  # A common factor cancels; 1 for all is the plain mean.
  scaled = train(one_device(), steps=4, weights=weights / 8)
  assert_close(scaled[1], losses)
  even = train(one_device(), steps=4, weights=np.ones(3, np.float32))
  assert_close(even[1], alone()[1][:4])


def test_accumulation_is_the_same_on_eight_devices():
  expected = train(one_device(), batch_size=12, accumulate=2, steps=3)
  for parallel in ('jit', 'pmap'):
    found = train(
      Sharding(parallel=parallel), batch_size=12, accumulate=2, steps=3
    )
    assert_close(found[1], expected[1])
    assert_close(found[0].params, expected[0].params)


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_predictions_come_back_in_order(parallel):
  batch = source().batch(pipeline.Slot(np.arange(16), 16))
  params, model_state = SYSTEM.init(jax.random.key(0), batch)
  expected = SYSTEM.predict(params, model_state, batch)['scores']
  sharding = Sharding(parallel=parallel)
  weights = sharding.put(stack.stacked([(params, model_state)], 1), RUNS)
  predict = stack.Programs(SYSTEM, None, sharding).predict()
  batch = sharding.put(jax.tree.map(lambda x: x[None], batch), ROWS)
  (found,) = sharding.get_rows(predict(weights, {}, batch))
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
  ('runs', 'devices', 'groups', 'sharing'),
  [(1, 8, 1, 8), (3, 8, 4, 2), (5, 8, 8, 1), (100, 8, 8, 1), (4, 6, 6, 1)],
)
def test_runs_are_divided_before_rows(runs, devices, groups, sharing):
  sharding = Sharding(runs, devices=jax.devices()[:devices])
  assert (sharding.run_groups, sharding.per_run) == (groups, sharing)
  assert sharding.padded_runs(runs) % groups == 0


def test_pmap_is_refused_for_several_processes(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(
    distributed.DistributedError, match=r"there are 2\. Use .*parallel='jit'"
  ):
    Sharding(parallel='pmap')


class Frozen(System):
  """Three numbers: never trained, not trained at first, always trained."""

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    loss = sum(x**2 for x in params.values())
    return loss, {'state': state, 'metrics': {}}

  def phase(self, epoch):
    return 'main' if epoch else 'early'

  def frozen(self, params, phase):
    return {'never': True, 'later': phase == 'early', 'always': False}


def test_frozen_parameters_stay_and_permanently_frozen_ones_have_no_moments():
  config = CONFIG.copy_and_resolve_references()
  config.optimizer.name = 'adamw'
  optimizer = step.make_optimizer(config, Frozen())
  params = {name: np.float32(1) for name in ('never', 'later', 'always')}
  opt_state = optimizer.init(params)

  def counts(opt_state):
    # Parameters of other phases have moments and a count of steps apart.
    kind = optax.ScaleByAdamState
    states = [
      x
      for x in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind))
      if isinstance(x, kind)
    ]
    assert [len(jax.tree.leaves((x.mu, x.nu))) for x in states] == [2, 2]
    return sorted(int(x.count) for x in states)

  assert counts(opt_state) == [0, 0]
  words = jax.random.key_data(jax.random.key(0))
  state = step.TrainState(
    np.int32(0), params, {}, opt_state, words, np.float32(1)
  )
  batch = {'mask': np.ones(2, np.float32)}
  moved = []
  for epoch, phase in ((0, 'early'), (1, 'main')):
    before = state.params
    state, metrics = step.train_step(
      Frozen(), optimizer, state, batch, np.int32(epoch), phase=phase
    )
    moved.append({name for name, x in state.params.items() if x != 1})
    # Only what is trained counts; the gradient of x**2 is 2 x.
    names = ('always', 'later')[: epoch + 1]
    old, new = (np.array([p[n] for n in names]) for p in (before, state.params))
    norm = np.linalg.norm(old)
    np.testing.assert_allclose(metrics['grad_norm'], 2 * norm, rtol=1e-6)
    np.testing.assert_allclose(
      metrics['update_ratio'], np.linalg.norm(new - old) / norm, rtol=1e-3
    )
  assert moved == [{'always'}, {'always', 'later'}]
  assert counts(state.opt_state) == [1, 2]
