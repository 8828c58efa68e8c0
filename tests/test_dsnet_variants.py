"""DSNet: its baselines, its numbers and its settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dsnet as recipe
from jaxser.systems import dsnet
from jaxser.systems.base import Progress
from tests.dsnet_cases import (
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


@pytest.fixture(scope='module')
def batch():
  return padded_batch()


@pytest.fixture(scope='module')
def variables():
  return make_variables(SMALL)


@pytest.fixture(scope='module')
def fresh():
  return SMALL.init(jax.random.key(0), make_batch(rows=1))


# Baselines.


def test_plain_encoder_has_one_branch(batch):
  system = dataclasses.replace(PLAIN, variant='encoder')
  assert not system.needs_neutral
  params, state = make_variables(system)
  assert set(params) == {'encoder', 'classifier'}
  alone = {n: x for n, x in batch.items() if not n.startswith('neutral')}
  _, aux = jax.eval_shape(
    system.loss, params, state, alone, jax.random.key(0), START
  )
  assert set(aux['metrics']) == {'loss', 'accuracy', 'task'}


def test_adversary_is_reversed_in_the_encoder_only(batch):
  def build(weight, **options):
    system = dataclasses.replace(
      PLAIN,
      variant='dat',
      num_speakers=4,
      adversary_weight=weight,
      reversal_epochs=10,
    )
    return dataclasses.replace(system, **options)

  params, state = make_variables(build(1.0))
  assert set(params) == {'encoder', 'classifier', 'adversary'}
  rng = jax.random.key(0)

  def gradient(epoch, **options):
    progress = Progress(jnp.int32(0), jnp.int32(epoch))
    system = build(1.0, task_weight=0.0, **options)
    (_, aux), grads = compiled(system)(params, state, batch, rng, progress)
    return aux['metrics'], grads

  metrics, late = gradient(100)
  _, middle = gradient(3)
  _, early = gradient(0)
  np.testing.assert_allclose(metrics['adversary'], metrics['loss'], rtol=1e-6)
  # The adversary learns from the start, the encoder against it by and by.
  assert_trees_close(early['adversary'], late['adversary'])
  largest = max(np.max(np.abs(g)) for g in jax.tree.leaves(late['encoder']))
  assert largest > 1e-3
  for leaf in jax.tree.leaves(early['encoder']):
    np.testing.assert_array_equal(leaf, 0)
  share = (2 / (1 + np.exp(-3)) - 1) / (2 / (1 + np.exp(-10)) - 1)
  assert_trees_close(
    middle['encoder'], jax.tree.map(lambda g: share * g, late['encoder'])
  )
  # One step along the encoder's gradient makes the speaker harder to tell.
  moved = dict(params) | {
    'encoder': jax.tree.map(
      lambda p, g: p - 0.05 / largest * g, params['encoder'], late['encoder']
    )
  }
  after = compiled(build(1.0, task_weight=0.0))(
    moved, state, batch, rng, Progress(jnp.int32(0), jnp.int32(100))
  )[0][1]['metrics']
  assert after['adversary'] > metrics['adversary']


def test_isnet_classifies_what_the_benchmark_leaves(batch):
  system = dataclasses.replace(PLAIN, variant='isnet', task_weight=0.0)
  assert system.needs_neutral
  params, state = make_variables(system)
  out = system.predict(params, state, batch)
  np.testing.assert_allclose(
    out['embedding'], out['encoding'] - out['benchmark'], rtol=1e-6
  )
  step = compiled(system)
  rng = jax.random.key(0)
  (_, aux), grads = step(params, state, batch, rng, START)
  assert set(aux['metrics']) == {
    'loss', 'accuracy', 'task', 'standardization'
  }  # fmt: skip
  # A step against the gradient brings the benchmark to the partner's embedding.
  moved = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
  after = step(moved, state, batch, rng, START)[0][1]['metrics']
  assert after['standardization'] < 0.99 * aux['metrics']['standardization']


# Numbers and settings.


def test_bfloat16_is_close_and_keeps_parameters_float32(variables, batch):
  params, state = variables
  half = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  got = jax.jit(half.predict)(params, state, batch)['embedding']
  want = jax.jit(SMALL.predict)(params, state, batch)['embedding']
  assert got.dtype == jnp.float32
  assert np.any(got != want)
  np.testing.assert_allclose(got, want, atol=0.02)
  (loss, aux), grads = jax.eval_shape(
    value_and_grad(half), params, state, batch, jax.random.key(0), START
  )
  for leaf in jax.tree.leaves((grads, aux['state'], loss)):
    assert leaf.dtype == jnp.float32


def test_training_lowers_the_loss(fresh, batch):
  params, state = fresh
  optimizer = optax.adam(1e-2)
  opt_state = optimizer.init(params)
  update = jax.jit(
    lambda g, o, p: (lambda u, o: (optax.apply_updates(p, u), o))(
      *optimizer.update(g, o)
    )
  )
  history = []
  for step in range(40):
    (_, aux), grads = compiled(SMALL)(
      params, state, batch, jax.random.key(step), START
    )
    state = aux['state']
    params, opt_state = update(grads, opt_state, params)
    history.append(aux['metrics'])
  for name in ('loss', 'calibration', 'reconstruction'):
    assert history[-1][name] < history[0][name], name


def test_every_setting_is_a_field_of_the_recipe():
  config = recipe.get_config('corpus=emodb')
  fields = {field.name: field for field in dataclasses.fields(dsnet.DSNet)}
  # The corpus says these.
  assert fields.keys() - set(config.model) == {
    'num_classes', 'num_speakers', 'bins', 'parent', 'name'
  }  # fmt: skip
  published = dsnet.DSNet(num_classes=7)
  for name, value in dict(config.model).items():
    assert getattr(published, name) == value, name
  assert config.data.neutral_references == 3
  assert config.data.max_length == 600
  config.model.max_frames = 300
  assert config.data.max_length == 300


def test_leaving_a_loss_out_is_its_weight():
  for loss in ('calibration', 'orthogonality', 'reconstruction'):
    model = recipe.get_config(f'without={loss}').model
    weights = {n: v for n, v in model.items() if n.endswith('_weight')}
    assert weights.pop(f'{loss}_weight') == 0
    assert set(weights.values()) == {1.0}


def test_precision_reaches_the_convolutions(variables, batch):
  def text(precision):
    system = dataclasses.replace(SMALL, precision=precision)
    return jax.jit(system.predict).lower(*variables, batch).as_text()

  # The attention and the linear layers always have the highest.
  assert text('highest').count('HIGHEST') > text('default').count('HIGHEST')


def test_spaces_to_look_at_are_outputs_of_predict(batch):
  for variant in dsnet.VARIANTS:
    system = dataclasses.replace(PLAIN, variant=variant, num_speakers=4)
    weights = jax.eval_shape(system.init, jax.random.key(0), batch)
    out = jax.eval_shape(system.predict, *weights, batch)
    for name in system.embeddings:
      assert out[name].shape == (16, 8), (variant, name)
