"""Fits runs on the host, where a system has `fit`, in place of the loop."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxser.core.config import ConfigError
from jaxser.data import pipeline
from jaxser.engine import interruption, scoring, trainer
from jaxser.engine.experiment import Experiment, Run
from jaxser.engine.loop import Finished, Reporting
from jaxser.evaluation import curves


def check(experiment: Experiment, mode: str) -> None:
  """Refuses weights to start from, which `fit` would not look at.

  Raises:
    ConfigError: if config.init_from cannot be used.
  """
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


def fit(
  experiment: Experiment,
  every: Sequence[Run],
  left: Sequence[Run],
  reporting: Reporting,
) -> Iterator[Finished]:
  """Fits what is left, run by run.

  Args:
    experiment: what all runs share.
    every: all runs of the experiment, in the order of its files.
    left: those that are not finished.
    reporting: what it writes to and shows.

  Yields:
    Each run once it is over.

  Raises:
    Interrupted: once a signal was noted, before the next run.
  """
  if not left:
    return
  config, system = experiment.config, experiment.system
  table = experiment.source.corpus.table
  waiting = {(seed, fold.number) for seed, fold in left}
  writer, bar = reporting.curves, reporting.bar
  writer.keep(
    row for row in writer.read() if (row['seed'], row['fold']) not in waiting
  )
  predictor = trainer.Trainer(
    experiment, every, resident=trainer.obstacle(experiment) is None
  )
  inputs = _summaries(experiment)
  for seed, fold in left:
    signum = reporting.watch.asked()
    if signum is not None:
      raise interruption.Interrupted(signum)
    weights = system.fit(inputs, table, fold.train, fold.dev)
    stacked, text = predictor.put([weights]), 'fitted'
    if len(fold.dev):
      (values,) = predictor.predict(stacked, [fold.dev])
      scores = scoring.score(system.task, values, table, fold.dev)
      row = {'seed': seed, 'fold': fold.number, 'epoch': 1, 'split': 'dev'}
      writer.add([{**row, **scores}])
      text = f'dev {curves.in_words([scores], config.selection_metric)}'
    bar.advance(f'seed {seed} fold {fold.number} {text}', config.epochs)
    (values,) = predictor.predict(stacked, [fold.test])
    yield Finished(
      seed,
      fold,
      '',
      predictor.batches.name,
      {'last': (1, values)},
      {'last': (1, *weights)},
    )


def _summaries(experiment: Experiment) -> np.ndarray:
  """Returns `System.summarise` of all utterances, [n, width], on the host."""
  source, system = experiment.source, experiment.system
  rows = np.arange(len(source.corpus.table))
  size = min(experiment.config.eval_batch_size, len(rows))
  slots, places = pipeline.for_evaluation(source, rows, size)
  summarise = jax.jit(system.summarise)
  found = [
    np.asarray(
      summarise({name: batch[name] for name in ('features', 'length')})
    )
    for batch in map(source.batch, slots)
  ]
  return np.concatenate(found)[places]
