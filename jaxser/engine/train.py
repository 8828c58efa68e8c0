"""A run, top to bottom: corpus, folds, training, test, report."""

import contextlib
import math
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import flax
import jax
import ml_collections
import numpy as np
import optax

import jaxser
from data_prep import progress
from jaxser import report
from jaxser.core import config as config_lib
from jaxser.core import errors, files, runtime
from jaxser.data import pipeline, protocols
from jaxser.data.corpus import Corpus, normalization
from jaxser.engine import (
  augmentation,
  checkpoints,
  distributed,
  fitting,
  inspection,
  interruption,
  loop,
  opening,
  profiling,
)
from jaxser.engine import workdir as workdir_lib
from jaxser.engine.experiment import Experiment
from jaxser.engine.trainer import Trainer
from jaxser.evaluation import curves, earlier, predictions, results
from jaxser.models import pretrained
from jaxser.models import saved as models
from jaxser.report import card
from jaxser.report import text as text_lib
from jaxser.systems import registry


class NotFiniteError(errors.UserError):
  """Some runs ended without a result; the others have theirs."""


def run(
  config: ml_collections.ConfigDict,
  workdir: os.PathLike[str] | str,
  mode: str = 'train',
  command: str = '',
) -> dict[str, Any]:
  """Trains (or only evaluates) every fold of every seed, and reports.

  The work folder then holds config.json, folds.json, parameters.txt,
  metrics.jsonl, speed.jsonl, predictions.jsonl, results.json, embeddings.npz,
  report.html, MODEL_CARD.md, model.json, models/, checkpoints/ and tensorboard/.
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
    UserError: each names the file or field, the value, and what to do.
    Interrupted: on Ctrl-C or SIGTERM, after saving the position.
  """
  start, workdir = time.monotonic(), pathlib.Path(workdir)
  # Everything is checked before anything is written: hours of training should
  # not precede an error in the last fold.
  config_lib.validate(config)
  # Opening the demo corpus for the first time makes it.
  corpus = distributed.main_first(
    lambda: opening.open_corpus(config), 'the corpus is open'
  )
  if config.epochs_from:
    config = with_epochs(config, corpus)
  folds = make_folds(config, corpus)
  chosen = choose_folds(folds, config.fold_subset)
  check_schedule(config, chosen, mode)
  experiment = make_experiment(config, corpus)
  fitting.check(experiment, mode)
  profiling.check(experiment, chosen)
  for fold in chosen:
    experiment.check(fold)
  given = None
  if config.init_from:
    given = pretrained.for_folds(
      config, experiment.system, experiment.source, chosen
    )
  if mode == 'evaluate' and given is None:
    raise config_lib.ConfigError(
      '--mode=evaluate needs weights: give --config.init_from=FILE. To see the '
      'results of a finished run again, repeat its command.'
    )
  writes, batches, failures = distributed.is_main(), None, []
  with claimed(config, corpus, folds, workdir):
    if mode == 'evaluate':
      rows = evaluate(experiment, chosen, given, workdir, command)
    else:
      selections = ['last', *['ema_last'] * bool(config.ema)]
      selections += experiment.selections(chosen)
      models.describe(
        workdir,
        config,
        experiment.system,
        experiment.source,
        chosen,
        selections,
        command,
      )
      rows, failures, batches = train_all(experiment, chosen, given, workdir)
    metadata = describe(config, corpus, time.monotonic() - start, command)
    metadata['environment']['engine'] = batches
    if failures:
      metadata['environment']['failed_runs'] = failures
    summary = {}
    if writes and rows:
      metadata['probes'] = None
      if config.embeddings and mode == 'train' and not failures:
        metadata['probes'] = inspection.inspect(workdir, experiment, chosen)
      summary = finish(rows, experiment, metadata, workdir)
    if writes and not failures:
      card.write(workdir)
    distributed.barrier('the results are written')
  if failures:
    raise NotFiniteError(
      f'{len(failures)} of {config.seeds * len(chosen)} runs have no result: '
      f'{"; ".join(failures)}. The results of the others are in {workdir}. Train '
      'with a lower --config.optimizer.learning_rate in another --workdir, and '
      'look for NaN in the utterances of these folds.'
    )
  return summary


@contextlib.contextmanager
def claimed(
  config: ml_collections.ConfigDict,
  corpus: Corpus,
  folds: list[protocols.Fold],
  workdir: pathlib.Path,
) -> Iterator[None]:
  """Keeps a work folder for this run, and writes config.json and folds.json.

  Raises:
    ConfigError: if the folder is another run's, naming what differs, and
      nothing was written then; if another process uses it; or if the processes
      of this run do not share it.
  """
  content = protocols.folds_to_json(
    folds, corpus, protocol=config.protocol, seed=config.fold_seed
  )
  fingerprints = {n: info['fingerprint'] for n, info in corpus.stores.items()}
  with workdir_lib.writing(workdir), contextlib.ExitStack() as opened:
    if distributed.is_main():
      opened.enter_context(workdir_lib.lock(workdir))
      workdir_lib.check_identity(workdir, config, fingerprints, content)
      files.write_json(workdir / 'config.json', config_lib.to_json(config))
      protocols.write_folds(workdir / 'folds.json', content)
    distributed.barrier('the work folder is claimed')
    path = (workdir / 'config.json').absolute()
    if not path.exists():
      raise config_lib.ConfigError(
        f'process 0 wrote {path}, and it is not there. --workdir must be a '
        'folder that all processes share.'
      )
    yield


