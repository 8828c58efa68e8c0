"""After training: where the models put utterances, and what that tells.

With the weights of the first seed that the headline of the results speaks of:
out come embeddings.npz, its probes and 2-d views, and how well a head that
classifies regions of the sphere does on the test split, which no prediction
says.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors

from jaxser.data import pipeline
from jaxser.data.protocols import Fold
from jaxser.engine.experiment import Experiment
from jaxser.evaluation import embeddings, metrics, probes
from jaxser.evaluation.results import rounded
from jaxser.models import saved as models


def inspect(workdir, experiment: Experiment, folds: Sequence[Fold]) -> dict:
  """Writes embeddings.npz of a finished run, unless it is there already.

  Returns for results.json the seed, selection and measure, the probes, and the
  scores of the head for regions, None without one. Of several processes only
  the first one calls this.
  """
  seed, selection = experiment.config.seed, headline(folds)
  weights = {}
  for fold in folds:
    path = models.path_of(workdir, seed, fold.number, selection)
    weights[str(fold.number)] = ''
    if path.is_file():  # Else loading it will say what is missing.
      with safetensors.safe_open(path, 'numpy') as file:
        weights[str(fold.number)] = (file.metadata() or {}).get('sha256', '')
  found = embeddings.read(workdir)
  if found is None or found.about['weights'] != weights:
    about = {'seed': seed, 'selection': selection, 'weights': weights}
    found = _compute(workdir, experiment, folds, about)
    embeddings.write(workdir, found)
  return {
    'seed': seed,
    'selection': selection,
    'measure': 'balanced accuracy, per cent',
    **found.about['probes'],
    'region_head': found.about.get('region_head'),
  }


def headline(folds: Sequence[Fold]) -> str:
  """Returns the selection that is both honest and the best there is."""
  developed = all(len(fold.dev) for fold in folds)
  return 'best_on_dev' if developed else 'last'


def _embedder(experiment: Experiment) -> Callable[..., dict[str, np.ndarray]]:
  """Returns (weights, rows, split) -> embeddings and region scores."""
  system, source = experiment.system, experiment.source
  names = [*system.embeddings, *filter(None, (system.region_output,))]
  size = min(experiment.config.eval_batch_size, 64)

  @jax.jit
  def predict(weights, batch):
    out = system.predict(*weights, batch)
    return {name: out[name] for name in names}

  def embed(weights, rows, split):
    beside = {
      name: references[np.isin(split, rows)]
      for name, references in experiment.predicted_with(split).items()
    }
    slots, places = pipeline.for_evaluation(source, rows, size, beside)
    batches = map(source.batch, slots)
    outputs = [jax.device_get(predict(weights, batch)) for batch in batches]
    whole = {n: np.concatenate([out[n] for out in outputs]) for n in names}
    return {n: x[places].astype(np.float32) for n, x in whole.items()}

  return embed


def _compute(workdir, experiment, folds, about) -> embeddings.Embeddings:
  system, corpus = experiment.system, experiment.source.corpus
  embed, class_names = _embedder(experiment), np.array([*corpus.classes, ''])
  parts: list[Any] = []
  probed, regions = [], []
  for position, fold in enumerate(folds):
    name = about['seed'], fold.number, about['selection']
    weights = jax.device_put(models.load(workdir, *name))
    splits = {}
    for split in embeddings.SIDES:
      whole = getattr(fold, split)
      rows = probes.subsampled(whole, probes.MOST)
      # The development split is shown but not probed, so one fold's suffices.
      if not len(rows) or (split == 'dev' and position):
        continue
      labels = corpus.table.labels[rows]
      spaces = embed(weights, rows, whole)
      scores = spaces.pop(str(system.region_output), None)
      if split == 'test' and scores is not None:
        vad = corpus.table.vad[rows]
        known = np.isfinite(vad).all(-1)
        target = system.region_of(weights[1], vad[known])
        regions.append((np.asarray(target), np.argmax(scores[known], -1)))
      splits[split] = {
        'fold': np.full(len(rows), fold.number, np.int64),
        'id': corpus.table.ids[rows].astype(str),
        'speaker': corpus.table.speakers[rows].astype(str),
        'label': np.where(labels < 0, '', class_names[labels]),
        'side': np.full(len(rows), split),
        **spaces,
      }
    train, test = splits['train'], splits['test']
    of_train, of_test = (
      {name: side[name] for name in system.embeddings} for side in (train, test)
    )
    ours, theirs = (of_train, train['label']), (of_test, test['label'])
    emotion = probes.emotion_probe(*ours, *theirs)
    speaker = probes.speaker_probe(of_train, train['speaker'])
    probed.append({'emotion': emotion, 'speaker': speaker})
    parts += splits.values() if not position else [test]
  table = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
  spaces = {name: table.pop(name) for name in system.embeddings}
  first = np.flatnonzero(table['fold'] == folds[0].number)
  shown = probes.subsampled(first, probes.MAPPED)
  about |= {
    'names': list(system.embeddings),
    'probes': probes.summarise(probed),
    'region_head': _region_head(regions),
  }
  maps = {name: _map(shown, value) for name, value in spaces.items()}
  return embeddings.Embeddings(**table, spaces=spaces, maps=maps, about=about)


def _region_head(regions: Sequence[Any]) -> dict[str, float | None] | None:
  """Scores the predicted regions of all folds; (targets, outputs), int [n]."""
  if not sum(len(targets) for targets, _ in regions):
    return None
  targets, predicted = map(np.concatenate, zip(*regions, strict=True))
  count = int(max(targets.max(), predicted.max())) + 1
  confusion = metrics.confusion(targets, predicted, count)
  return {
    'accuracy': rounded(metrics.war(confusion)),
    'macro_f1': rounded(metrics.macro_f1(confusion)),
    'utterances': len(targets),
  }


def _map(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Returns places in two dimensions, [n, 2]; NaN but for some rows."""
  places = np.full((len(values), 2), np.nan, np.float32)
  places[rows] = probes.tsne_2d(values[rows])
  return places
