"""After training: where the models put utterances, and what that tells.

For the first seed and every fold, with the weights that the headline of the
results speaks of (the best epoch on the development side, else the last), all
sides of the fold go through the model. Out come embeddings.npz, its probes and
its 2-d views; and how a head that classifies regions of the sphere does on the
test side, which no prediction says.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors

from jaxser.data import pipeline, protocols
from jaxser.engine import experiment as context_lib
from jaxser.evaluation import embeddings, metrics, probes
from jaxser.models import saved as models
from jaxser.systems.base import Batch, System, Tree

Predict = Callable[[Tree, Tree, Batch], dict[str, jax.Array]]


def inspect(
  workdir: os.PathLike[str] | str,
  context: context_lib.Experiment,
  folds: Sequence[protocols.Fold],
) -> dict[str, Any]:
  """Writes embeddings.npz of a finished run, unless it is there already.

  In a run of several processes only the first one calls this: it uses one of
  its own devices.

  Args:
    workdir: of the run; its weights lie in models/.
    context: of the run.
    folds: that were trained.

  Returns:
    For results.json: {"seed", "selection", "measure", "emotion", "speaker",
    "region_head"}, see `jaxser.evaluation.probes.summarise`; the last one, {"accuracy",
    "macro_f1", "utterances"}, is None without such a head.

  Raises:
    ModelError: weights are missing or damaged.
    EmbeddingsError: there is an embeddings.npz that cannot be read.
  """
  seed = context.config.seed
  selection = headline(folds)
  weights = {
    str(fold.number): _digest(
      models.path_of(workdir, seed, fold.number, selection)
    )
    for fold in folds
  }
  before = embeddings.read(workdir)
  if before is None or before.about['weights'] != weights:
    about = {'seed': seed, 'selection': selection, 'weights': weights}
    before = _compute(workdir, context, folds, about)
    embeddings.write(workdir, before)
  return {
    'seed': seed,
    'selection': selection,
    'measure': 'balanced accuracy, per cent',
    **before.about['probes'],
    'region_head': before.about.get('region_head'),
  }


def headline(folds: Sequence[protocols.Fold]) -> str:
  """The selection that is both honest and the best there is."""
  developed = all(len(fold.dev) for fold in folds)
  return 'best_on_dev' if developed else 'last'


def _digest(path: pathlib.Path) -> str:
  """Hash that a weight file states of its content; '' without a file."""
  if not path.is_file():
    return ''  # Loading it will say what is missing.
  with safetensors.safe_open(path, 'numpy') as file:
    return (file.metadata() or {}).get('sha256', '')


def predictor(system: System) -> Predict:
  """(params, state, batch) -> embeddings and scores of regions."""
  names = [*system.embeddings, *filter(None, (system.region_output,))]

  def predict(params, state, batch):
    out = system.predict(params, state, batch)
    return {name: out[name] for name in names}

  return jax.jit(predict)


def embed(
  predict: Predict,
  source: pipeline.Source,
  weights: tuple[Tree, Tree],
  rows: np.ndarray,
  batch_size: int,
) -> dict[str, np.ndarray]:
  """What `predict` finds in these rows of the corpus, in their order.

  Args:
    predict: from `predictor`.
    source: the corpus.
    weights: (params, model_state), on the device.
    rows: int64 [n].
    batch_size: rows at once.

  Returns:
    Name -> float32 [n, width].
  """
  slots, order = pipeline.for_evaluation(source, rows, batch_size)
  found = [
    jax.device_get(predict(*weights, source.batch(slot))) for slot in slots
  ]
  return {
    name: np.concatenate([f[name] for f in found])[order].astype(np.float32)
    for name in found[0]
  }


def _compute(
  workdir: os.PathLike[str] | str,
  context: context_lib.Experiment,
  folds: Sequence[protocols.Fold],
  about: dict[str, Any],
) -> embeddings.Embeddings:
  corpus = context.source.corpus
  predict = predictor(context.system)
  names = np.array([*corpus.classes, ''])
  parts, found, regions = [], [], []
  for position, fold in enumerate(folds):
    weights = jax.device_put(
      models.load(workdir, about['seed'], fold.number, about['selection'])
    )
    sides = {}
    for side in embeddings.SIDES:
      rows = probes.thinned(getattr(fold, side), probes.MOST)
      # The development side is shown but not probed, so one fold's suffices.
      if not len(rows) or (side == 'dev' and position):
        continue
      labels = corpus.table.labels[rows]
      spaces = embed(
        predict,
        context.source,
        weights,
        rows,
        min(context.config.eval_batch_size, 64),
      )
      scores = spaces.pop(str(context.system.region_output), None)
      if side == 'test' and scores is not None:
        truth = corpus.table.vad[rows]
        known = np.isfinite(truth).all(-1)
        said = context.system.region_of(weights[1], truth[known])
        regions.append((np.asarray(said), np.argmax(scores[known], -1)))
      sides[side] = {
        'fold': np.full(len(rows), fold.number, np.int64),
        'id': corpus.table.ids[rows].astype(str),
        'speaker': corpus.table.speakers[rows].astype(str),
        'label': np.where(labels < 0, '', names[labels]),
        'side': np.full(len(rows), side),
        **spaces,
      }
    found.append(_probes(sides, context.system.embeddings))
    parts += sides.values() if not position else [sides['test']]
  table = {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
  spaces = {name: table.pop(name) for name in context.system.embeddings}
  first = np.flatnonzero(table['fold'] == folds[0].number)
  shown = probes.thinned(first, probes.MAPPED)
  return embeddings.Embeddings(
    **table,
    spaces=spaces,
    maps={name: _map(value, shown) for name, value in spaces.items()},
    about={
      **about,
      'names': list(context.system.embeddings),
      'probes': probes.summarise(found),
      'region_head': _region_head(regions),
    },
  )


def _region_head(
  regions: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, float | int] | None:
  """How many of the true regions, int [n] of every fold, the head said."""
  if not regions:
    return None
  said, answers = map(np.concatenate, zip(*regions, strict=True))
  if not len(said):
    return None
  size = int(max(said.max(), answers.max())) + 1
  found = metrics.Confusion.empty(size).add(said, answers).value()
  return {
    'accuracy': round(100 * found['war'], 2),
    'macro_f1': round(100 * found['f1'], 2),
    'utterances': len(said),
  }


def _probes(
  sides: dict[str, dict[str, np.ndarray]], names: Sequence[str]
) -> dict[str, Any]:
  """Both probes of one fold."""
  train, test = sides['train'], sides['test']
  of_train = {name: train[name] for name in names}
  of_test = {name: test[name] for name in names}
  return {
    'emotion': probes.emotion_probe(
      of_train, train['label'], of_test, test['label']
    ),
    'speaker': probes.speaker_probe(of_train, train['speaker']),
  }


def _map(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
  places = np.full((len(values), 2), np.nan, np.float32)
  places[shown] = probes.flat_map(values[shown])
  return places