def with_epochs(
  config: ml_collections.ConfigDict, corpus: Corpus
) -> ml_collections.ConfigDict:
  """Returns the config with the number of epochs that config.epochs_from gives."""
  config = config.copy_and_resolve_references()
  fingerprints = {n: info['fingerprint'] for n, info in corpus.stores.items()}
  config.epochs = earlier.best_epoch(config.epochs_from, config, fingerprints)
  config_lib.validate(config)  # A warm-up may be longer than that.
  if distributed.is_main():
    print(
      f'{config.epochs} epochs: the median of the best ones of '
      f'{config.epochs_from}.',
      file=sys.stderr,
    )
  return config


def make_folds(
  config: ml_collections.ConfigDict, corpus: Corpus
) -> list[protocols.Fold]:
  """Returns the folds of config.folds, or those of the protocol."""
  # A regression learns no class, so none needs to be there.
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
  """Returns the folds of config.fold_subset, or all.

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
  """Raises ConfigError if the schedule follows scores that a fold lacks."""
  without = [fold.number for fold in folds if not len(fold.dev)]
  if mode == 'train' and config.schedule.name == 'plateau' and without:
    raise config_lib.ConfigError(
      '--config.schedule.name=plateau follows the development split, and fold '
      f'{without[0]} has none; choose --config.schedule.name=constant, or folds '
      'with a development split.'
    )


def make_experiment(
  config: ml_collections.ConfigDict, corpus: Corpus
) -> Experiment:
  """Returns what all runs share."""
  system = registry.create(config, corpus)
  source = pipeline.Source(
    corpus,
    max_length=config.data.max_length,
    cache_gib=config.data.cache_gib,
    normalization=normalization(corpus, config.protocol),
    buckets=config.data.buckets,
    num_buckets=config.data.num_buckets,
  )
  registry.check(system, corpus, source.lengths)
  return Experiment(
    config=config,
    system=system,
    source=source,
    pretrained=registry.pretrained(config, system),
    augment=augmentation.create(config, system, source),
  )


def train_all(
  experiment: Experiment,
  folds: list[protocols.Fold],
  initial: dict[int, tuple[Any, Any]] | None,
  workdir: pathlib.Path,
) -> tuple[list[predictions.Prediction], list[str], str | None]:
  """Trains what an earlier call of the same command has not finished.

  Returns:
    The predictions of all runs, none on processes but 0; why runs have none;
    and how batches came, None if there was nothing left to train.
  """
  config = experiment.config
  every = [
    (seed, fold)
    for seed in range(config.seed, config.seed + config.seeds)
    for fold in folds
  ]
  parts = [_part(workdir, *one) for one in every]
  over = [part.exists() or _failed(part).exists() for part in parts]
  over = distributed.from_main(np.array(over))
  left = [one for one, is_over in zip(every, over, strict=True) if not is_over]
  writes, used = distributed.is_main(), None
  bar = progress.Progress(len(every) * config.epochs, show=writes)
  bar.skip((len(every) - len(left)) * config.epochs)
  writer = curves.Curves(workdir, tensorboard=config.tensorboard, write=writes)
  with (
    contextlib.closing(writer),
    contextlib.closing(bar),
    interruption.watch() as watch,
    checkpoints.Checkpoints(workdir / 'checkpoints' / 'folds') as store,
  ):
    if left:
      bar.note(write_parameters(experiment, left[0][1], workdir))
    # One process is enough, and several would write the same files.
    steps = config.profile if writes else ''
    trace = profiling.Trace(steps, workdir / 'tensorboard', bar.note)
    reporting = loop.Reporting(store, writer, bar, watch, trace)
    if experiment.system.fit is None:
      trained = loop.train(experiment, every, left, initial, reporting)
    else:
      trained = fitting.fit(experiment, every, left, reporting)
    for finished in trained:
      used = finished.batches
      if writes:
        _keep(experiment, finished, workdir)
  distributed.barrier('all runs are over')
  failures = [
    _failed(part).read_text('utf-8').strip()
    for part in parts
    if not part.exists()
  ]
  rows = []
  for part in parts:
    # Without a test split a finished run has no predictions.
    if writes and part.exists() and part.stat().st_size:
      rows += predictions.read_predictions(part)
  return rows, failures, used


def write_parameters(
  experiment: Experiment, fold: protocols.Fold, workdir: pathlib.Path
) -> str:
  """Writes parameters.txt, a table; returns what it says in all."""
  found = experiment.parameters(fold)
  counts = [math.prod(shape) for _, shape, _ in found]
  frozen = sum(
    n for n, (*_, text) in zip(counts, found, strict=True) if text == 'frozen'
  )
  total = f'{sum(counts):,} parameters, {frozen:,} of them frozen'
  if distributed.is_main():
    rows = [('name', 'shape', 'count', '')]
    for count, (name, shape, text) in zip(counts, found, strict=True):
      rows.append((name, ' x '.join(map(str, shape)), f'{count:,}', text))
    path = workdir / 'parameters.txt'
    files.write_text(path, f'{text_lib.aligned(rows)}\n\n{total}\n')
  return f'{total}: {workdir / "parameters.txt"}'


def _part(
  workdir: pathlib.Path, seed: int, fold: protocols.Fold
) -> pathlib.Path:
  """Returns the file of a run's predictions; it is there once a run is done."""
  return workdir / 'folds' / f'{curves.run_name(seed, fold.number)}.jsonl'


