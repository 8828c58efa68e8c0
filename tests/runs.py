"""Synthetic runs for tests of predictions, results and pages."""

import json
import pathlib
from typing import Any
from xml.etree import ElementTree

import numpy as np

from data_prep import manifest
from jaxser.core import files
from jaxser.evaluation import results
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  Prediction,
  write_predictions,
)

CLASSES = ('angry', 'boredom', 'happy', 'sad')
SPEAKERS = ('03', '08', '09', '10', '11')
SPHERE = {'regions': 'octants', 'vad_range': [1.0, 5.0], 'centre': None}


def class_predictions(
  seeds=(0,), selections=('last', 'best_on_test'), each=12
) -> list[Prediction]:
  """One fold per speaker, `each` utterances per speaker, right in 70 %."""
  rng = np.random.default_rng(11)
  made = []
  for seed, selection, fold, i in np.ndindex(
    len(seeds), len(selections), len(SPEAKERS), each
  ):
    seed, selection = seeds[seed], selections[selection]
    speaker = SPEAKERS[fold]
    target = i % len(CLASSES)
    scores = 0.4 * rng.dirichlet(np.ones(len(CLASSES)))
    output = target if rng.random() < 0.7 else rng.integers(4)
    scores[output] += 0.6
    epoch = 500 if selection == 'last' else 100 + fold
    about = (seed, fold, selection, epoch, f'{speaker}a{i:02d}', speaker)
    made.append(Prediction(*about, CLASSES[target], CLASSES[output], scores))
  return made


def vad_predictions(seeds=(0,), selections=('last',), each=20):
  """Valence, arousal and dominance on 1 to 5, the same truth for each seed."""
  rng = np.random.default_rng(12)
  truth = rng.uniform(1, 5, (len(SPEAKERS), each, 3)).round(1)
  made = []
  for seed, selection, fold, i in np.ndindex(
    len(seeds), len(selections), len(SPEAKERS), each
  ):
    target, speaker = truth[fold, i], SPEAKERS[fold]
    output = 3 + 0.7 * (target - 3) + rng.normal(0, 0.4, 3)
    about = (seeds[seed], fold, selections[selection], 20, f'{speaker}_{i}')
    made.append(Prediction(*about, speaker, target, output))
  return made


def curve_rows(seeds=(0,), epochs=30, names=('uar', 'war')):
  """Rows of metrics.jsonl for every fold."""
  rng = np.random.default_rng(13)
  return [
    {
      **{'seed': seed, 'fold': fold, 'epoch': epoch, 'split': split},
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
  files.write_json(workdir / 'results.json', made)
  names = [f'ccc_{n}' for n in DIMENSIONS] if vad else ['uar', 'war']
  write_curves(workdir, curve_rows(seeds=made['seeds'], names=names))
  config = {'system': 'timnet', 'optimizer': {'learning_rate': 1e-3}}
  for name, content in (('config', config), ('folds', {'folds': []})):
    (workdir / f'{name}.json').write_text(json.dumps(content))
  return made


def write_heard(
  folder: pathlib.Path, predictions: list[Prediction], audio: pathlib.Path
) -> None:
  """Writes a run, and the store that says where its audio lies."""
  version = folder / 'data/emodb/egemaps-0badcafe/1.0.0'
  version.mkdir(parents=True)
  rows = [dict.fromkeys(manifest.COLUMNS, '') for _ in predictions]
  for row, p in zip(rows, predictions, strict=True):
    row.update(id=p.id, path=f'{p.id}.wav')
  lines = [manifest.COLUMNS, *(row.values() for row in rows)]
  text = '\n'.join('\t'.join(line) for line in lines)
  (version / 'manifest.tsv').write_text(text)
  info = {'corpus': 'emodb', 'classes': CLASSES, 'audio_dir': str(audio)}
  files.write_json(version / 'store.json', {**info, 'count': len(rows)})
  stores = {'emodb': {'fingerprint': '0badcafe'}}
  write_run(folder / 'w', predictions, environment={'stores': stores})
  config = {'data_dir': f'{folder}/data', 'features': {'name': 'egemaps'}}
  files.write_json(folder / 'w/config.json', config)


def write_curves(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Writes metrics.jsonl."""
  lines = [json.dumps(row) + '\n' for row in rows]
  (workdir / 'metrics.jsonl').write_text(''.join(lines))


def words(node: ElementTree.Element) -> str:
  """The text of an element of a page, markup removed."""
  return ' '.join(' '.join(node.itertext()).split())


def section(page: str, anchor: str) -> ElementTree.Element:
  """A section of a page."""
  return ElementTree.fromstring(page).find(f".//section[@id='{anchor}']")


def cells(page: str, anchor: str) -> list[list[str]]:
  """Texts of the table rows of a section of a page."""
  rows = section(page, anchor).iter('tr')
  return [[words(cell) for cell in row] for row in rows]
