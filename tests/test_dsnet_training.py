"""DSNet in training: guided by the development speaker, blind to the test."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import dsnet
from jaxser import train
from jaxser.data import pipeline, protocols
from tests import fakes
from tests.recorder import Recorder, check_equal

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


def relabelled(experiment, **columns):
  """The same experiment with other columns in its table."""
  corpus = experiment.source.corpus
  table = dataclasses.replace(corpus.table, **columns)
  source = pipeline.Source(dataclasses.replace(corpus, table=table))
  return dataclasses.replace(experiment, source=source)


def trained(experiment, fold, workdir):
  return Recorder(workdir).train(
    experiment, [(12, fold)], devices=jax.devices()[:1]
  )


@pytest.fixture(scope='module')
def clean(experiment, fold, tmp_path_factory):
  return trained(experiment, fold, tmp_path_factory.mktemp('clean'))


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


def test_wrong_test_labels_change_nothing(experiment, fold, clean, tmp_path):
  table = experiment.source.corpus.table
  labels, vad = table.labels.copy(), table.vad.copy()
  labels[fold.test] = (labels[fold.test] + 1) % 4
  vad[fold.test] = np.nan
  other = relabelled(experiment, labels=labels, vad=vad)
  check_equal(trained(other, fold, tmp_path), clean, 0)


def test_speaker_without_neutral_speech_is_an_error_before_training(
  experiment, fold
):
  table = experiment.source.corpus.table
  labels, speaker = table.labels.copy(), table.speakers[fold.train[0]]
  labels[(table.speakers == speaker) & (labels == 3)] = 0
  other = relabelled(experiment, labels=labels)
  with pytest.raises(
    protocols.ProtocolError, match=f'fold 1: No neutral utter.*{speaker} on'
  ):
    other.references(fold)