def _failed(part: pathlib.Path) -> pathlib.Path:
  """Returns the file that says why a run ended without predictions."""
  return part.with_suffix('.failed')


def _keep(
  experiment: Experiment, finished: loop.Finished, workdir: pathlib.Path
) -> None:
  """Writes the weights and predictions of a run, or why it has none."""
  seed, fold = finished.seed, finished.fold
  part = _part(workdir, seed, fold)
  if finished.failure:
    files.write_text(_failed(part), finished.failure + '\n')
    return
  for name, (epoch, *trees) in finished.weights.items():
    models.save(workdir, seed, fold.number, name, *trees, epoch=epoch)
  rows = predicted(experiment, seed, fold, finished.predictions)
  predictions.write_predictions(part, rows)


def evaluate(
  experiment: Experiment,
  folds: list[protocols.Fold],
  weights: dict[int, tuple[Any, Any]],
  workdir: pathlib.Path,
  command: str = '',
) -> list[predictions.Prediction]:
  """Tests given weights, fold by fold, without training.

  They are kept in `workdir` as those of a training are, for `jaxser.predict`.
  """
  seed = experiment.config.seed
  # One model for all folds is kept once.
  alone = len({id(weights[fold.number][0]) for fold in folds}) == 1
  kept = folds[:1] if alone else folds
  system, source = experiment.system, experiment.source
  models.describe(
    workdir, experiment.config, system, source, kept, ['init_from'], command
  )
  for fold in kept:
    given = weights[fold.number]
    models.save(workdir, seed, fold.number, 'init_from', *given)
  every = [(seed, fold) for fold in folds]
  trainer, rows = Trainer(experiment, every), []
  for fold in folds:
    (values,) = trainer.predict(
      trainer.put([weights[fold.number]]), [fold.test]
    )
    rows += predicted(experiment, seed, fold, {'init_from': (None, values)})
  return rows


def predicted(
  experiment: Experiment,
  seed: int,
  fold: protocols.Fold,
  outputs: dict[str, tuple[int | None, np.ndarray]],
) -> list[predictions.Prediction]:
  """Returns one prediction per selection and test utterance.

  Utterances without valence, arousal and dominance are left out of a
  regression: there is nothing to compare with.
  """
  corpus, rows = experiment.source.corpus, []
  regression = experiment.system.task == 'regression'
  for selection, (epoch, values) in outputs.items():
    for row, value in zip(fold.test, values, strict=True):
      if regression:
        if not np.isfinite(corpus.table.vad[row]).all():
          continue
        output = {'target': corpus.table.vad[row], 'prediction': value}
      else:
        output = {
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
          **output,
        )
      )
  return rows


def describe(
  config: ml_collections.ConfigDict,
  corpus: Corpus,
  seconds: float,
  command: str = '',
) -> dict[str, Any]:
  """Returns what results.json says besides the results."""
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
  experiment: Experiment,
  metadata: dict[str, Any],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Writes predictions.jsonl, results.json and report.html."""
  regression = experiment.system.task == 'regression'
  predictions.write_predictions(workdir / 'predictions.jsonl', rows)
  summary = results.summarise(
    rows,
    classes=() if regression else experiment.source.corpus.classes,
    sphere=experiment.system.sphere,
    **metadata,
  )
  pretrained.mark_trusted(summary, experiment.config)
  if experiment.system.fit and 'last' in summary['selections']:
    summary['selections']['last']['label'] = results.FITTED
  if experiment.system.notes:
    summary['notes'] = list(experiment.system.notes)
  files.write_json(workdir / 'results.json', summary)
  report.write_report(workdir)
  return summary


def train(
  config: ml_collections.ConfigDict,
  workdir: os.PathLike[str] | str,
  mode: str = 'train',
  command: str = '',
) -> dict[str, Any]:
  """Does what `jaxser.main` does: prepares the process, and then `run`."""
  runtime.prepare()
  return run(config, workdir, mode, command)
