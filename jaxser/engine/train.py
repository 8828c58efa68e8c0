"""A run, top to bottom: corpus, folds, training, test, report."""

import contextlib
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax

import jaxser
from data_prep import progress
from jaxser import report
from jaxser.core import config as config_lib
from jaxser.core import files, runtime
from jaxser.core.config import Config, ConfigError
from jaxser.core.errors import UserError
from jaxser.data import pipeline, protocols
from jaxser.data.corpus import Corpus, normalization
from jaxser.data.protocols import Fold
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
from jaxser.evaluation import curves, earlier, results
from jaxser.evaluation import predictions as predictions_lib
from jaxser.evaluation.predictions import Prediction
from jaxser.models import pretrained
from jaxser.models import saved as models
from jaxser.report import card
from jaxser.report import text as text_lib
from jaxser.systems import registry
from jaxser.systems.base import Tree

Weights = Mapping[int, tuple[Tree, Tree]]
"""(params, model_state) by number of the fold."""


class NotFiniteError(UserError):
  """Some runs ended without a result; the others have theirs."""


def train(*args: Any, **kwargs: Any) -> dict[str, Any]:
  """Does what `jaxser.main` does: prepares the process, and then `run`."""
  runtime.prepare()
  return run(*args, **kwargs)


def run(
  config: Config, workdir: files.Path, mode: str = 'train', command: str = ''
) -> dict[str, Any]:
  """Trains (or only evaluates) every fold of every seed, and reports.

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
  start, workdir = time.monotonic(), Path(workdir)
  # Everything is checked before anything is written: hours of training should
  # not precede an error in the last fold.
  config_lib.validate(config)
  # Opening the demo corpus for the first time makes it.
  corpus = distributed.main_first(
    lambda: opening.open_corpus(config), 'the corpus is open'
  )
  if config.epochs_from:
    config = _with_epochs(config, corpus)
  folds = make_folds(config, corpus)
  chosen = choose_folds(folds, config.fold_subset)
  without = [fold.number for fold in chosen if not len(fold.dev)]
  if mode == 'train' and config.schedule.name == 'plateau' and without:
    raise ConfigError(
      '--config.schedule.name=plateau follows the development split, and fold '
      f'{without[0]} has none; choose --config.schedule.name=constant, or folds '
      'with a development split.'
    )
  experiment = make_experiment(config, corpus)
  system, source = experiment.system, experiment.source
  fitting.check(experiment, mode)
  profiling.check(experiment, chosen)
  for fold in chosen:
    experiment.check(fold)
  given = None
  if config.init_from:
    given = pretrained.for_folds(config, system, source, chosen)
  elif mode == 'evaluate':
    raise ConfigError(
      '--mode=evaluate needs weights: give --config.init_from=FILE. To see the '
      'results of a finished run again, repeat its command.'
    )
  batches, failures, probes, summary = None, [], None, {}
  with _claimed(config, corpus, folds, workdir):
    if mode == 'evaluate':
      rows = _evaluate(experiment, chosen, given, workdir, command)
    else:
      selections = ['last', *['ema_last'] * bool(config.ema)]
      selections += experiment.selections(chosen)
      models.describe(
        workdir, config, system, source, chosen, selections, command
      )
      rows, failures, batches = _train_all(experiment, chosen, given, workdir)
    if distributed.is_main() and rows:
      if config.embeddings and mode == 'train' and not failures:
        print('Probing what the embeddings encode ...', file=sys.stderr)
        probes = inspection.inspect(workdir, experiment, chosen)
      about = _about(config, corpus, time.monotonic() - start, command)
      about |= {'probes': probes, 'notes': [*system.notes]}
      about['environment']['engine'] = batches
      if failures:
        about['environment']['failed_runs'] = failures
      if len(chosen) < len(folds):
        reason = f'{len(chosen)} of {len(folds)} folds were tested'
        about['notes'].append(f'{reason}.')
        why = {'comparable': False, 'reason': reason}
        about['paper'] = {n: why | row for n, row in about['paper'].items()}
      print('Writing the report ...', file=sys.stderr)
      summary = _finish(rows, experiment, about, workdir)
    if distributed.is_main() and not failures:
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
def _claimed(config: Config, corpus: Corpus, folds: list[Fold], workdir: Path):
  content = protocols.folds_to_json(
    folds, corpus, protocol=config.protocol, seed=config.fold_seed
  )
  with workdir_lib.writing(workdir), contextlib.ExitStack() as opened:
    if distributed.is_main():
      opened.enter_context(workdir_lib.lock(workdir))
      workdir_lib.check_identity(workdir, config, corpus.fingerprints, content)
      files.write_json(workdir / 'config.json', config_lib.to_json(config))
      protocols.write_folds(workdir / 'folds.json', content)
    distributed.barrier('the work folder is claimed')
    path = (workdir / 'config.json').absolute()
    if not path.exists():
      raise ConfigError(
        f'process 0 wrote {path}, and it is not there. --workdir must be a '
        'folder that all processes share.'
      )
    yield


def _with_epochs(config: Config, corpus: Corpus) -> Config:
  """Returns the config with as many epochs as config.epochs_from says."""
  config = config.copy_and_resolve_references()
  before = config.epochs_from
  config.epochs = earlier.best_epoch(before, config, corpus.fingerprints)
  config_lib.validate(config)  # A warm-up may be longer than that.
  if distributed.is_main():
    text = f'{config.epochs} epochs: the median of the best ones of {before}.'
    print(text, file=sys.stderr)
  return config


def make_folds(config: Config, corpus: Corpus) -> list[Fold]:
  """Returns the folds of config.folds, or those of the protocol."""
  # A regression learns no class, so none needs to be there.
  every_class = registry.task(config) == 'classification'
  if config.folds:
    return protocols.read_folds(config.folds, corpus, every_class)
  names = 'num_folds', 'test_corpus', 'cross_corpus_train', 'emobox_dir'
  options = {name: config[name] for name in (*names, 'emobox_dev')}
  options |= {'seed': config.fold_seed, 'every_class': every_class}
  return protocols.make_folds(corpus, config.protocol, **options)


def choose_folds(folds: list[Fold], subset: Iterable[int]) -> list[Fold]:
  """Returns the folds of config.fold_subset, or all."""
  numbers = {fold.number: fold for fold in folds}
  if unknown := [n for n in subset if n not in numbers]:
    raise ConfigError(
      f'--config.fold_subset names {unknown}; the protocol has folds '
      f'{sorted(numbers)}.'
    )
  return [numbers[n] for n in subset] if subset else folds


def make_experiment(config: Config, corpus: Corpus) -> Experiment:
  system = registry.create(config, corpus)
  names = 'max_length', 'cache_gib', 'buckets', 'num_buckets'
  options = {name: config.data[name] for name in names}
  scale = normalization(corpus, config.protocol)
  source = pipeline.Source(corpus, normalization=scale, **options)
  registry.check(system, corpus, source.lengths)
  weights = registry.pretrained(config, system)
  augment = augmentation.create(config, system, source)
  return Experiment(config, system, source, weights, augment)


def _train_all(experiment, folds: list[Fold], initial, workdir: Path):
  """Trains what is left; returns predictions, failures, how batches came."""
  config, writes, used = experiment.config, distributed.is_main(), None
  seeds = range(config.seed, config.seed + config.seeds)
  every = [(seed, fold) for seed in seeds for fold in folds]
  parts = [_part(workdir, *one) for one in every]
  exist = [part.exists() or _failed(part).exists() for part in parts]
  over = distributed.from_main(np.array(exist))
  left = [one for one, is_over in zip(every, over, strict=True) if not is_over]
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
      bar.note(_write_parameters(experiment, left[0][1], workdir))
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
  rows, failures = [], []
  for part in parts:
    if not part.exists():
      failures.append(_failed(part).read_text('utf-8').strip())
    # Without a test split a finished run has no predictions.
    elif writes and part.stat().st_size:
      rows += predictions_lib.read_predictions(part)
  return rows, failures, used


def _write_parameters(experiment: Experiment, fold: Fold, workdir: Path) -> str:
  """Writes parameters.txt, a table; returns what it says in all."""
  rows, total, frozen = [('name', 'shape', 'count', '')], 0, 0
  for name, shape, text in experiment.parameters(fold):
    count = math.prod(shape)
    rows.append((name, ' x '.join(map(str, shape)), f'{count:,}', text))
    total, frozen = total + count, frozen + count * (text == 'frozen')
  found = f'{total:,} parameters, {frozen:,} of them frozen'
  path = workdir / 'parameters.txt'
  if distributed.is_main():
    files.write_text(path, f'{text_lib.aligned(rows)}\n\n{found}\n')
  return f'{found}: {path}'


def _part(workdir: Path, seed: int, fold: Fold) -> Path:
  return workdir / 'folds' / f'{curves.run_name(seed, fold.number)}.jsonl'


def _failed(part: Path) -> Path:
  return part.with_suffix('.failed')


def _keep(experiment: Experiment, finished: loop.Finished, workdir: Path):
  seed, fold = finished.seed, finished.fold
  part = _part(workdir, seed, fold)
  if finished.failure:
    files.write_text(_failed(part), finished.failure + '\n')
    return
  for name, (epoch, *trees) in finished.weights.items():
    models.save(workdir, seed, fold.number, name, *trees, epoch=epoch)
  rows = _predicted(experiment, seed, fold, finished.predictions)
  predictions_lib.write_predictions(part, rows)


def _evaluate(experiment, folds, weights, workdir, command) -> list[Prediction]:
  """Tests given weights, and keeps them as a training does, for `predict`."""
  config, rows = experiment.config, []
  # One model for all folds is kept once.
  alone = len({id(weights[fold.number][0]) for fold in folds}) == 1
  kept, names = folds[:1] if alone else folds, ['init_from']
  models.describe(
    workdir, config, experiment.system, experiment.source, kept, names, command
  )
  for fold in kept:
    given = weights[fold.number]
    models.save(workdir, config.seed, fold.number, 'init_from', *given)
  trainer = Trainer(experiment, [(config.seed, fold) for fold in folds])
  for fold in folds:
    state = trainer.put([weights[fold.number]])
    (values,) = trainer.predict(state, [fold.test])
    found = {'init_from': (None, values)}
    rows += _predicted(experiment, config.seed, fold, found)
  return rows


def _predicted(experiment, seed, fold, outputs) -> list[Prediction]:
  """Returns a prediction per selection and test utterance with a target."""
  corpus, rows = experiment.source.corpus, []
  table, classes = corpus.table, corpus.classes
  for selection, (epoch, values) in outputs.items():
    for row, value in zip(fold.test, values, strict=True):
      if experiment.system.task == 'classification':
        target, scores = classes[table.labels[row]], value
        output = classes[int(np.argmax(value))]
      elif np.isfinite(table.vad[row]).all():
        target, output, scores = table.vad[row], value, None
      else:
        continue
      who = str(table.ids[row]), str(table.speakers[row])
      about = seed, fold.number, selection, epoch
      rows.append(Prediction(*about, *who, target, output, scores))
  return rows


def _about(config: Config, corpus: Corpus, seconds: float, command: str):
  """Returns what results.json says besides the results."""
  own = shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]])
  return {
    'system': config.system,
    'corpus': corpus.name,
    'protocol': config.protocol,
    'paper': {name: dict(row) for name, row in config.paper.items()},
    'annotators': corpus.annotators,
    'wall_time_s': round(seconds, 1),
    'command': command or own,
    'environment': {
      'jaxser': jaxser.__version__,
      'python': platform.python_version(),
      **{lib.__name__: lib.__version__ for lib in (jax, flax, optax, np)},
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


def _finish(
  rows, experiment: Experiment, about, workdir: Path
) -> dict[str, Any]:
  system, classes = experiment.system, experiment.source.corpus.classes
  predictions_lib.write_predictions(workdir / 'predictions.jsonl', rows)
  classes = classes if system.task == 'classification' else ()
  summary = results.summarise(
    rows, classes=classes, sphere=system.sphere, **about
  )
  pretrained.mark_trusted(summary, experiment.config)
  if system.fit and 'last' in summary['selections']:
    summary['selections']['last']['label'] = results.FITTED
  if about['notes']:
    summary['notes'] = about['notes']
  files.write_json(workdir / 'results.json', summary)
  report.write_report(workdir)
  return summary
