"""DSNet against the outputs of the authors' code, and its front end.

Evaluation, first losses and (in float64) first gradients agree to rounding. The
two later steps cannot: where a maximum or a ReLU chooses between values closer
than rounding, Adam's first steps follow the sign of every small entry. PyTorch
on one thread and on two, and this network in float64, differ from the goldens,
and from each other, by 6e-3 in the third loss. Tolerances are three times or
more what float64 measures; tests/test_torch_dsnet.py shows nine digits of the
steps against PyTorch in float64.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.models import convert
from jaxser.models.convert import torch_dsnet
from jaxser.ops.losses import jensen_shannon, orthogonality_penalty
from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet, front_end
from tests import shared
from tests.parity import goldens

NAMES = {
  'task': 'task',
  'calibration': 'sim',
  'orthogonality': 'diff',
  'reconstruction': 'recon',
}
START = Progress(jnp.int32(0), jnp.int32(0))


class FromImages(DSNet):
  """DSNet whose batches hold images already, as the goldens do."""

  def images(self, batch, prefix=''):
    images = batch[f'{prefix}features']
    return images if images.ndim == 4 else super().images(batch, prefix)


@pytest.fixture(scope='module')
def golden():
  return np.load(shared.require('goldens/dsnet.npz'))


@pytest.fixture(scope='module')
def arrays():
  shapes = json.loads(shared.require('goldens/dsnet_tensors.json').read_text())
  return {name: goldens.tensor(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope='module')
def system():
  dropout = {'encoder_dropout': 0.0, 'classifier_dropout': 0.0}
  return FromImages(num_classes=4, max_frames=96, **dropout)


@pytest.fixture(scope='module')
def variables(arrays, system):
  shapes = torch_dsnet.shapes(system)
  return convert.from_named(arrays, torch_dsnet.NAMING, shapes)


@pytest.fixture(scope='module')
def batch(golden):
  x, neutral = (
    np.moveaxis(goldens.data(name, (6, 3, 96, 80)), 1, -1)
    for name in ('dsnet.x', 'dsnet.x_neutral')
  )
  return {
    'features': x,
    'neutral_features': neutral,
    'label': golden['labels'].astype(np.int32),
    'mask': np.ones(6, np.float32),
    'row': np.arange(6, dtype=np.int32),
  }


@pytest.fixture(scope='module')
def answers(system, variables, batch):
  """Evaluation of the utterances and of their neutral partners."""
  predict = jax.jit(system.predict)
  neutral = {'features': batch['neutral_features']}
  return predict(*variables, batch), predict(*variables, neutral)


@pytest.fixture(scope='module')
def training(system, variables, batch):
  """Losses of three Adam steps, gradients of the first, variables after all."""
  optimizer = optax.adam(1e-3)

  @jax.jit
  def step(params, state, opt_state):
    (_, aux), grads = jax.value_and_grad(system.loss, has_aux=True)(
      params, state, batch, jax.random.key(0), START
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return params, aux['state'], opt_state, grads, aux['metrics']

  params, state = variables
  opt_state = optimizer.init(params)
  history, first = [], None
  for _ in range(3):
    params, state, opt_state, grads, metrics = step(params, state, opt_state)
    history.append(metrics)
    first = grads if first is None else first
  return history, first, (params, state)


def _assert_close(got, want, tolerance):
  scale = np.max(np.abs(want))
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def test_intermediate_values(answers, golden):
  out, neutral = answers
  same = ('irrelevant', 'relevant', 'reconstruction', 'hidden')
  for theirs, ours in {
    'embedding': out['encoding'],
    'embedding_neutral': neutral['encoding'],
    'log_probs': np.log(out['scores']),
    **{name: out[name] for name in same},
  }.items():
    _assert_close(ours, golden[f'eval.{theirs}'], 2e-6)
  frames = np.swapaxes(out['frames'], 1, 2)
  _assert_close(frames, golden['eval.cnn_features'], 5e-6)
  np.testing.assert_array_equal(out['embedding'], out['relevant'])


def test_losses_in_evaluation(answers, golden):
  out, neutral = answers
  a, b = out['irrelevant'], out['relevant']
  log_probs = jax.nn.log_softmax(out['logits'])
  error = out['reconstruction'] - out['encoding']
  for name, value in {
    'task': -np.mean(log_probs[np.arange(6), golden['labels']]),
    'sim': jensen_shannon(a, neutral['encoding']).mean(),
    'diff': orthogonality_penalty(a, b, jnp.ones(6)),
    'recon': np.mean(error**2),
  }.items():
    wanted = golden[f'eval.loss_{name}']
    np.testing.assert_allclose(value, wanted, rtol=5e-6, err_msg=name)


def test_losses_of_three_adam_steps(training, golden):
  # Float64 against the goldens: 3e-6, 1e-7, 2e-6; 8e-4, 4e-5, 3e-4; 5e-2, 1e-3,
  # 6e-3. Another processor: 4e-3 in the calibration of the third step.
  tolerances = [(1e-5, 2e-6, 6e-6), (2.5e-3, 2e-4, 1e-3), (0.15, 1e-2, 2e-2)]
  for step, (task, others, total) in enumerate(tolerances):
    metrics = training[0][step]
    for ours, theirs in NAMES.items():
      wanted = golden[f'train{step}.loss_{theirs}']
      rtol = task if ours == 'task' else others
      np.testing.assert_allclose(metrics[ours], wanted, rtol, err_msg=ours)
    wanted = golden['train.total_losses'][step]
    np.testing.assert_allclose(metrics['loss'], wanted, rtol=total)


def test_tensors_without_gradient(training, arrays, golden):
  _, grads, (_, state) = training
  named = convert.to_named(torch_dsnet.NAMING, grads, state)
  none = [name for name in arrays if not golden.get(f'has_grad.{name}', True)]
  assert sum(arrays[name].size for name in none) == 165_504
  for name in none:
    np.testing.assert_array_equal(named[name], 0, err_msg=name)


def test_statistics_and_parameters_after_three_steps(training, golden):
  after = convert.to_named(torch_dsnet.NAMING, *training[2])
  names = [n.removeprefix('after3.') for n in golden if n.startswith('after3')]
  assert len(names) == 16
  for name in names:
    # The first statistics hang on no parameter: exact, and updated six times.
    exact = name.startswith(('E.layer1.bn0', 'E.layer2.bn_att'))
    # Float64: up to 1.4e-2 (C.bn), 3e-4 for the parameters.
    loose = 5e-2 if 'running' in name else 1e-3
    _assert_close(
      after[name], golden[f'after3.{name}'], 2e-6 if exact else loose
    )


def test_gradient_norms_in_float64(system, variables, batch, golden, arrays):
  with jax.enable_x64(True):
    double = jax.tree.map(np.float64, (variables, batch))
    (params, state), inputs = double
    inputs |= {name: batch[name] for name in ('label', 'row')}
    grads, aux = jax.jit(jax.grad(system.loss, has_aux=True))(
      params, state, inputs, jax.random.key(0), START
    )
    named = convert.to_named(torch_dsnet.NAMING, grads, aux['state'])
  checked = [name for name in arrays if f'grad_norm.{name}' in golden]
  assert len(checked) == 55
  for name in checked:
    got, want = np.linalg.norm(named[name]), golden[f'grad_norm.{name}']
    if name == 'E.layer2.att.bias':
      # A softmax over time does not see it; the golden is rounding, 6e-7.
      assert got < 1e-12
      assert want < 1e-6
    else:
      np.testing.assert_allclose(got, want, rtol=4e-5, err_msg=name)


@pytest.mark.parametrize('number', [0, 1, 2])
def test_front_end(number):
  golden = np.load(shared.require('goldens/features_kaldi16k.npz'))
  fbank, cut = golden[f'fbank{number}'], jax.jit(front_end, static_argnums=2)
  padded = np.zeros((1, 1000, 80), np.float32)
  padded[0, : len(fbank)] = fbank
  images = cut(padded, jnp.array([len(fbank)]), 600)
  stack = np.moveaxis(np.asarray(images[0], np.float64), -1, 0)
  assert stack.shape == (3, 600, 80)
  first, mean = golden[f'stack{number}_first8'], golden[f'stack{number}_mean']
  np.testing.assert_allclose(stack[:, :8], first, atol=1e-5)
  np.testing.assert_allclose(stack.mean((1, 2)), mean, atol=1e-5)
