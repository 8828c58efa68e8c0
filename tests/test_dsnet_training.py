"""DSNet in training: guided by the development speaker."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import dsnet
from jaxser import train
from jaxser.data import pipeline, protocols
from tests import fakes
from tests.recorder import Recorder

pytestmark = pytest.mark.slow

SMALL = {
  'model.channels': (2,),
  'model.embedding': 4,
  'model.max_frames': 8,
  'batch_size': 8,
  'epochs': 9,
  'optimizer.learning_rate': 0.01,
  'schedule.patience': 1,
  'schedule.stop_patience': 3,
}
FOLD = 1


@pytest.fixture(scope='module')
def experiment():
  config = dsnet.get_config('corpus=emodb,size=tiny')
  config.model.bins = 8
  config.update_from_flattened_dict(SMALL)
  corpus = fakes.corpus(
    speakers=4, classes=4, repeats=2, frames=8, bins=8, vary=True
  )
  return train.make_experiment(config, corpus)


@pytest.fixture(scope='module')
def fold(experiment):
  corpus = experiment.source.corpus
  return protocols.make_folds(corpus, 'speaker_independent')[FOLD]


@pytest.fixture(scope='module')
def clean(experiment, fold, tmp_path_factory):
  return Recorder(tmp_path_factory.mktemp('clean')).train(
    experiment, [(12, fold)], devices=jax.devices()[:1]
  )


def test_the_development_speaker_stops_the_training_and_selects(clean):
  scores = [row['uar'] for row in clean.rows if row['split'] == 'dev']
  # Stopped after three epochs without a better one; the first best is tested.
  best = int(np.argmax(scores))
  assert len(scores) == best + 1 + 3 < SMALL['epochs']
  predictions = clean.finished[12, FOLD].predictions
  assert predictions['best_on_dev'][0] == best + 1
  assert predictions['last'][0] == len(scores)
  assert {row['split'] for row in clean.rows} == {'train', 'dev'}
  parts = {'task', 'calibration', 'orthogonality', 'reconstruction'}
  assert all(parts <= set(r) for r in clean.rows if r['split'] == 'train')


def test_speaker_without_neutral_speech_is_an_error_before_training(
  experiment, fold
):
  table = experiment.source.corpus.table
  labels, speaker = table.labels.copy(), table.speakers[fold.train[0]]
  labels[(table.speakers == speaker) & (labels == 3)] = 0
  corpus = experiment.source.corpus
  table = dataclasses.replace(table, labels=labels)
  source = pipeline.Source(dataclasses.replace(corpus, table=table))
  other = dataclasses.replace(experiment, source=source)
  with pytest.raises(
    protocols.ProtocolError, match=f'fold 1: No neutral utter.*{speaker} in'
  ):
    other.references(fold)
