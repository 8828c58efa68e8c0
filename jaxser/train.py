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
from jaxser import report
from jaxser.core import config as config_lib
from jaxser.core import progress
from jaxser.data import opening, pipeline, protocols
from jaxser.data.corpus import Corpus, normalization
from jaxser.engine import context as context_lib
from jaxser.engine import distributed, inspection, interruption, mesh, step
from jaxser.engine import stream as fold_lib
from jaxser.engine.evaluator import Evaluator
from jaxser.engine.folds import choice
from jaxser.engine.folds import run as folds_run
from jaxser.evaluation import curves, predictions, results
from jaxser.models import pretrained
from jaxser.models import saved as models
from jaxser.systems import registry


def run(
  config: ml_collections.ConfigDict,
  workdir: os.PathLike[str] | str,
  mode: str = 'train',
  command: str = '',
) -> dict[str, Any]:
  """Trains (or only evaluates) every fold of every seed, and reports.

  The work folder then holds config.json, folds.json, metrics.jsonl,
  predictions.jsonl, results.json, embeddings.npz, report.html, model.json,
  models/, checkpoints/ and tensorboard/.
  The same call continues an interrupted run and ends with the same bits. With
  several processes all of them call it, with a work folder that they share;
  process 0 writes.

  Args:
    config: a resolved config, see configs/.
    workdir: where everything is written.
    mode: 'train', or 'evaluate' to test the weights of config.init_from.
    command: that does the same, for the record; default this process' own.

  Returns:
    The content of results.json; empty on all processes but 0.

  Raises:
    ConfigError, StoreError, ProtocolError, ConvertError, CheckpointError,
      DistributedError: each names the file or field, the value, and what to do.
    Interrupted: on Ctrl-C or SIGTERM, after saving the position.
  """
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  config_lib.validate(config)
  writes = distributed.is_main()
  if writes:
    config_lib.claim(config, workdir)
  # The first to come makes the demo corpus.
  corpus = distributed.main_first(
    lambda: opening.open_corpus(config), 'the corpus is open'
  )
  config_lib.check_shared(config, workdir)
  folds = make_folds(config, corpus)
  if writes:
    protocols.write_folds(
      workdir / 'folds.json',
      protocols.folds_to_json(
        folds, corpus, protocol=config.protocol, seed=config.fold_seed
      ),
    )
  chosen = choose_folds(folds, config.fold_subset)
  check_schedule(config, chosen, mode)
  context = make_context(config, corpus, chosen)
  for fold in chosen:
    # Hours of training should not precede an error in the last fold.
    context_lib.neutral_partners(context, fold)
  engine, probed = None, None
  if mode == 'evaluate':
    rows = evaluate_given(context, chosen, workdir, command)
  else:
    selections = ['last']
    if any(len(fold.dev) for fold in chosen):
      selections.append('best_on_dev')
    if config.select_on_test:
      selections.append('best_on_test')
    describe_models(context, chosen, selections, workdir, command)
    rows, engine = train_all(context, chosen, workdir)
    if writes and config.embeddings:
      probed = inspection.inspect(workdir, context, chosen)
  about = describe(config, corpus, time.monotonic() - start, command)
  about['environment']['engine'] = engine
  about['probes'] = probed
  summary = finish(rows, context, about, workdir) if writes else {}
  distributed.barrier('the results are written')
  return summary


