"""Systems by name: published ones, and one of the user's own."""

import types

import numpy as np
import pytest

from configs import common, dsnet, timnet
from jaxser.core.config import ConfigError
from jaxser.core.errors import ConvertError
from jaxser.data import protocols
from jaxser.systems import registry
from tests import fakes, toys
from tests.own_system import MySystem
from tests.recorder import Recorder

CORPUS = fakes.corpus(bins=6)
LENGTHS = np.full(len(CORPUS.table), 9)


def _own_config(name='tests.own_system:MySystem', **model):
  config = common.base_config('timnet', dict(common.ARGUMENTS))
  config.system = name
  config.model.update(model)
  return config


def test_a_system_outside_of_the_package_trains_and_predicts(tmp_path):
  config = _own_config(dropout=0.2)
  assert registry.task(config) == 'classification'
  system = registry.create(config, CORPUS)
  assert system == MySystem(num_classes=len(CORPUS.classes), dropout=0.2)
  assert registry.build(config.system, system.settings()) == system
  assert registry.pretrained(config, system) is None
  registry.check(system, CORPUS, LENGTHS)
  changes = {'epochs': 20, 'batch_size': 8, 'optimizer.learning_rate': 0.05}
  config.update_from_flattened_dict(changes)
  experiment = toys.experiment_of(config, system, CORPUS)
  fold = protocols.make_folds(CORPUS, 'speaker_independent')[0]
  found = Recorder(tmp_path).train(experiment, [(0, fold)])
  losses = [row['loss'] for row in found.rows if row['split'] == 'train']
  assert losses[-1] < 0.5 * losses[0]
  scores = found.finished[0, 0].predictions['last'][1]
  assert (np.argmax(scores, -1) == CORPUS.table.labels[fold.test]).all()
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
