"""Fits runs on the host, where a system has `fit`, in place of the loop."""

from collections.abc import Iterator

import jax
import numpy as np

from jaxser.core.errors import ConfigError
from jaxser.data import pipeline
from jaxser.engine import interruption, trainer
from jaxser.engine.experiment import Experiment
from jaxser.engine.loop import Finished, Reporting
from jaxser.evaluation import curves


def check(experiment: Experiment, mode: str) -> None:
  """Refuses weights to start from, which `fit` would not look at."""
  path = experiment.config.init_from
  if not path or experiment.system.fit is None:
    return
  reason = 'a fitted system starts from no weights; use --mode=evaluate'
  if mode == 'evaluate':
    try:
      experiment.system.check_recording()
      return
    except ValueError as error:
      reason = str(error)
  raise ConfigError(f'--config.init_from={path}: {reason}.')


def fit(experiment, every, left, reporting: Reporting) -> Iterator[Finished]:
  """Fits what is left of all runs, and yields each once it is over."""
  if not left:
    return
  config, system = experiment.config, experiment.system
  writer, bar = reporting.curves, reporting.bar
  waiting = {(seed, fold.number) for seed, fold in left}
  rows = writer.read()
  writer.keep(r for r in rows if (r['seed'], r['fold']) not in waiting)
  resident = trainer.obstacle(experiment) is None
  predictor = trainer.Trainer(experiment, every, resident=resident)
  inputs = _summaries(experiment)
  for seed, fold in left:
    signum = reporting.watch.asked()
    if signum is not None:
      raise interruption.Interrupted(signum)
    table = experiment.source.corpus.table
    weights = system.fit(inputs, table, fold.train, fold.dev)
    stacked, text = predictor.put([weights]), 'fitted'
    if len(fold.dev):
      (values,) = predictor.predict(stacked, [fold.dev])
      scores = experiment.score(values, fold.dev)
      row = {'seed': seed, 'fold': fold.number, 'epoch': 1, 'split': 'dev'}
      writer.add([{**row, **scores}])
      text = f'dev {curves.in_words([scores], config.selection_metric)}'
    bar.advance(f'seed {seed} fold {fold.number} {text}', config.epochs)
    (values,) = predictor.predict(stacked, [fold.test])
    outputs, trees = {'last': (1, values)}, {'last': (1, *weights)}
    yield Finished(seed, fold, '', predictor.batches.name, outputs, trees)


def _summaries(experiment: Experiment) -> np.ndarray:
  """Returns `System.summarise` of all utterances, [n, width], on the host."""
  source, system = experiment.source, experiment.system
  rows = np.arange(len(source.corpus.table))
  size = min(experiment.config.eval_batch_size, len(rows))
  slots, places = pipeline.for_evaluation(source, rows, size)
  summarise, found = jax.jit(system.summarise), []
  for batch in map(source.batch, slots):
    inputs = {name: batch[name] for name in ('features', 'length')}
    found.append(np.asarray(summarise(inputs)))
  return np.concatenate(found)[places]
