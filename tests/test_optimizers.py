"""Optimizers by name, learning rates, clipping and averages of weights."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from jaxser.core import optimizers
from jaxser.core.errors import ConfigError
from jaxser.engine import schedule, step
from jaxser.systems.base import System
from jaxser.systems.baseline import Baseline
from jaxser.systems.emosphere import EmoSphere
from tests import toys

PARAMS = {'encoder': {'w': np.full((2, 3), 0.5, 'f')}, 'head': np.ones(2)}
GRADS = {'encoder': {'w': 2 * np.cos(np.arange(6, dtype='f').reshape(2, 3))}}
GRADS['head'] = 2 * np.cos(np.arange(2, dtype='f'))
SGD = {'optimizer.name': 'sgd'}


class Two(System):
  """An encoder and a head whose gradients are `GRADS`."""

  encoders = ('encoder',)

  def init(self, rng, batch):
    return jax.tree.map(jnp.float32, PARAMS), {}

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    products = jax.tree.map(lambda p, g: jnp.sum(p * g), params, GRADS)
    return sum(jax.tree.leaves(products)), {'state': state, 'metrics': {}}


def config_of(**changes):
  config = common.base_config('timnet', dict(common.ARGUMENTS))
  config.epochs = 4
  config.update_from_flattened_dict(changes)
  return config


def steps_of(config, count=3, epoch_steps=0):
  """The states after 0, 1, ... steps."""
  system, batch = Two(), {'mask': np.ones(2)}
  optimizer = step.make_optimizer(config, system)
  state = step.create_state(system, optimizer, jax.random.key(0), batch)
  if epoch_steps:
    known = {'epoch_steps': jnp.float32(epoch_steps)}
    state = state.replace(opt_state=optax.tree.set(state.opt_state, **known))
  states = [step.with_average(state, config.ema)]
  for _ in range(count):
    state, _ = step.train_step(
      system, optimizer, states[-1], batch, np.int32(0), ema=config.ema
    )
    states.append(state)
  return states


def moves(states):
  """By step, how far each parameter went."""
  return [
    jax.tree.map(lambda a, b: np.asarray(b) - a, one.params, other.params)
    for one, other in itertools.pairwise(states)
  ]


def close(found, expected, rtol=1e-5):
  check = functools.partial(np.testing.assert_allclose, rtol=rtol)
  jax.tree.map(check, found, expected)


@pytest.mark.parametrize('name', optimizers._named())
def test_every_optimizer_takes_a_step(name):
  config = config_of(**{'optimizer.name': name, 'optimizer.learning_rate': 0.1})
  optimizers.check(config.optimizer.to_dict())
  # rprop rests in its first step.
  _, move = moves(steps_of(config, 2))
  for leaf in jax.tree.leaves(move):
    assert np.isfinite(leaf).all()
    assert np.any(leaf)


def test_arguments_reach_the_optimizer():
  given = {'learning_rate': 0.1, 'momentum': 0.9, 'nesterov': True}
  changes = {f'optimizer.{name}': value for name, value in given.items()}
  theirs = optax.sgd(**given)
  opt_state = theirs.init(PARAMS)
  for found in moves(steps_of(config_of(**changes, **SGD))):
    expected, opt_state = theirs.update(GRADS, opt_state, PARAMS)
    close(found, expected)


@pytest.mark.parametrize(
  ('name', 'warmup', 'expected'),
  [
    ('constant', 1.0, [0, 0.5, *6 * [1]]),
    ('plateau', 1.0, [0, 0.5, *6 * [1]]),
    ('linear', 1.0, [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ('linear', 0.0, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ('cosine', 1.0, [0, 0.5, *(0.5 * (1 + np.cos(np.pi * np.arange(6) / 6)))]),
  ],
)
def test_learning_rates_follow_the_epoch_step_by_step(name, warmup, expected):
  changes = {'schedule.name': name, 'schedule.warmup_epochs': warmup}
  config = config_of(**changes, **SGD)
  # The same rates over more steps.
  for count, epoch_steps in ((8, 2), (4, 4)):
    found = moves(steps_of(config, count, epoch_steps))[:: epoch_steps // 2]
    ratios = [m['head'][0] / (-1e-3 * GRADS['head'][0]) for m in found]
    np.testing.assert_allclose(ratios, expected[: len(ratios)], atol=2e-4)


def test_a_run_counts_its_own_epochs():
  changes = {'epochs': 3, 'batch_size': 4, 'schedule.name': 'cosine'}
  experiment = toys.make_experiment(toys.Toy(), changes)
  for count, steps in ((9, 3), (8, 2)):
    fold = types.SimpleNamespace(number=0, train=np.arange(count))
    state = experiment.first_state(0, fold)
    assert optax.tree.get(state.opt_state, 'epoch_steps') == steps


# By their norm over all parameters; heads may have a rate of their own.
@pytest.mark.parametrize(
  ('clip_norm', 'factor'), [(1.0, 1 / optax.tree.norm(GRADS)), (1e3, 1.0)]
)
def test_gradients_are_clipped_and_heads_have_their_rate(clip_norm, factor):
  changes = {**SGD, 'optimizer.clip_norm': clip_norm}
  changes['optimizer.head_learning_rate'] = 0.1
  (move,) = moves(steps_of(config_of(**changes), 1))
  close(move['head'], -0.1 * GRADS['head'] * factor)
  close(move['encoder']['w'], -1e-3 * GRADS['encoder']['w'] * factor, 1e-3)
  assert EmoSphere(encoder='wavlm').encoders == ('encoder',)
  message = r'head_learning_rate=0\.1: EmoSphere has no encoder here'
  with pytest.raises(ConfigError, match=message):
    step.make_optimizer(config_of(**changes), EmoSphere(encoder='frames'))


def test_the_average_is_of_the_weights_after_each_step():
  states = steps_of(config_of(**{'ema': 0.5, 'optimizer.learning_rate': 0.1}))
  params, _ = step.averaged(states[-1], 0.5)
  after = [state.params for state in states[1:]]
  expected = jax.tree.map(lambda a, b, c: (a + 2 * b + 4 * c) / 7, *after)
  close(params, expected, 1e-6)
  experiment = toys.make_experiment(Baseline(), {'ema': 0.9})
  fold = types.SimpleNamespace(number=0, train=np.arange(6))
  with pytest.raises(ConfigError, match=r'ema=0\.9: Baseline is fitted, not'):
    experiment.check(fold)


@pytest.mark.parametrize(
  ('scores', 'patience', 'stop_patience', 'expected', 'stopped'),
  [
    # An equal score is no improvement: five of them end the training.
    ([5, *[4] * 3, *[6] * 6], 3, 5, [*[1] * 3, *[0.1] * 4, *[0.01] * 3], 9),
    ([0.1] * 50, 0, 0, [1] * 50, None),
    # The published rule of DSNet.
    ([0.9] + [0.1] * 19, 15, 19, [1] * 15 + [0.1] * 5, 19),
  ],
)
def test_drop_after_patience_and_stop_after_stop_patience(
  scores, patience, stop_patience, expected, stopped
):
  rule = types.SimpleNamespace(
    factor=0.1, patience=patience, stop_patience=stop_patience
  )
  plateau, scales, stops = schedule.Plateau(), [], []
  for score in scores:
    plateau.update(score, rule)
    scales.append(plateau.scale)
    stops.append(plateau.stopped)
  np.testing.assert_allclose(scales, expected, rtol=1e-6)
  assert stops == [number == stopped for number in range(len(scores))]
