"""The run: a config names corpus, protocol, features and system; out come
per-utterance predictions, and every number is computed from them.
"""

import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

import flax
import jax
import ml_collections
import numpy as np
import optax

import jaxser
from jaxser import (
  checkpoints,
  convert,
  curves,
  interruption,
  mesh,
  predictions,
  progress,
  report,
  results,
  step,
)
from jaxser import config as config_lib
from jaxser import fold as fold_lib
from jaxser.data import opening, pipeline, protocols
from jaxser.data.corpus import Corpus
from jaxser.evaluation import Evaluator
from jaxser.systems import registry


def run(
  config: ml_collections.ConfigDict,
  workdir: os.PathLike[str] | str,
  mode: str = 'train',
) -> dict[str, Any]:
  """Trains (or only evaluates) every fold of every seed, and reports.

  The work folder then holds config.json, folds.json, metrics.jsonl,
  predictions.jsonl, results.json, report.html, checkpoints/ and tensorboard/.
  The same call continues an interrupted run and ends with the same bits.

  Args:
    config: a resolved config, see configs/.
    workdir: where everything is written.
    mode: 'train', or 'evaluate' to test the weights of config.init_from.

  Returns:
    The content of results.json.

  Raises:
    ConfigError, StoreError, ProtocolError, ConvertError, CheckpointError: each
      names the file or field, the value, and what to do.
    Interrupted: on Ctrl-C or SIGTERM, after saving the position.
  """
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  config_lib.validate(config)
  config_lib.claim(config, workdir)
  corpus = opening.open_corpus(config)
  folds = make_folds(config, corpus)
  protocols.write_folds(
    workdir / 'folds.json',
    protocols.folds_to_json(
      folds, corpus, protocol=config.protocol, seed=config.fold_seed
    ),
  )
  chosen = choose_folds(folds, config.fold_subset)
  context = make_context(config, corpus, chosen)
  for fold in chosen:
    # Hours of training should not precede an error in the last fold.
    fold_lib.neutral_partners(context, fold)
  if mode == 'evaluate':
    rows = evaluate_given(context, chosen)
  else:
    rows = train_all(context, chosen, workdir)
  about = describe(config, corpus, time.monotonic() - start)
  return finish(rows, context, about, workdir)


def make_folds(
  config: ml_collections.ConfigDict, corpus: Corpus
) -> list[protocols.Fold]:
  """Folds read from config.folds, or made by the protocol."""
  if config.folds:
    return protocols.read_folds(config.folds, corpus)
  return protocols.make_folds(
    corpus,
    config.protocol,
    num_folds=config.num_folds,
    seed=config.fold_seed,
    test_corpus=config.test_corpus,
    cross_corpus_dev=config.cross_corpus_dev,
  )


def choose_folds(
  folds: list[protocols.Fold], subset: Iterable[int]
) -> list[protocols.Fold]:
  """The folds of config.fold_subset, or all.

  Raises:
    ConfigError: for a fold that the protocol does not have.
  """
  numbers = {fold.number: fold for fold in folds}
  unknown = [n for n in subset if n not in numbers]
  if unknown:
    raise config_lib.ConfigError(
      f'--config.fold_subset names {unknown}; the protocol has folds '
      f'{sorted(numbers)}.'
    )
  return [numbers[n] for n in subset] if subset else folds


def make_context(
  config: ml_collections.ConfigDict,
  corpus: Corpus,
  folds: list[protocols.Fold],
) -> fold_lib.Context:
  """What all trainings of the run share."""
  system = registry.create(config, corpus)
  placement = mesh.Placement(config.parallel)
  source = pipeline.Source(
    corpus,
    max_length=config.data.max_length,
    cache_gib=config.data.cache_gib,
    normalization=normalization(corpus, config.protocol),
  )
  largest = max(max(len(f.dev), len(f.test)) for f in folds)
  return fold_lib.Context(
    config=config,
    system=system,
    optimizer=step.make_optimizer(config.optimizer),
    placement=placement,
    source=source,
    evaluator=Evaluator.create(
      system, source, placement, min(config.eval_batch_size, largest)
    ),
  )


def normalization(corpus: Corpus, protocol: str) -> tuple[float, float] | None:
  """Mean and deviation of a waveform store's training samples, else None."""
  info = next(iter(corpus.stores.values()))
  if info.get('statistics') is None:
    return None
  by_split = info.get('statistics_by_split') or {}
  official = protocol == 'official' and 'train' in by_split
  found = by_split['train'] if official else info['statistics']
  return found['mean'], found['std']


