"""Work folders of trained models, written without training."""

import io
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.io.wavfile

from configs import dsnet, emosphere, timnet
from data_prep import audio, demo
from data_prep import features as features_lib
from jaxser import predict
from jaxser.core import runtime
from jaxser.data import pipeline
from jaxser.data.corpus import Corpus, Table, normalization
from jaxser.data.protocols import Fold
from jaxser.models import saved as models
from jaxser.systems import registry
from tests.random_tree import params_like, quick_jit

RECIPES = {'timnet': timnet, 'dsnet': dsnet, 'emosphere': emosphere}
SMALL = {
  'timnet': {'num_blocks': 2, 'filters': 8},
  'dsnet': {'channels': (4, 4), 'embedding': 8, 'max_frames': 160},
  'emosphere': {'width': 8},
}
SPECS = {
  'timnet': features_lib.Librosa22k(33_000),
  'dsnet': features_lib.Kaldi16k(),
  'emosphere': features_lib.Kaldi16k(),
}


class Run(NamedTuple):
  """A work folder and what was in memory when it was written."""

  workdir: pathlib.Path
  config: Any
  system: Any
  source: pipeline.Source
  folds: list[Fold]
  weights: dict[tuple[int, int, str], tuple[Any, Any]]


def write_speech(folder: pathlib.Path, count: int = 5) -> list[pathlib.Path]:
  """The first utterances of the demo corpus, one per class and speaker."""
  names = list(demo.utterance_names())[:: 240 // count][:count]
  paths = [folder / f'{name}.wav' for name in names]
  for name, path in zip(names, paths, strict=True):
    scipy.io.wavfile.write(path, 16_000, demo.synthesise(name))
  return paths


def corpus_of(
  paths: list[pathlib.Path], spec: features_lib.Convention
) -> Corpus:
  """A corpus in memory whose features are those of the files."""
  decoded = [audio.read(path)[:2] for path in paths]
  features = [spec(*item) for item in decoded]
  count, text = len(paths), np.full(len(paths), '')
  table = Table(
    ids=np.array([path.stem for path in paths]),
    labels=np.arange(count, dtype=np.int32) % len(demo.CLASSES),
    speakers=np.array([f's{i % 3}' for i in range(count)]),
    genders=text,
    texts=text,
    splits=text,
    durations=np.array([len(w) / r for w, r in decoded], np.float32),
    vad=np.full((count, 3), 4, np.float32),
  )
  info = {
    'corpus': 'demo',
    'features': spec.name,
    'parameters': spec.parameters(),
    'fingerprint': '0badcafe',
    'max_length': max(map(len, features)),
    'feature_bins': spec.bins,
    'frames_per_second': spec.frames_per_second,
    'annotators': {},
    'statistics': None,
  }
  parts = np.full(count, 'demo')
  about = 'demo', demo.CLASSES, demo.VAD_RANGE, table, {'demo': info}
  return Corpus(*about, read=features.__getitem__, parts=parts)


def write_run(
  workdir: pathlib.Path,
  name: str,
  paths: list[pathlib.Path],
  *,
  folds: int = 2,
  selections: tuple[str, ...] = ('last', 'best_on_dev'),
  **model: Any,
) -> Run:
  """Writes model.json and random weights of a small network, of these files."""
  config = RECIPES[name].get_config()
  config.model.update(SMALL[name] | model)
  config.seed = 0
  corpus, rows = corpus_of(paths, SPECS[name]), np.arange(len(paths))
  made = []
  for n in range(folds):
    train, test = rows[rows % folds != n], rows[rows % folds == n]
    made.append(Fold(n, train, train, test))
  return write_run_of(workdir, config, corpus, made, selections)


def write_run_of(
  workdir: pathlib.Path,
  config: Any,
  corpus: Corpus,
  folds: list[Fold],
  selections: tuple[str, ...],
) -> Run:
  """Writes model.json and random weights of every fold, of this corpus."""
  given = normalization(corpus, config.protocol)
  source = pipeline.Source(
    corpus, max_length=config.data.max_length, normalization=given
  )
  system = registry.create(config, corpus)
  command = 'python -m jaxser.main --config=configs/timnet.py'
  models.describe(workdir, config, system, source, folds, selections, command)
  batch = source.batch(pipeline.Slot(folds[0].test[:1], source.max_length))
  weights = {}
  for fold in folds:
    for i, selection in enumerate(selections):
      training = config.seed, fold.number, selection
      weights[training] = params_like(
        system.init, jax.random.key(0), batch, seed=10 * fold.number + i
      )
      models.save(workdir, *training, *weights[training], epoch=3)
  return Run(workdir, config, system, source, folds, weights)


def outputs(system: Any, source: pipeline.Source, *weights: Any) -> np.ndarray:
  """What a system predicts of a whole corpus."""
  rows = np.arange(len(source.corpus.table))
  batch = source.batch(pipeline.Slot(rows, source.max_length))
  name = 'vad' if system.task == 'regression' else 'scores'
  return np.asarray(quick_jit(system.predict)(*weights, batch)[name])


def predict_program(
  capsys: Any, monkeypatch: Any
) -> Callable[..., tuple[int, str, str]]:
  """Runs jaxser.predict in this process: exit code, stdout, stderr."""
  monkeypatch.setattr(runtime, 'enable_compilation_cache', lambda: None)

  def run(*arguments, stdin=b''):
    stream = types.SimpleNamespace(buffer=io.BytesIO(stdin))
    monkeypatch.setattr(sys, 'stdin', stream)
    code = predict.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()

  return run