def make_folds(
  config: ml_collections.ConfigDict, corpus: Corpus
) -> list[protocols.Fold]:
  """Folds read from config.folds, or made by the protocol."""
  # Who regresses learns no class, so none need be there.
  every_class = registry.task(config) == 'classification'
  if config.folds:
    return protocols.read_folds(config.folds, corpus, every_class)
  return protocols.make_folds(
    corpus,
    config.protocol,
    num_folds=config.num_folds,
    seed=config.fold_seed,
    test_corpus=config.test_corpus,
    cross_corpus_train=config.cross_corpus_train,
    every_class=every_class,
    emobox_dir=config.emobox_dir,
    emobox_dev=config.emobox_dev,
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


def check_schedule(
  config: ml_collections.ConfigDict, folds: list[protocols.Fold], mode: str
) -> None:
  """Raises ConfigError if the schedule waits for scores that nobody makes."""
  lacking = [fold.number for fold in folds if not len(fold.dev)]
  if mode == 'train' and config.schedule.name == 'plateau' and lacking:
    raise config_lib.ConfigError(
      '--config.schedule.name=plateau follows the development side, and fold '
      f'{lacking[0]} has none; choose --config.schedule.name=constant, or folds '
      'with a development side.'
    )


def make_context(
  config: ml_collections.ConfigDict,
  corpus: Corpus,
  folds: list[protocols.Fold],
) -> context_lib.Context:
  """What all trainings of the run share."""
  system = registry.create(config, corpus)
  placement = mesh.Placement(config.parallel)
  source = pipeline.Source(
    corpus,
    max_length=config.data.max_length,
    cache_gib=config.data.cache_gib,
    normalization=normalization(corpus, config.protocol),
    buckets=config.data.buckets,
    num_buckets=config.data.num_buckets,
  )
  registry.check(config, system, corpus, source.lengths)
  largest = max(max(len(f.dev), len(f.test)) for f in folds)
  return context_lib.Context(
    config=config,
    system=system,
    optimizer=step.make_optimizer(config.optimizer),
    placement=placement,
    source=source,
    pretrained=registry.pretrained(config, system),
    evaluator=Evaluator.create(
      system, source, placement, min(config.eval_batch_size, largest)
    ),
  )


def describe_models(
  context: context_lib.Context,
  folds: list[protocols.Fold],
  selections: list[str],
  workdir: pathlib.Path,
  command: str,
) -> None:
  """Writes model.json, see `jaxser.models.saved.describe`."""
  config, corpus = context.config, context.source.corpus
  models.describe(
    workdir,
    config,
    context.system,
    corpus,
    folds,
    selections=selections,
    max_length=context.source.max_length,
    normalization=normalization(corpus, config.protocol),
    command=command,
  )


def train_all(
  context: context_lib.Context,
  folds: list[protocols.Fold],
  workdir: pathlib.Path,
) -> tuple[list[predictions.Prediction], str | None]:
  """Trains what an earlier run of the same command has not finished.

  Returns:
    The predictions of all trainings, none on processes but 0; and the engine
    that trained, None if there was nothing left to train.
  """
  config = context.config
  trainings = [
    (seed, fold)
    for seed in range(config.seed, config.seed + config.seeds)
    for fold in folds
  ]
  writes = distributed.is_main()
  there = distributed.from_main(
    np.array([_part(workdir, *t).exists() for t in trainings])
  )
  done = [t for t, is_there in zip(trainings, there, strict=True) if is_there]
  finished = {(seed, fold.number) for seed, fold in done}
  writer = curves.Curves(workdir, tensorboard=config.tensorboard, write=writes)
  kept = [r for r in writer.read() if (r['seed'], r['fold']) in finished]
  writer.keep(kept)
  bar = progress.Progress(len(trainings) * config.epochs, show=writes)
  bar.skip(len(done) * config.epochs)
  initial = given_weights(context, folds)
  left = [t for t in trainings if (t[0], t[1].number) not in finished]

  def finish(seed, fold, answers, weights):
    rows = predicted(context, seed, fold, answers)
    if not writes:
      return
    for name, (epoch, *trees) in weights.items():
      models.save(workdir, seed, fold.number, name, *trees, epoch=epoch)
    predictions.write_predictions(_part(workdir, seed, fold), rows)

  with interruption.Watch() as watch:
    run = context_lib.Run(workdir, writer, bar, watch, finish)
    engine = choice.choose(context, trainings, bar.note) if left else None
    if engine is None:
      fold_lib.train(context, left, initial, run)
    else:
      folds_run.train(engine, context, trainings, left, initial, run)
  writer.close()
  bar.close()
  used = ('folds' if engine else 'stream') if left else None
  if not writes:
    return [], used
  return [
    row
    for training in trainings
    for row in predictions.read_predictions(_part(workdir, *training))
  ], used


def _part(
  workdir: pathlib.Path, seed: int, fold: protocols.Fold
) -> pathlib.Path:
  """Predictions of one finished fold; its presence says that it is done."""
  return workdir / 'folds' / f'{curves.run_name(seed, fold.number)}.jsonl'


def given_weights(
  context: context_lib.Context, folds: list[protocols.Fold]
) -> dict[int, tuple[Any, Any]] | None:
  """(params, model_state) by fold from config.init_from, or None.

  Raises:
    UserError: see `jaxser.models.pretrained.for_folds`.
  """
  if not context.config.init_from:
    return None
  return pretrained.for_folds(
    context.config, context.system, context.source, folds
  )


def evaluate_given(
  context: context_lib.Context,
  folds: list[protocols.Fold],
  workdir: pathlib.Path,
  command: str = '',
) -> list[predictions.Prediction]:
  """Tests the weights of config.init_from, fold by fold, without training.

  They are kept in `workdir` as those of a training are, for `jaxser.predict`.
  """
  weights = given_weights(context, folds)
  if weights is None:
    raise config_lib.ConfigError(
      '--mode=evaluate needs weights: give --config.init_from=FILE. To see the '
      'results of a finished run again, repeat its command.'
    )
  # One model for all folds is kept once.
  alone = len({id(weights[fold.number][0]) for fold in folds}) == 1
  kept = folds[:1] if alone else folds
  describe_models(context, kept, ['init_from'], workdir, command)
  for fold in kept:
    given = weights[fold.number]
    models.save(workdir, context.config.seed, fold.number, 'init_from', *given)
  put, rows = context.placement.put_state, []
  for fold in folds:
    answers = context.evaluator.answers(*put(weights[fold.number]), fold.test)
    given = {'init_from': (None, answers)}
    rows += predicted(context, context.config.seed, fold, given)
  return rows


def predicted(
  context: context_lib.Context,
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
  config: ml_collections.ConfigDict,
  corpus: Corpus,
  seconds: float,
  command: str = '',
) -> dict[str, Any]:
  """What results.json says besides the results."""
  return {
    'system': config.system,
    'corpus': corpus.name,
    'protocol': config.protocol,
    'paper': {name: dict(row) for name, row in config.paper.items()},
    'annotators': corpus.annotators,
    'wall_time_s': round(seconds, 1),
    'command': command
    or shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]]),
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
  context: context_lib.Context,
  about: dict[str, Any],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Writes predictions.jsonl, results.json and report.html."""
  regression = context.system.task == 'regression'
  predictions.write_predictions(workdir / 'predictions.jsonl', rows)
  summary = results.summarise(
    rows,
    classes=() if regression else context.source.corpus.classes,
    sphere=context.system.sphere,
    **about,
  )
  pretrained.mark_trusted(summary, context.config)
  results.write_results(workdir / 'results.json', summary)
  report.write_report(workdir)
  return summary
