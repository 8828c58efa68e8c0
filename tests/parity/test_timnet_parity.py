"""TIM-Net against values of the authors' network (goldens/README.md)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.benchmark import peers
from jaxser.core import optimizers
from jaxser.models import convert
from jaxser.models.convert import keras_timnet
from jaxser.ops.dct import dct_matrix
from jaxser.systems import timnet
from jaxser.systems.base import Progress
from tests import shared
from tests.parity import goldens
from tests.random_tree import assert_close

SYSTEM = timnet.TimNet(num_classes=7, dropout=0.0)
STEPS = 3


@functools.cache
def golden():
  values = np.load(shared.require('goldens/timnet.npz'))
  shapes = json.loads(shared.require('goldens/timnet_tensors.json').read_text())
  named = {name: goldens.tensor(name, shape) for name, shape in shapes.items()}
  expected = keras_timnet.shapes(SYSTEM)
  params, state = convert.from_named(named, keras_timnet.NAMING, expected)
  return dict(values), params, state


def inputs():
  x = jnp.asarray(goldens.data('timnet.x', (5, 188, 39)))
  return x, jnp.arange(5), jnp.ones(5)


@functools.cache
def trained(rule=optax.adam):
  """Losses, probabilities, gradients of step 0, and the end of three steps."""
  values, params, state = golden()
  x, rows, mask = inputs()
  optimizer = rule(1e-3, 0.93, 0.98, 1e-8)

  def loss(params, state):
    (logits, _), new = SYSTEM.apply(
      {'params': params, **state},
      x,
      rows,
      mask,
      train=True,
      method='network',
      mutable=['batch_stats'],
    )
    errors = -jnp.sum(values['smoothed'] * jax.nn.log_softmax(logits), -1)
    return jnp.mean(errors), (dict(new), jax.nn.softmax(logits))

  @jax.jit
  def step(params, state, opt_state):
    (value, (state, probs)), grads = jax.value_and_grad(loss, has_aux=True)(
      params, state
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return params, state, opt_state, value, probs, grads

  opt_state, losses, first = optimizer.init(params), [], None
  for _ in range(STEPS):
    params, state, opt_state, value, *found = step(params, state, opt_state)
    losses.append(float(value))
    first = first or found
  return losses, first, params, state


def test_forward_in_evaluation_mode():
  values, params, state = golden()
  variables, how = {'params': params, **state}, {'method': 'network'}
  logits, out = SYSTEM.apply(variables, *inputs(), train=False, **how)
  out['probs'] = jax.nn.softmax(logits)
  for name in ('multi_scale', 'fused', 'probs'):
    atol = 1e-5 * np.abs(values[name]).max()
    np.testing.assert_allclose(
      out[name], values[name], rtol=1e-5, atol=atol, err_msg=name
    )


def test_every_gradient_norm_of_the_first_step():
  values, _, _ = golden()
  _, (_, grads), _, _ = trained()
  named = convert.to_named(keras_timnet.NAMING, grads)
  norms = {name: float(np.linalg.norm(value)) for name, value in named.items()}
  wanted = {k[10:]: v for k, v in values.items() if k.startswith('grad_norm.')}
  assert norms.keys() == wanted.keys()
  for name, norm in wanted.items():
    if '.conv' in name and name.endswith('.bias'):
      # A bias before BatchNorm has no effect: rounding noise there, zero here.
      assert norm < 1e-8
      assert norms[name] == 0
    else:
      assert norms[name] == pytest.approx(norm, rel=1e-4), name


def test_losses_statistics_and_parameters_of_three_steps():
  values, _, _ = golden()
  losses, (probs, _), params, state = trained()
  np.testing.assert_allclose(losses, values['train.losses'], rtol=1e-5)
  np.testing.assert_allclose(probs, values['train0.probs'], rtol=1e-4)
  found = convert.to_named(keras_timnet.NAMING, params, state)
  wanted = {k[7:]: v for k, v in values.items() if k.startswith('after3.')}
  assert len(wanted) == 67
  for name, value in wanted.items():
    got, atol = found[name].reshape(value.shape), 1e-4 * np.abs(value).max()
    np.testing.assert_allclose(got, value, rtol=1e-4, atol=atol, err_msg=name)


def test_epsilon_where_keras_puts_it_comes_closer():
  values, _, _ = golden()
  errors = []
  for rule in (optax.adam, optimizers.adam_keras):
    losses, _, params, _ = trained(rule)
    kernel = convert.to_named(keras_timnet.NAMING, params)['head.kernel']
    wanted = values['after3.head.kernel']
    errors.append(np.abs(kernel.reshape(wanted.shape) - wanted).max())
  np.testing.assert_allclose(losses, values['train.losses'], rtol=1e-6)
  assert errors[1] < 1e-7 < 1e-6 < errors[0]


def test_the_whole_system():
  values, *weights = golden()
  x = np.float64(goldens.data('timnet.x', (5, 188, 39)))
  batch = {
    # Log-mel, whose first 39 cosines are the golden inputs.
    'features': (x @ dct_matrix(128, 39).T).astype(np.float32),
    'label': values['labels'].astype(np.int32),
    'mask': np.ones(5, np.float32),
    'row': np.arange(5, dtype=np.int32),
  }
  more = jax.random.key(0), Progress(jnp.int32(0), jnp.int32(0))
  step = jax.jit(jax.value_and_grad(SYSTEM.loss, has_aux=True))
  (value, _), grads = step(*weights, batch, *more)
  assert float(value) == pytest.approx(values['train.losses'][0], rel=1e-5)
  assert_close(grads, trained()[1][1], 1e-5)
  # It says class 3 of all.
  batch |= {
    'label': np.array([3, 0, 1, 3, 2]),
    'mask': np.float32([1, 1, 1, 1, 0]),
  }
  (_, aux), _ = step(*weights, batch, *more)
  assert aux['metrics']['accuracy'] == 0.5


def test_keras_model_that_speed_is_compared_with():
  keras = pytest.importorskip('keras', reason='needs Keras (the extra `test`)')
  pytest.importorskip('tensorflow', reason='needs TensorFlow')
  values, params, state = golden()
  model = peers.keras_timnet(timnet.TimNet(num_classes=7), 188)
  assert model.count_params() == 106_992
  named = convert.to_named(keras_timnet.NAMING, params, state)

  def number(layer):
    """Keras lists layers by depth; in the order of creation, names are these."""
    last = layer.name.rpartition('_')[2]
    return int(last) if last.isdigit() else 0

  def set_weights(kind, places, *leaves):
    made = sorted((x for x in model.layers if isinstance(x, kind)), key=number)
    for layer, place in zip(made, places, strict=True):
      kept = [named.get(f'{place}.{leaf}') for leaf in leaves]
      layer.set_weights([x for x in kept if x is not None])

  blocks = [
    f'block{block}.{direction}.{{}}{number}'
    for block in range(8)
    for direction in ('forward', 'backward')
    for number in (1, 2)
  ]
  layers, stems = keras.layers, ['stem.forward', 'stem.backward']
  conv = [*stems, *(block.format('conv') for block in blocks)]
  norm = [block.format('norm') for block in blocks]
  set_weights(layers.Conv1D, conv, 'kernel', 'bias')
  statistics = ('gamma', 'beta', 'moving_mean', 'moving_variance')
  set_weights(layers.BatchNormalization, norm, *statistics)
  set_weights(layers.Dense, ('fusion', 'head'), 'kernel', 'bias')
  found = model.predict_on_batch(np.asarray(inputs()[0]))
  np.testing.assert_allclose(found, values['probs'], rtol=1e-4, atol=1e-5)
