"""The step of a stack on one device, eight devices and under pmap."""

import functools

import jax
import numpy as np
import optax
import pytest

from configs import common
from jaxser.data import pipeline
from jaxser.engine import distributed, stack, step
from jaxser.engine.sharding import EVERYWHERE, RUNS, STEPS, Sharding
from jaxser.systems.base import System
from jaxser.systems.timnet import TimNet
from tests import fakes

SYSTEM = TimNet(num_classes=3, num_blocks=2, filters=16, dropout=0.3)
CONFIG = common.base_config('timnet', dict(common.ARGUMENTS))
CONFIG.update_from_flattened_dict(
  {'epochs': 3, 'optimizer.b1': 0.93, 'optimizer.b2': 0.98}
)


@functools.cache
def source():
  return pipeline.Source(fakes.corpus(speakers=5, repeats=3, frames=16))


def train(sharding, padded=0, steps=10, weights=None, accumulate=1):
  """Ten steps of four batches an epoch; the last has six utterances of 13."""
  rows = np.arange(len(source().corpus.table))
  sampler = pipeline.Sampler(
    rows=rows,
    lengths=np.zeros(len(rows), int),
    batch_size=13,
    padded_size=padded or sharding.padded(13, accumulate),
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
  return train(Sharding(devices=jax.devices()[:1]))


def assert_close(found, expected):
  one, other = jax.tree.leaves(found), jax.tree.leaves(expected)
  for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('parallel', ['jit', 'pmap', 'fsdp'])
def test_losses_parameters_and_statistics_after_ten_steps(
  parallel, monkeypatch
):
  monkeypatch.setattr('jaxser.engine.sharding._LARGE', 100)
  sharding = Sharding(parallel=parallel)
  assert sharding.per_run == 8
  (state, losses), (expected, expected_losses) = train(sharding), alone()
  rows = [float(x['rows'].item()) for x in losses]
  assert rows == [13, 13, 13, 6] * 2 + [13, 13]
  assert_close(losses, expected_losses)
  assert_close(state.params, expected.params)
  assert_close(state.model_state, expected.model_state)
  assert state.step.tolist() == [10]


def test_fsdp_divides_the_longest_axis_that_can_be():
  arrays = {'whole': (4096,), 'odd': (1, 4097), 'small': (1, 64)}
  arrays |= {'layers': (1, 24, 1024, 64), 'columns': (1, 39, 64, 9)}
  shapes = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in arrays.items()}
  places = Sharding(parallel='fsdp').of(shapes, RUNS)
  specs = {name: tuple(place.spec)[1:] for name, place in places.items()}
  assert specs == {
    **dict.fromkeys(('whole', 'odd', 'small'), ()),
    'layers': (None, 'data'),
    'columns': (None, 'data'),
  }


def test_weights_of_classes_and_micro_batches_on_eight_devices():
  weights = np.array([1, 5, 0.2], np.float32)
  one = Sharding(devices=jax.devices()[:1])
  state, losses = train(one, 32, 3, weights, 2)
  assert abs(losses[0]['loss'] - alone()[1][0]['loss']) > 1e-3
  # A common factor of the weights cancels.
  found = train(Sharding(), 32, 3, weights / 8, 2)
  assert_close(found[1], losses)
  assert_close(found[0].params, state.params)


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
  message = r"there are 2\. Use .*parallel='jit'"
  with pytest.raises(distributed.DistributedError, match=message):
    Sharding(parallel='pmap')


class Frozen(System):
  """Three numbers: never trained, not trained at first, always trained."""

  def init(self, rng, batch):
    return dict.fromkeys(('never', 'later', 'always'), np.float32(1)), {}

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    loss = sum(x**2 for x in params.values())
    return loss, {'state': state, 'metrics': {}}

  def phase(self, epoch):
    return 'main' if epoch else 'early'

  def frozen(self, params, phase):
    return {'never': True, 'later': phase == 'early', 'always': False}


def test_frozen_parameters_stay_and_permanently_frozen_ones_have_no_moments():
  optimizer = step.make_optimizer(CONFIG, Frozen())

  def counts(opt_state):
    # Parameters of other phases have moments and a count of steps apart.
    def is_adam(x):
      return isinstance(x, optax.ScaleByAdamState)

    states = jax.tree.leaves(opt_state, is_leaf=is_adam)
    states = list(filter(is_adam, states))
    assert [len(jax.tree.leaves((x.mu, x.nu))) for x in states] == [2, 2]
    return sorted(int(x.count) for x in states)

  state = step.create_state(Frozen(), optimizer, jax.random.key(0), None)
  assert counts(state.opt_state) == [0, 0]
  moved = []
  for epoch, phase in ((0, 'early'), (1, 'main')):
    before, batch = state.params, {'mask': np.ones(2, np.float32)}
    state, metrics = step.train_step(
      Frozen(), optimizer, state, batch, np.int32(epoch), phase=phase
    )
    moved.append({name for name, x in state.params.items() if x != 1})
    # Only what is trained counts; the gradient of x**2 is 2 x.
    names = ('always', 'later')[: epoch + 1]
    old, new = (np.array([p[n] for n in names]) for p in (before, state.params))
    norm, change = np.linalg.norm(old), np.linalg.norm(new - old)
    np.testing.assert_allclose(metrics['grad_norm'], 2 * norm, rtol=1e-6)
    np.testing.assert_allclose(metrics['update_ratio'], change / norm, 1e-3)
  assert moved == [{'always'}, {'always', 'later'}]
  assert counts(state.opt_state) == [1, 2]
