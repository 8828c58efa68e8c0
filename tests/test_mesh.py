"""One device = eight devices = pmap, uneven last batches included."""

import functools

import jax
import ml_collections
import numpy as np
import pytest

from jaxser.data import pipeline
from jaxser.engine import mesh, step
from jaxser.systems.timnet import TimNet
from tests import fakes

SYSTEM = TimNet(num_classes=3, num_blocks=2, dropout=0.3)
ADAM = ml_collections.ConfigDict(
  {
    'name': 'adam',
    'learning_rate': 1e-3,
    'b1': 0.93,
    'b2': 0.98,
    'eps': 1e-8,
    'weight_decay': 0.0,
  }
)


@functools.cache
def source():
  return pipeline.Source(fakes.corpus(speakers=5, repeats=3, frames=16))


def train(placement, *, batch_size=13, accumulate=1, steps=10):
  """Ten steps of four batches an epoch; the last has six utterances of 13."""
  rows = np.arange(len(source().corpus.table))
  sampler = pipeline.Sampler(
    rows=rows,
    lengths=np.zeros(len(rows), int),
    batch_size=batch_size,
    padded_size=placement.padded(batch_size, accumulate),
    buckets=(source().max_length,),
    seed=(0, 0),
  )
  assert sampler.steps_per_epoch == 4
  optimizer = step.make_optimizer(ADAM)
  state = step.create_state(
    SYSTEM,
    optimizer,
    jax.random.key(1),
    source().batch(sampler.epoch(0)[0]),
  )
  state = placement.put_state(state)
  function = placement.compile_train(SYSTEM, optimizer, accumulate=accumulate)
  losses = []
  for i, slot in enumerate(list(sampler.from_position(0, 0, 3))[:steps]):
    batch = placement.put_batch(source().batch(slot))
    state, metrics = function(state, batch, np.int32(i // 4))
    losses.append(placement.get_state(metrics))
  state = jax.device_get(placement.get_state(state).replace(rng=None))
  return state, jax.device_get(losses)


@functools.cache
def one_device():
  return train(mesh.Placement('jit', jax.devices()[:1]))


def assert_close(found, expected, tolerance=1e-5):
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_losses_parameters_and_statistics_after_ten_steps(parallel):
  placement = mesh.Placement(parallel)
  assert len(placement.devices) == 8
  state, losses = train(placement)
  expected_state, expected_losses = one_device()
  assert [float(x['rows']) for x in losses] == [13, 13, 13, 6] * 2 + [13, 13]
  for found, expected in zip(losses, expected_losses, strict=True):
    assert found.keys() == expected.keys()
    assert_close(found, expected)
  assert_close(state.params, expected_state.params)
  assert_close(state.model_state, expected_state.model_state)
  assert int(state.step) == 10


def test_more_padding_changes_nothing():
  placement = mesh.Placement('jit', jax.devices()[:1])
  placement.padded = lambda batch_size, multiple=1: 24
  state, losses = train(placement)
  assert_close(losses, one_device()[1])
  assert_close(state.params, one_device()[0].params)


def test_accumulation_is_the_same_on_eight_devices():
  alone = train(
    mesh.Placement('jit', jax.devices()[:1]), batch_size=12, accumulate=2
  )
  many = train(mesh.Placement('jit'), batch_size=12, accumulate=2)
  mapped = train(mesh.Placement('pmap'), batch_size=12, accumulate=2)
  assert_close(many[1], alone[1])
  assert_close(many[0].params, alone[0].params)
  assert_close(mapped[1], alone[1])
  assert_close(mapped[0].params, alone[0].params)


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_predictions_come_back_in_order(parallel):
  batch = source().batch(pipeline.Slot(np.arange(16), 16))
  optimizer = step.make_optimizer(ADAM)
  state = step.create_state(SYSTEM, optimizer, jax.random.key(0), batch)
  expected = SYSTEM.predict(state.params, state.model_state, batch)['scores']
  placement = mesh.Placement(parallel)
  put = placement.put_state(state)
  predict = placement.compile_predict(SYSTEM, 'scores')
  found = placement.get_rows(
    predict(put.params, put.model_state, placement.put_batch(batch))
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_states_survive_the_journey():
  for parallel in mesh.PARALLEL:
    placement = mesh.Placement(parallel)
    tree = {'x': np.arange(6.0).reshape(2, 3), 'key': jax.random.key(5)}
    back = placement.get_state(placement.put_state(tree))
    np.testing.assert_array_equal(back['x'], tree['x'])
    np.testing.assert_array_equal(
      jax.random.key_data(back['key']), jax.random.key_data(tree['key'])
    )


def test_unknown_way_lists_the_known_ones():
  with pytest.raises(ValueError, match='choose one of jit, pmap'):
    mesh.Placement('threads')