def train_all(
  context: fold_lib.Context, folds: list[protocols.Fold], workdir: pathlib.Path
) -> list[predictions.Prediction]:
  """Trains what an earlier run of the same command has not finished."""
  config = context.config
  trainings = [
    (seed, fold)
    for seed in range(config.seed, config.seed + config.seeds)
    for fold in folds
  ]
  done = [t for t in trainings if _part(workdir, *t).exists()]
  finished = {(seed, fold.number) for seed, fold in done}
  writer = curves.Curves(workdir, tensorboard=config.tensorboard)
  kept = [r for r in writer.read() if (r['seed'], r['fold']) in finished]
  writer.keep(kept)
  bar = progress.Progress(len(trainings) * config.epochs)
  bar.skip(len(done) * config.epochs)
  initial = given_weights(context, folds)
  with interruption.Watch() as watch:
    for seed, fold in trainings:
      if (seed, fold.number) in finished:
        continue
      name = curves.run_name(seed, fold.number)
      training = fold_lib.FoldTraining(
        context, seed, fold, initial and initial[fold.number]
      )
      with checkpoints.Checkpoints(workdir / 'checkpoints' / name) as store:
        if store.latest is not None:
          training.restore(store)
          bar.note(f'{name}: continues after epoch {training.epoch}')
          bar.skip(training.epoch)
          writer.keep([*writer.read(), *training.curve])
        training.run(store, writer, bar, watch)
      bar.skip(config.epochs - training.epoch)
      rows = predicted(context, seed, fold, training.answers())
      predictions.write_predictions(_part(workdir, seed, fold), rows)
  writer.close()
  bar.close()
  return [
    row
    for training in trainings
    for row in predictions.read_predictions(_part(workdir, *training))
  ]


def _part(
  workdir: pathlib.Path, seed: int, fold: protocols.Fold
) -> pathlib.Path:
  """Predictions of one finished fold; its presence says that it is done."""
  return workdir / 'folds' / f'{curves.run_name(seed, fold.number)}.jsonl'


def given_weights(
  context: fold_lib.Context, folds: list[protocols.Fold]
) -> dict[int, tuple[Any, Any]] | None:
  """(params, model_state) by fold from config.init_from, or None.

  Raises:
    ConfigError: if the file holds neither one model nor one for every fold.
  """
  path = context.config.init_from
  if not path:
    return None
  models = convert.load(context.system, path)
  last = max(fold.number for fold in folds)
  if len(models) == 1:
    models = models * (last + 1)
  if len(models) <= last:
    raise config_lib.ConfigError(
      f'--config.init_from={path} holds {len(models)} models; the run has folds '
      f'up to {last}. Give a file with one model, or with one for every fold.'
    )
  return {fold.number: models[fold.number] for fold in folds}


def evaluate_given(
  context: fold_lib.Context, folds: list[protocols.Fold]
) -> list[predictions.Prediction]:
  """Tests the weights of config.init_from, fold by fold, without training."""
  weights = given_weights(context, folds)
  if weights is None:
    raise config_lib.ConfigError(
      '--mode=evaluate needs weights: give --config.init_from=FILE. To see the '
      'results of a finished run again, repeat its command.'
    )
  put, rows = context.placement.put_state, []
  for fold in folds:
    answers = context.evaluator.answers(*put(weights[fold.number]), fold.test)
    given = {'init_from': (None, answers)}
    rows += predicted(context, context.config.seed, fold, given)
  return rows


def predicted(
  context: fold_lib.Context,
  seed: int,
  fold: protocols.Fold,
  answers: dict[str, tuple[int | None, np.ndarray]],
) -> list[predictions.Prediction]:
  """One prediction per selection and test utterance."""
  corpus, rows = context.source.corpus, []
  regression = context.system.task == 'regression'
  for selection, (epoch, values) in answers.items():
    for row, value in zip(fold.test, values, strict=True):
      if regression:
        if not np.isfinite(corpus.table.vad[row]).all():
          continue  # Nobody said what is right; see the manifest.
        said = {'target': corpus.table.vad[row], 'prediction': value}
      else:
        said = {
          'target': corpus.classes[corpus.table.labels[row]],
          'prediction': corpus.classes[int(np.argmax(value))],
          'scores': value,
        }
      rows.append(
        predictions.Prediction(
          seed=seed,
          fold=fold.number,
          selection=selection,
          epoch=epoch,
          id=str(corpus.table.ids[row]),
          speaker=str(corpus.table.speakers[row]),
          **said,
        )
      )
  return rows


def describe(
  config: ml_collections.ConfigDict, corpus: Corpus, seconds: float
) -> dict[str, Any]:
  """What results.json says besides the results."""
  return {
    'system': config.system,
    'corpus': corpus.name,
    'protocol': config.protocol,
    'paper': {name: dict(row) for name, row in config.paper.items()},
    'wall_time_s': round(seconds, 1),
    'command': shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]]),
    'environment': {
      'jaxser': jaxser.__version__,
      'python': platform.python_version(),
      'jax': jax.__version__,
      'flax': flax.__version__,
      'optax': optax.__version__,
      'numpy': np.__version__,
      'backend': jax.default_backend(),
      'device': jax.devices()[0].device_kind,
      'devices': jax.device_count(),
      'processes': jax.process_count(),
      'stores': {
        name: {'fingerprint': info['fingerprint'], **info['parameters']}
        for name, info in corpus.stores.items()
      },
    },
    'demo': 'demo' in corpus.stores,
  }


def finish(
  rows: list[predictions.Prediction],
  context: fold_lib.Context,
  about: dict[str, Any],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Writes predictions.jsonl, results.json and report.html."""
  regression = context.system.task == 'regression'
  predictions.write_predictions(workdir / 'predictions.jsonl', rows)
  summary = results.summarise(
    rows,
    classes=() if regression else context.source.corpus.classes,
    **about,
  )
  results.write_results(workdir / 'results.json', summary)
  report.write_report(workdir)
  return summary
