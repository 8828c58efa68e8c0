"""From one corpus to another, and utterances that nobody labelled."""

import dataclasses
import json

import numpy as np
import pytest

from configs import dsnet, emosphere, timnet
from jaxser.core import config as config_lib
from jaxser.data.protocols import ProtocolError
from jaxser.engine import opening, train
from jaxser.systems import registry
from tests import fakes

FAST = {'epochs': 2, 'tensorboard': False, 'embeddings': False}
SMALL = {'model.channels': (2,), 'model.embedding': 4, 'model.max_frames': 8}
ACROSS = 'cross_corpus,train=emodb,test=savee,size=tiny'


@pytest.fixture
def stored(monkeypatch):
  """Two small corpora in the place of prepared ones."""

  def open_(config, name):
    about = {'classes': 4, 'frames': 8, 'bins': 8, 'seed': len(name)}
    corpus = fakes.corpus(speakers=4 if name == 'emodb' else 2, **about)
    if name == 'manifest':
      corpus.table.labels[[2, 5]] = -1
    stores = {name: corpus.stores['fake']}
    parts = np.full(len(corpus.table), name)
    return dataclasses.replace(corpus, name=name, stores=stores, parts=parts)

  monkeypatch.setattr(opening, '_open', open_)


def _config(recipe, arg, changes):
  config = recipe.get_config(arg)
  config.update_from_flattened_dict({**FAST, **changes})
  return config


@pytest.mark.slow
def test_dsnet_tests_each_speakers_model_on_the_whole_other_corpus(
  stored, tmp_path
):
  config = _config(dsnet, ACROSS, {**SMALL, 'model.bins': 8, 'batch_size': 8})
  assert not config.select_on_test
  found = train.run(config, tmp_path)
  assert set(found['selections']) == {'last', 'best_on_dev'}
  assert (found['utterances'], found['speakers']) == (16, 2)
  entry = found['selections']['best_on_dev']
  assert [row['utterances'] for row in entry['per_fold']] == [16] * 4
  assert np.sum(entry['pooled']['confusion']) == 4 * 16
  mean = np.mean([row['uar'] for row in entry['per_fold']])
  assert entry['fold_mean']['uar']['mean'] == pytest.approx(mean, abs=0.01)
  folds = json.loads((tmp_path / 'folds.json').read_text())['folds']
  for fold in folds:
    assert len(fold['dev_speakers']) == 1
    assert fold['test_speakers'] == ['savee/s0', 'savee/s1']


def test_a_schedule_needs_the_side_that_it_follows(stored, tmp_path):
  config = _config(dsnet, ACROSS, {'cross_corpus_train': 'all'})
  message = r'name=plateau follows .* fold 0 has none'
  with pytest.raises(config_lib.ConfigError, match=message):
    train.run(config, tmp_path)


@pytest.mark.parametrize('recipe', [dsnet, emosphere, timnet])
def test_the_task_known_before_there_is_a_system_is_its_own(recipe, stored):
  config = recipe.get_config('corpus=emodb')
  corpus = opening.open_corpus(config)
  assert registry.task(config) == registry.create(config, corpus).task


def test_regression_keeps_them(stored):
  config = emosphere.get_config('corpus=manifest')
  config.protocol, config.num_folds = 'published', 2
  corpus = opening.open_corpus(config)
  assert len(corpus.table) == 16
  # Nor need a fold have every class.
  corpus.table.labels[:] = 1
  assert len(train.make_folds(config, corpus)) == 2
  config = timnet.get_config('corpus=manifest,protocol=published')
  message = r'fold 0: no training utterance of .*angry'
  with pytest.raises(ProtocolError, match=message):
    train.make_folds(config, corpus)
