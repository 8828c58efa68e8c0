"""Systems by name: published ones, and one of the user's own."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common, dsnet, emosphere, timnet
from jaxser.core.config import ConfigError
from jaxser.core.errors import ConvertError
from jaxser.systems import registry
from jaxser.systems.base import Progress
from tests import fakes
from tests.own_system import MySystem
from tests.random_tree import quick_jit

CORPUS = fakes.corpus(bins=6)
LENGTHS = np.full(len(CORPUS.table), 9)


def _own_config(name='tests.own_system:MySystem', **model):
  config = common.base_config('timnet', dict(common.ARGUMENTS))
  config.system = name
  config.model.update(model)
  return config


def test_a_system_outside_of_the_package_trains_and_predicts():
  config = _own_config(dropout=0.2)
  assert registry.task(config) == 'classification'
  system = registry.create(config, CORPUS)
  assert system == MySystem(num_classes=len(CORPUS.classes), dropout=0.2)
  assert registry.build(config.system, system.settings()) == system
  assert registry.pretrained(config, system) is None
  registry.check(system, CORPUS, LENGTHS)
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, 12).astype(np.int32)
  batch = {
    'features': label[:, None, None] + 0.1 * rng.normal(size=(12, 9, 6)),
    'length': rng.integers(3, 10, 12),
    'label': label,
    'mask': np.ones(12, np.float32),
    'row': np.arange(12),
  }
  optimizer = optax.adam(0.05)

  def step(carry, number):
    params, state, opt_state = carry
    (value, aux), grads = jax.value_and_grad(system.loss, has_aux=True)(
      params, state, batch, jax.random.key(number), Progress(number, number)
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return (params, aux['state'], opt_state), value

  params, state = system.init(jax.random.key(0), batch)
  carry = params, state, optimizer.init(params)
  scan = quick_jit(functools.partial(jax.lax.scan, step))
  (params, state, _), losses = scan(carry, jnp.arange(60))
  assert losses[-1] < 0.5 * losses[0]
  scores = system.predict(params, state, batch)['scores']
  np.testing.assert_array_equal(np.argmax(scores, -1), label)
  with pytest.raises(ConvertError, match='MySystem reads no files of'):
    system.load_foreign('w.bin')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('resnet', "config.system='resnet' is unknown .*timnet, dsnet, emosphere"),
    ('tests.nowhere:MySystem', 'No module named'),
    ('tests.own_system:Other', "has no attribute 'Other'"),
    ('tests.own_system:nn', 'not a subclass of jaxser.systems.base.System'),
  ],
)
def test_unknown_systems_are_named(name, message):
  with pytest.raises(ConfigError, match=message):
    registry.task(_own_config(name))


@pytest.mark.parametrize(
  ('recipe', 'change', 'message'),
  [
    (timnet, {'num_blocks': 0}, 'num_blocks=0; it must be at least 1'),
    (timnet, {'dropout': 1.0}, 'dropout=1.0; it must be from 0 to below 1'),
    (timnet, {'ablation': 'no_df'}, "ablation='no_df'; it must be one of"),
    (timnet, {'depth': 3}, "unexpected keyword argument 'depth'"),
    (dsnet, {'variant': 'dann'}, "variant='dann'; it must be one of"),
    (dsnet, {'max_frames': 3}, 'max_frames=3; it must be at least 16: 4 sta'),
    (dsnet, {'bins': 2}, 'bins=2; it must be at least 16'),
    (dsnet, {'compute_dtype': 'half'}, "compute_dtype='half'; it must be"),
    (dsnet, {'precision': 'low'}, "precision='low'; it must be one of"),
    (dsnet, {'dat_speakers': 'dev'}, "dat_speakers='dev'; it must be one of"),
    (emosphere, {'encoder': 'mfcc'}, "encoder='mfcc'; it must be one of"),
  ],
)
def test_impossible_settings_are_named(recipe, change, message):
  config = recipe.get_config()
  with config.unlocked():
    config.model.update(change)
  with pytest.raises(ConfigError, match=message):
    registry.create(config, CORPUS)


@pytest.mark.parametrize(
  ('recipe', 'message'),
  [
    (timnet, "'fake': TIM-Net needs frames of at least 39 mels"),
    (dsnet, "'fake': DSNet needs frames of 80 numbers.*kaldi16k"),
  ],
)
def test_corpora_that_do_not_fit_are_refused(recipe, message):
  config = recipe.get_config()
  with pytest.raises(ConfigError, match="corpus 'msp' has no classes"):
    registry.create(config, types.SimpleNamespace(name='msp', classes=()))
  system = registry.create(config, CORPUS)
  with pytest.raises(ConfigError, match=message):
    registry.check(system, CORPUS, LENGTHS)
