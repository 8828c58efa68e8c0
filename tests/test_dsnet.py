"""DSNet: what the network, its losses, statistics and sharding promise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.ops.collectives import DATA
from jaxser.ops.losses import jensen_shannon, orthogonality_penalty
from jaxser.systems.dsnet import DSNet, front_end
from jaxser.systems.dsnet_network import Projection, ProjectionLayer
from tests.dsnet_cases import (
  EMPTY_ROWS,
  PLAIN,
  SMALL,
  START,
  assert_trees_close,
  compiled,
  make_batch,
  make_variables,
  padded_batch,
  value_and_grad,
)
from tests.random_tree import params_like


@pytest.fixture(scope='module')
def batch():
  return padded_batch()


@pytest.fixture(scope='module')
def variables():
  return make_variables(SMALL)


@pytest.fixture(scope='module')
def fresh():
  return SMALL.init(jax.random.key(0), make_batch(rows=1))


# What the network is.


def test_published_size_and_shapes():
  system = DSNet(num_classes=4)
  batch = {
    'features': jnp.zeros((2, 7, 80)),
    'length': jnp.array([7, 3]),
  }
  params, state = jax.eval_shape(system.init, jax.random.key(0), batch)

  def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  assert count(params) == 5_132_133
  assert count(state) == 3_104
  gates = [
    layer[name]
    for part in ('irrelevant', 'relevant')
    for layer in params[part].values()
    for name in ('gate1', 'gate2')
  ]
  unused = count(params['encoder']['attention']['bn_att'])
  assert count(gates) + unused == 164_992 + 512
  images = jax.eval_shape(
    functools.partial(front_end, max_frames=600), *batch.values()
  )
  assert images.shape == (2, 600, 80, 3)
  out = jax.eval_shape(system.predict, params, state, batch)
  assert {name: value.shape for name, value in out.items()} == {
    'scores': (2, 4),
    'logits': (2, 4),
    'embedding': (2, 256),
    'hidden': (2, 256),
    'encoding': (2, 256),
    'frames': (2, 37, 512),
    'irrelevant': (2, 256),
    'relevant': (2, 256),
    'reconstruction': (2, 256),
  }


def test_initialisation_is_xavier_and_pytorchs(fresh):
  params, state = fresh
  encoder, classifier = params['encoder'], params['classifier']
  for values, bound in (
    (encoder['stage2']['conv'], np.sqrt(6 / (25 * 4 + 25 * 6))),
    (encoder['attention']['att']['kernel'], np.sqrt(6 / (6 + 8))),
    (classifier['fc1']['kernel'], 8**-0.5),
    (params['decoder']['linear1']['kernel'], 16**-0.5),
    (params['decoder']['linear1']['bias'], 16**-0.5),
  ):
    assert np.max(np.abs(values)) <= bound
    np.testing.assert_allclose(np.std(values), bound / np.sqrt(3), rtol=0.3)
  np.testing.assert_array_equal(encoder['attention']['cla']['bias'], 0)
  np.testing.assert_array_equal(classifier['prelu'], [0.25])
  norm = state['batch_stats']['encoder']['bn0']
  np.testing.assert_array_equal(norm['mean'], 0)
  np.testing.assert_array_equal(norm['var'], 1)


def test_alpha_mixes_the_irrelevant_part_in(variables, batch):
  system = dataclasses.replace(PLAIN, alpha=0.5)
  out = system.predict(*variables, batch)
  np.testing.assert_allclose(
    out['embedding'], 0.5 * out['irrelevant'] + out['relevant'], rtol=1e-6
  )


# What the loss is.


def test_losses_are_the_published_ones_and_weighted(variables, batch):
  params, state = variables
  (total, aux), _ = compiled(PLAIN)(
    params, state, batch, jax.random.key(0), START
  )
  metrics = aux['metrics']
  out, _ = jax.jit(
    lambda variables: PLAIN.apply(
      variables, batch, train=True, mutable=['batch_stats']
    )
  )({'params': params, **state})
  kept = np.flatnonzero(batch['mask'])
  labels = batch['label'][kept]
  out = {name: np.asarray(value)[kept] for name, value in out.items()}
  log_p = jax.nn.log_softmax(out['logits'])
  want = {
    'task': -log_p[np.arange(12), labels].mean(),
    'calibration': jensen_shannon(out['irrelevant'], out['neutral']).mean(),
    'orthogonality': orthogonality_penalty(
      out['irrelevant'], out['relevant'], np.ones(12)
    ),
    'reconstruction': np.mean((out['encoding'] - out['reconstruction']) ** 2),
    'accuracy': np.mean(out['logits'].argmax(-1) == labels),
  }
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  weights = {name: getattr(PLAIN, f'{name}_weight') for name in list(want)[:4]}
  np.testing.assert_allclose(
    total, sum(w * want[name] for name, w in weights.items()), rtol=1e-5
  )
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-6)


def test_running_statistics_update_twice_utterance_first(variables, batch):
  params, state = variables
  (_, aux), _ = compiled(PLAIN)(params, state, batch, jax.random.key(0), START)
  want = state['batch_stats']['encoder']['bn0']
  mean, variance = want['mean'].astype(np.float64), want['var']
  kept = np.flatnonzero(batch['mask'])
  for prefix in ('', 'neutral_'):
    images = np.asarray(PLAIN.images(batch, prefix), np.float64)[kept]
    mean = 0.9 * mean + 0.1 * images.mean((0, 1, 3))
    variance = 0.9 * variance + 0.1 * images.var(axis=(0, 1, 3), ddof=0) * (
      (n := images[..., 0, :].size) / (n - 1)
    )
  got = aux['state']['batch_stats']['encoder']['bn0']
  np.testing.assert_allclose(got['mean'], mean, rtol=1e-5)
  np.testing.assert_allclose(got['var'], variance, rtol=1e-5)


def test_unused_parameters_get_no_gradient_and_the_gate_can_be_used(
  variables, batch
):
  params, state = variables
  grads = compiled(PLAIN)(params, state, batch, jax.random.key(0), START)[1]
  unused = [grads['encoder']['attention']['bn_att']]
  gates = [
    grads[part][layer][gate]
    for part in ('irrelevant', 'relevant')
    for layer in ('layer1', 'layer2')
    for gate in ('gate1', 'gate2')
  ]
  for leaf in jax.tree.leaves(unused + gates):
    np.testing.assert_array_equal(leaf, 0)
  x = jnp.linspace(-1, 1, 8)[None]
  layer = params['relevant']['layer1']

  def gradient(gated):
    module = Projection(8, gated=gated)
    return jax.grad(lambda p: module.apply({'params': p}, x).sum())(
      params['relevant']
    )

  assert np.any(gradient(True)['layer1']['gate2']['kernel'])
  assert not np.any(gradient(False)['layer1']['gate2']['kernel'])
  x = np.asarray(x)
  linear = {n: (layer[n]['kernel'], layer[n]['bias']) for n in layer}

  def apply(name, x):
    kernel, bias = linear[name]
    return x @ kernel + bias

  gate = jax.nn.sigmoid(apply('gate2', np.maximum(apply('gate1', x), 0)))
  want = np.maximum(apply('fc', np.asarray(gate) * x + x), 0)
  np.testing.assert_allclose(
    ProjectionLayer(4, gated=True).apply({'params': layer}, x), want, rtol=1e-5
  )


# Padding and sharding.


def test_padding_rows_and_frames_change_nothing(variables, batch):
  params, state = variables
  dirty = jax.tree.map(np.copy, batch)
  rng = np.random.default_rng(5)
  for name in ('features', 'neutral_features'):
    dirty[name][EMPTY_ROWS] = rng.normal(0, 100, (4, *dirty[name].shape[1:]))
    length = dirty[name.replace('features', 'length')]
    for row, valid in enumerate(length):
      dirty[name][row, valid:] = -777
  for name in ('label', 'speaker'):
    dirty[name][EMPTY_ROWS] = -1
  for name in ('length', 'neutral_length'):
    dirty[name][EMPTY_ROWS] = 0
  step = compiled(SMALL)
  want = step(params, state, batch, jax.random.key(0), START)
  got = step(params, state, dirty, jax.random.key(0), START)
  assert_trees_close(got, want, tolerance=1e-6)


@pytest.mark.slow
def test_mesh_and_pmap_of_eight_equal_one_device(variables, batch):
  params, state = variables
  rng = jax.random.key(3)
  (_, aux), grads = compiled(SMALL)(params, state, batch, rng, START)

  mesh = Mesh(np.array(jax.devices()), ('data',))
  everywhere = NamedSharding(mesh, PartitionSpec())
  sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
  (_, mesh_aux), mesh_grads = jax.jit(
    value_and_grad(SMALL), out_shardings=everywhere
  )(*jax.device_put((params, state), everywhere), sharded, rng, START)
  assert_trees_close(mesh_grads, grads)
  assert_trees_close(mesh_aux, aux)

  split = {n: x.reshape(8, 2, *x.shape[1:]) for n, x in batch.items()}
  (loss, pmap_aux), pmap_grads = jax.pmap(
    value_and_grad(SMALL),
    axis_name=DATA,
    in_axes=(None, None, 0, None, None),
  )(params, state, split, rng, START)
  total = functools.partial(jax.tree.map, lambda x: np.sum(x, axis=0))
  np.testing.assert_allclose(np.sum(loss), aux['metrics']['loss'], rtol=1e-5)
  assert_trees_close(total(pmap_aux['metrics']), aux['metrics'])
  assert_trees_close(total(pmap_grads), grads)
  for device in (0, 7):
    assert_trees_close(
      jax.tree.map(lambda x, d=device: x[d], pmap_aux['state']), aux['state']
    )


@pytest.mark.slow
def test_vmap_over_folds_equals_one_by_one(batch):
  rngs = jax.random.split(jax.random.key(7), 2)
  folds = []
  for seed in range(2):
    init = functools.partial(SMALL.init, batch=batch)
    variables = params_like(init, jax.random.key(0), seed=seed)
    state = jax.tree.map(np.abs, variables[1])
    folds.append((variables[0], state, make_batch(seed=seed), rngs[seed]))
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *folds)
  step = value_and_grad(SMALL)
  got = jax.jit(jax.vmap(step, (0, 0, 0, 0, None)))(*stacked, START)
  for number, fold in enumerate(folds):
    want = compiled(SMALL)(*fold, START)
    assert_trees_close(jax.tree.map(lambda x, n=number: x[n], got), want)


def test_dropout_follows_rng(variables, batch):
  params, state = variables
  step = compiled(SMALL)
  losses = [
    step(params, state, batch, jax.random.key(seed), START)[0][0]
    for seed in (0, 0, 1)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
  assert abs(losses[0] - losses[2]) > 1e-3
