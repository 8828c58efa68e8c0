"""DSNet: what the network, its losses, its training and sharding promise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dsnet as recipe
from jaxser.ops.collectives import DATA
from jaxser.ops.losses import jensen_shannon, orthogonality_penalty
from jaxser.systems.dsnet import DSNet, front_end
from jaxser.systems.dsnet_network import Projection
from tests.dsnet_cases import (
  EMPTY_ROWS,
  KEPT,
  RNG,
  SMALL,
  START,
  compiled,
  make_variables,
  make_variant,
  padded_batch,
)
from tests.random_tree import assert_close

BATCH = padded_batch()
WEIGHTS = {'task': 0.5, 'calibration': 2, 'orthogonality': 3}
PLAIN = make_variant('dsnet', **{f'{n}_weight': w for n, w in WEIGHTS.items()})


@pytest.fixture(scope='module')
def variables():
  return make_variables(SMALL)


def test_published_size_and_shapes():
  system = DSNet(num_classes=4)
  batch = {'features': jnp.zeros((2, 7, 80)), 'length': jnp.array([7, 3])}
  params, state = jax.eval_shape(system.init, RNG, batch)

  sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (params, state)]
  assert sizes == [5_132_133, 3_104]
  cut = functools.partial(front_end, max_frames=600)
  assert jax.eval_shape(cut, *batch.values()).shape == (2, 600, 80, 3)
  out = jax.eval_shape(system.predict, params, state, batch)
  wide = ('embedding', 'hidden', 'encoding')
  parts = ('irrelevant', 'relevant', 'reconstruction')
  assert {name: value.shape for name, value in out.items()} == {
    'frames': (2, 37, 512),
    **dict.fromkeys(('scores', 'logits'), (2, 4)),
    **dict.fromkeys((*wide, *parts), (2, 256)),
  }


def test_initialisation_is_xavier_and_pytorchs():
  params, state = SMALL.init(RNG, BATCH)
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


def test_alpha_the_gate_precision_and_bfloat16_are_options(variables):
  params, state = variables

  def outputs(**settings):
    system = dataclasses.replace(SMALL, **settings)
    program = jax.jit(system.predict).lower(params, state, BATCH)
    return program.as_text(), program.compile()(params, state, BATCH)

  text, out = outputs(alpha=0.5)
  np.testing.assert_allclose(
    out['embedding'], 0.5 * out['irrelevant'] + out['relevant'], rtol=1e-6
  )
  # The attention and the linear layers always have the highest.
  highest = outputs(precision='highest')[0]
  assert highest.count('HIGHEST') > text.count('HIGHEST')
  half = outputs(compute_dtype='bfloat16')[1]['encoding']
  assert half.dtype == jnp.float32
  assert np.any(half != out['encoding'])
  np.testing.assert_allclose(half, out['encoding'], atol=0.02)
  wide = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  found = jax.eval_shape(compiled(wide), params, state, BATCH, RNG, START)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype('float32')}

  # relu(fc(sigmoid(gate2(relu(gate1(x)))) x + x)), twice.
  x = want = np.linspace(-1, 1, 8, dtype=np.float32)[None]
  for layer in params['relevant'].values():

    def apply(name, x, layer=layer):
      return x @ layer[name]['kernel'] + layer[name]['bias']

    gate = jax.nn.sigmoid(apply('gate2', np.maximum(apply('gate1', want), 0)))
    want = np.maximum(apply('fc', np.asarray(gate) * want + want), 0)
  got = Projection(8, gated=True).apply({'params': params['relevant']}, x)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_losses_are_the_published_ones_and_weighted(variables):
  params, state = variables
  (total, aux), _ = compiled(PLAIN)(params, state, BATCH, RNG, START)
  metrics = aux['metrics']
  apply = functools.partial(PLAIN.apply, train=True, mutable=['batch_stats'])
  out, _ = jax.jit(apply)({'params': params, **state}, BATCH)
  labels = BATCH['label'][KEPT]
  out = {name: np.asarray(value)[KEPT] for name, value in out.items()}
  log_p = jax.nn.log_softmax(out['logits'])
  a, b = out['irrelevant'], out['relevant']
  want = {
    'task': -log_p[np.arange(12), labels].mean(),
    'calibration': jensen_shannon(a, out['neutral']).mean(),
    'orthogonality': orthogonality_penalty(a, b, np.ones(12)),
    'reconstruction': np.mean((out['encoding'] - out['reconstruction']) ** 2),
  }
  want['loss'] = sum(WEIGHTS.get(n, 1) * value for n, value in want.items())
  want['accuracy'] = np.mean(out['logits'].argmax(-1) == labels)
  assert_close((total, metrics), (want['loss'], want), 1e-5)


def test_padding_rows_and_frames_change_nothing(variables):
  dirty = jax.tree.map(np.copy, BATCH)
  rng = np.random.default_rng(5)
  for prefix in ('', 'neutral_'):
    features = dirty[f'{prefix}features']
    features[EMPTY_ROWS] = rng.normal(0, 100, (4, *features.shape[1:]))
    for row, valid in enumerate(dirty[f'{prefix}length']):
      features[row, valid:] = -777
    dirty[f'{prefix}length'][EMPTY_ROWS] = 0
  for name in ('label', 'speaker'):
    dirty[name][EMPTY_ROWS] = -1
  want, got, other = (
    compiled(SMALL)(*variables, batch, jax.random.key(seed), START)
    for batch, seed in ((BATCH, 0), (dirty, 0), (BATCH, 1))
  )
  assert_close(got, want, 1e-6)
  # Dropout is on.
  assert abs(other[0][0] - want[0][0]) > 1e-3


@pytest.mark.slow
def test_eight_devices_equal_one(variables):
  step = jax.value_and_grad(SMALL.loss, has_aux=True)
  (_, aux), grads = compiled(SMALL)(*variables, BATCH, RNG, START)
  split = {n: x.reshape(8, 2, *x.shape[1:]) for n, x in BATCH.items()}
  axes = (None, None, 0, None, None)
  (loss, pmap_aux), shares = jax.pmap(step, DATA, in_axes=axes)(
    *variables, split, RNG, START
  )
  np.testing.assert_allclose(np.sum(loss), aux['metrics']['loss'], rtol=1e-5)
  summed = jax.tree.map(lambda x: x.sum(axis=0), (pmap_aux['metrics'], shares))
  assert_close(summed, (aux['metrics'], grads))
  for device in (0, 7):
    found = jax.tree.map(lambda x, d=device: x[d], pmap_aux['state'])
    assert_close(found, aux['state'])


def test_every_setting_is_a_field_of_the_recipe():
  config = recipe.get_config('corpus=emodb')
  published = DSNet(num_classes=7)
  # The corpus says these.
  counted = {'num_classes', 'num_speakers', 'bins'}
  assert published.settings().keys() - set(config.model) == counted
  for name, value in dict(config.model).items():
    assert getattr(published, name) == value, name
  assert config.data.neutral_references == 3
  assert config.data.max_length == 600
  config.model.max_frames = 300
  assert config.data.max_length == 300
