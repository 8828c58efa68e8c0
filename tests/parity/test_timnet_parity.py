"""TIM-Net against values of the authors' network (goldens/README.md)."""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.core import optimizers
from jaxser.models import convert
from jaxser.models.convert import keras_timnet
from jaxser.ops.dct import dct_matrix
from jaxser.systems import timnet
from jaxser.systems.base import Progress
from tests import shared
from tests.random_tree import assert_close

SYSTEM = timnet.TimNet(num_classes=7, dropout=0.0)
STEPS = 3


def tensor(name, shape):
  """The recipe of the goldens: a tensor's values follow from its name."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  value, last = rng.standard_normal(shape), name.rsplit('.', 1)[-1]
  if last == 'kernel':
    value = value / np.sqrt(np.prod(shape[:-1]))
  elif last == 'gamma':
    value = 1 + 0.1 * value
  elif last == 'moving_variance':
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = 0.5 + rng.random(shape)
  elif last in ('bias', 'beta', 'moving_mean'):
    value = 0.1 * value
  return value.astype(np.float32)


@functools.cache
def golden():
  values = np.load(shared.require('goldens/timnet.npz'))
  shapes = json.loads(shared.require('goldens/timnet_tensors.json').read_text())
  named = {name: tensor(name, shape) for name, shape in shapes.items()}
  expected = keras_timnet.shapes(SYSTEM)
  params, state = convert.from_named(named, keras_timnet.NAMING, expected)
  return dict(values), params, state


def inputs():
  x = jnp.asarray(tensor('timnet.x', (5, 188, 39)))
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
  # The size is the paper's.
  count = sum(x.size for x in jax.tree.leaves(params))
  statistics = sum(x.size for x in jax.tree.leaves(state))
  assert (count, count + statistics) == (104_496, 106_992)


def test_losses_and_probabilities_of_three_steps():
  values, _, _ = golden()
  losses, (probs, _), _, _ = trained()
  np.testing.assert_allclose(losses, values['train.losses'], rtol=1e-5)
  np.testing.assert_allclose(probs, values['train0.probs'], rtol=1e-4)


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


def test_statistics_and_parameters_after_three_steps():
  values, _, _ = golden()
  _, _, params, state = trained()
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


def golden_batch():
  """The golden inputs as log-mel, whose first 39 cosines they are."""
  x = tensor('timnet.x', (5, 188, 39)).astype(np.float64)
  return {
    'features': (x @ dct_matrix(128, 39).T).astype(np.float32),
    'label': golden()[0]['labels'].astype(np.int32),
    'mask': np.ones(5, np.float32),
    'row': np.arange(5, dtype=np.int32),
  }


def test_the_whole_system():
  values, *weights = golden()
  progress = Progress(jnp.int32(0), jnp.int32(0))
  step = jax.jit(jax.value_and_grad(SYSTEM.loss, has_aux=True))
  (value, _), grads = step(
    *weights, golden_batch(), jax.random.key(0), progress
  )
  assert float(value) == pytest.approx(values['train.losses'][0], rel=1e-5)
  assert_close(grads, trained()[1][1], 1e-5)
