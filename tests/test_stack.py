"""What a step takes from a batch, and how runs are spread over devices."""

import jax
import numpy as np
import optax
import pytest

from configs import common
from jaxser.engine import distributed, step
from jaxser.engine.sharding import EVERYWHERE, RUNS, Sharding
from jaxser.ops.collectives import by_rows, mean_share
from jaxser.systems.base import System, row_weights

CONFIG = common.base_config('timnet', dict(common.ARGUMENTS))
CONFIG.epochs = 3


class Mean(System):
  """Its gradient is the mean of the features."""

  def init(self, rng, batch):
    return {'weight': np.zeros(2, np.float32)}, {}

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    values = batch['features'] @ params['weight']
    loss = mean_share(values, row_weights(batch))
    return loss, {'state': state, 'metrics': {}}


@pytest.mark.parametrize('accumulate', [1, 2, 4])
def test_weights_of_classes_and_micro_batches(accumulate):
  label = np.array([0, 1, 2, -1, -1, 1, 2, -1])
  batch = {'label': label, 'mask': np.float32([1, 1, 1, 0, 1, 1, 1, 0])}
  batch['features'] = np.random.default_rng(0).normal(size=(8, 2)).astype('f')
  weights = np.array([1, 5, 0.2, 0], np.float32)  # The last of no class.
  optimizer = optax.sgd(1.0)
  state = step.create_state(Mean(), optimizer, jax.random.key(0), batch)
  state = state.replace(class_weights=weights[:3])
  state, metrics = step.train_step(
    Mean(), optimizer, state, batch, np.int32(0), accumulate=accumulate
  )
  parts = [slice(i, None, accumulate) for i in range(accumulate)]
  x, w = batch['features'], weights[label] * batch['mask']
  means = [np.average(x[p], 0, w[p]) for p in parts if w[p].any()]
  gradient = np.sum(means, 0) / len(means)
  np.testing.assert_allclose(-state.params['weight'], gradient, rtol=1e-5)
  assert metrics['rows'] == 6


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


def test_fsdp_gathers_weights_and_leaves_rows_where_they_are():
  places = []

  def project(x, weights):
    kept = by_rows(x[0] @ weights[0])
    jax.debug.inspect_array_sharding(kept, callback=places.append)
    return kept[None]

  sharding = Sharding(parallel='fsdp')
  x, weights = np.ones((1, 64, 128), 'f'), np.ones((1, 128, 256), 'f')
  given = sharding.put(x, EVERYWHERE), sharding.put(weights, RUNS)
  project = sharding.compile(project, (EVERYWHERE, RUNS), EVERYWHERE)
  assert (np.asarray(project(*given)) == 128).all()
  assert places[0].shard_shape((64, 256)) == (8, 256)
  assert by_rows(x) is x


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
  """Numbers that are trained never, later and always."""

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
