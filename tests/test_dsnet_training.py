"""DSNet in training: guided by the development speaker, blind to the test."""

import dataclasses
import functools
import io

import jax
import numpy as np
import pytest

from configs import dsnet
from jaxser import train
from jaxser.core import progress
from jaxser.data import pipeline, protocols
from jaxser.engine import context as context_lib
from jaxser.engine import interruption, mesh
from jaxser.engine import stream as fold_lib
from jaxser.engine.evaluator import Evaluator
from jaxser.engine.folds import engine as engine_lib
from jaxser.engine.folds import run as folds_run
from jaxser.evaluation import curves
from tests import fakes

pytestmark = pytest.mark.slow

SMALL = {
  'model.channels': (2,),
  'model.embedding': 4,
  'model.max_frames': 8,
  'batch_size': 8,
  'epochs': 9,
  'checkpoint_every': 4,
  'optimizer.learning_rate': 0.01,
  'schedule.patience': 1,
  'schedule.stop_patience': 3,
}
EPOCHS = SMALL['epochs']
FOLD = 1


@functools.cache
def clean():
  """The context of a run, its corpus and the fold that is trained."""
  config = dsnet.get_config('corpus=emodb,size=tiny')
  config.model.bins = 8
  config.update_from_flattened_dict(SMALL)
  corpus = fakes.corpus(
    speakers=4, classes=4, repeats=2, frames=8, bins=8, vary=True
  )
  fold = protocols.make_folds(corpus, 'speaker_independent')[FOLD]
  context = train.make_context(config, corpus, [fold])
  # One device: programs for eight take far longer to compile.
  placement = mesh.Placement('jit', jax.devices()[:1])
  evaluator = Evaluator.create(
    context.system, context.source, placement, len(fold.test)
  )
  return dataclasses.replace(
    context, placement=placement, evaluator=evaluator
  ), fold


def poisoned():
  """The same, but nothing said of the test utterances is true."""
  context, fold = clean()
  corpus = context.source.corpus
  labels = corpus.table.labels.copy()
  labels[fold.test] = (labels[fold.test] + 1) % 4
  vad = corpus.table.vad.copy()
  vad[fold.test] = np.nan
  corpus = dataclasses.replace(
    corpus, table=dataclasses.replace(corpus.table, labels=labels, vad=vad)
  )
  source = pipeline.Source(corpus, max_length=context.source.max_length)
  # Compiled functions know no corpus, so they are shared.
  evaluator = dataclasses.replace(context.evaluator, source=source)
  return dataclasses.replace(context, source=source, evaluator=evaluator)


class Recorder:
  """A run that keeps in memory what was found; can ask to stop."""

  def __init__(self, workdir, stop_after=None):
    self._stop_after, self._asks = stop_after, 0
    self.run = context_lib.Run(
      workdir,
      curves.Curves(workdir, tensorboard=False),
      progress.Progress(1, io.StringIO()),
      self,
      self._finish,
    )

  def asked(self):
    self._asks += 1
    return 15 if self._stop_after and self._asks > self._stop_after else None

  def _finish(self, seed, fold, answers, weights):
    self.answers, self.weights = answers, weights


def trained(engine, context, workdir, recorder=None):
  """What the training ends with: (curve, answers, weights)."""
  trainings = [(12, clean()[1])]
  recorder = recorder or Recorder(workdir)
  recorder.run.writer.keep([])
  if engine == 'stream':
    fold_lib.train(context, trainings, None, recorder.run)
  else:
    devices = jax.devices()[:1]
    compiled = engine_lib.Engine(context, trainings, devices=devices)
    folds_run.train(compiled, context, trainings, trainings, None, recorder.run)
  return recorder.run.writer.read(), recorder.answers, recorder.weights


def assert_same(got, want):
  assert got[0] == want[0]
  jax.tree.map(np.testing.assert_array_equal, got[1:], want[1:])


@pytest.fixture(scope='module')
def streamed(tmp_path_factory):
  return trained('stream', clean()[0], tmp_path_factory.mktemp('stream'))


def test_the_development_speaker_stops_the_training_and_selects(streamed):
  curve, answers, _ = streamed
  scores = [row['uar'] for row in curve if row['split'] == 'dev']
  # Stopped after three epochs without a better one; the first best is tested.
  best = int(np.argmax(scores))
  assert len(scores) == best + 1 + 3 < EPOCHS
  assert answers['best_on_dev'][0] == best + 1
  assert answers['last'][0] == len(scores)
  assert {row['split'] for row in curve} == {'train', 'dev'}
  parts = {'task', 'calibration', 'orthogonality', 'reconstruction'}
  assert all(parts <= set(row) for row in curve if row['split'] == 'train')


@pytest.mark.parametrize('engine', ['stream', 'folds'])
def test_poisoned_test_labels_change_no_bit(engine, streamed, tmp_path):
  context, fold = clean()
  other = poisoned()
  scores = streamed[1]['best_on_dev'][1]
  said = context.evaluator.score(scores, fold.test)
  assert other.evaluator.score(scores, fold.test) != said, 'no poison'
  if engine == 'stream':
    want = streamed
  else:
    want = trained(engine, context, tmp_path / 'clean')
  assert_same(trained(engine, other, tmp_path / 'poisoned'), want)


def test_speaker_without_neutral_speech_is_an_error_before_training():
  context, fold = clean()
  corpus = context.source.corpus
  speakers, labels = corpus.table.speakers, corpus.table.labels.copy()
  speaker = speakers[fold.train[0]]
  labels[(speakers == speaker) & (labels == 3)] = 0
  corpus = dataclasses.replace(
    corpus, table=dataclasses.replace(corpus.table, labels=labels)
  )
  other = dataclasses.replace(context, source=pipeline.Source(corpus))
  with pytest.raises(
    protocols.ProtocolError, match=f'fold 1: No neutral utter.*{speaker} on'
  ):
    context_lib.neutral_partners(other, fold)


def test_resumes_with_the_state_of_the_schedule(streamed, tmp_path):
  """Interrupted twice, in the middle of epochs, after a drop."""
  context = clean()[0]
  steps = len([r for r in streamed[0] if r['split'] == 'dev']) * 2
  for stop_after in (steps - 3, 1):
    with pytest.raises(interruption.Interrupted):
      trained('stream', context, tmp_path, Recorder(tmp_path, stop_after))
  assert_same(trained('stream', context, tmp_path), streamed)
