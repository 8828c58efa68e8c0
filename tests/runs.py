"""Made-up runs for tests of predictions, results and the report."""

import json
import pathlib
from typing import Any

import numpy as np

from jaxser.evaluation import results
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  Prediction,
  write_predictions,
)

CLASSES = ('angry', 'boredom', 'happy', 'sad')
SPEAKERS = ('03', '08', '09', '10', '11')


def class_predictions(
  seeds=(0,), selections=('last', 'best_on_test'), each=12
) -> list[Prediction]:
  """One fold per speaker, `each` utterances per speaker, right in 70 %."""
  rng = np.random.default_rng(11)
  made = []
  for seed in seeds:
    for selection in selections:
      for fold, speaker in enumerate(SPEAKERS):
        for i in range(each):
          target = i % len(CLASSES)
          scores = 0.4 * rng.dirichlet(np.ones(len(CLASSES)))
          answer = target if rng.random() < 0.7 else rng.integers(4)
          scores[answer] += 0.6
          made.append(
            Prediction(
              seed,
              fold,
              selection,
              500 if selection == 'last' else 100 + fold,
              f'{speaker}a{i:02d}',
              speaker,
              CLASSES[target],
              CLASSES[answer],
              scores,
            )
          )
  return made


def vad_predictions(seeds=(0,), selections=('last',), each=20):
  """Valence, arousal and dominance on 1 to 5, the same truth for each seed."""
  rng = np.random.default_rng(12)
  truth = rng.uniform(1, 5, (len(SPEAKERS), each, 3)).round(1)
  made = []
  for seed in seeds:
    for selection in selections:
      for fold, speaker in enumerate(SPEAKERS):
        for i, target in enumerate(truth[fold]):
          answer = 3 + 0.7 * (target - 3) + rng.normal(0, 0.4, 3)
          made.append(
            Prediction(
              seed,
              fold,
              selection,
              20,
              f'{speaker}_{i}',
              speaker,
              target,
              answer,
            )
          )
  return made


def curve_rows(seeds=(0,), epochs=30, names=('uar', 'war')):
  """Rows of metrics.jsonl for every fold."""
  rng = np.random.default_rng(13)
  return [
    {
      'seed': seed,
      'fold': fold,
      'epoch': epoch,
      'split': split,
      'loss': float(2 * np.exp(-epoch / 9) + 0.1 * rng.random()),
      **{name: float(1 - np.exp(-epoch / 9) * rng.random()) for name in names},
    }
    for seed in seeds
    for fold in range(len(SPEAKERS))
    for epoch in range(1, epochs + 1)
    for split in ('train', 'test')
  ]


def write_run(
  workdir: pathlib.Path, predictions: list[Prediction], **about: Any
) -> dict[str, Any]:
  """Writes the files of a finished run; returns its results."""
  vad = predictions[0].task == 'regression'
  settings = {
    'system': 'timnet',
    'corpus': 'emodb',
    'protocol': 'speaker_independent',
    'classes': () if vad else CLASSES,
    'wall_time_s': 201.4,
    'command': 'python -m jaxser.main --config=configs/timnet.py:corpus=emodb',
    'environment': {'jax': '0.10.2', 'device': 'cpu'},
    **about,
  }
  made = results.summarise(predictions, **settings)
  workdir.mkdir(parents=True, exist_ok=True)
  write_predictions(workdir / 'predictions.jsonl', predictions)
  results.write_results(workdir / 'results.json', made)
  names = [f'ccc_{n}' for n in DIMENSIONS] if vad else ['uar', 'war']
  rows = curve_rows(seeds=made['seeds'], names=names)
  (workdir / 'metrics.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  (workdir / 'config.json').write_text(
    json.dumps({'system': 'timnet', 'optimizer': {'learning_rate': 1e-3}})
  )
  (workdir / 'folds.json').write_text(json.dumps({'folds': []}))
  return made
