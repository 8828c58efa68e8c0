"""Trains all runs of an experiment: epochs, scores, selection, checkpoints."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from data_prep import progress
from jaxser.data.protocols import Fold
from jaxser.engine import interruption, memory, profiling, schedule, stack
from jaxser.engine import trainer as trainer_lib
from jaxser.engine.batches import Chunk
from jaxser.engine.checkpoints import Checkpoints
from jaxser.engine.experiment import Experiment, Run
from jaxser.engine.trainer import OutOfMemoryError, Trainer
from jaxser.evaluation import curves
from jaxser.systems.base import Tree

Rows = dict[int, list[dict[str, Any]]]
"""Rows of metrics.jsonl of one epoch, by place of the run in the stack."""


class Reporting(NamedTuple):
  """What training writes to and shows, and what tells it to stop."""

  store: Checkpoints
  curves: curves.Curves
  bar: progress.Progress
  watch: interruption.Watch
  trace: profiling.Trace = profiling.Trace()


class Finished(NamedTuple):
  """A run that is over."""

  seed: int
  fold: Fold
  failure: str  # Why it has no result, '' if it has one.
  batches: str  # 'resident' or 'streamed'.
  # By selection, (epoch, predictions) of the test split.
  predictions: dict[str, tuple[int, np.ndarray]]
  weights: dict[str, tuple[int, Tree, Tree]]  # (epoch, params, model_state).


@dataclasses.dataclass
class _Status:
  """What the host knows of a run; checkpoints hold it as JSON."""

  seed: int
  fold: int  # Its number.
  epoch: int = 0  # Epochs trained.
  plateau: schedule.Plateau = dataclasses.field(
    default_factory=schedule.Plateau
  )
  # By selection, (epoch, score) of the best epoch so far.
  best: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
  last_loss: float | None = None  # The last finite one.
  failure: str = ''  # Why the run ended without a result.

  @property
  def name(self) -> tuple[int, int]:
    return self.seed, self.fold


def train(
  experiment: Experiment,
  every: Sequence[Run],
  left: Sequence[Run],
  initial: Mapping[int, tuple[Tree, Tree]] | None,
  reporting: Reporting,
  **options: Any,
) -> Iterator[Finished]:
  """Trains what is left of all runs, as many at once as memory allows.

  Yields each run once it is over. `initial` are (params, model_state) by fold
  to start from; `options` those of `jaxser.engine.trainer.plan`.
  """
  waiting = {(seed, fold.number): fold for seed, fold in left}
  order = [(seed, fold.number) for seed, fold in every]
  loop: _Loop | None
  trainer, note = None, reporting.bar.note
  while waiting:
    if trainer is None:
      trainer = trainer_lib.plan(experiment, every, note, **options)
    try:
      loop = _Loop.resume(trainer, waiting, reporting) or _Loop.begin(
        trainer, waiting, initial, reporting
      )
      loop.run()
      finished = list(loop.finished())
    except jax.errors.JaxRuntimeError as error:
      if not memory.exhausted(error):
        raise
      message, fewer = str(error).splitlines()[0][:300], trainer.runs // 2
    else:
      yield from finished
      # Rows that several runs wrote by turns, in the order of the runs.
      rows = reporting.curves.read()
      rows.sort(key=lambda row: (order.index(_name(row)), row['epoch']))
      reporting.curves.keep(rows)
      for run in finished:
        del waiting[run.seed, run.fold.number]
      continue
    # Outside of the handler, whose traceback holds the arrays of the stack.
    if not fewer:
      raise OutOfMemoryError(
        f'one run does not fit into memory ({message}); lower '
        '--config.batch_size, or cut batches with --config.accumulate.'
      )
    note(f'{trainer.runs} runs at once do not fit ({message}).')
    loop, trainer, options = None, None, {**options, 'at_most': fewer}


def _name(row: Mapping[str, Any]) -> tuple[int, int]:
  return row['seed'], row['fold']


class _Loop:
  """One stack of runs, from its first or next epoch to its last."""

  def __init__(self, trainer, waiting, runs, states, reporting, position):
    """Puts states on the devices; the position is that of a checkpoint."""
    self._trainer: Trainer = trainer
    self._runs: list[_Status] = runs
    self._reporting: Reporting = reporting
    self._config = trainer.experiment.config
    self._folds = [waiting[run.name] for run in runs]
    self._state = trainer.put(states)
    self._base, self._epoch = position['base'], position['epoch']
    self._step, self._curve = position['step'], position['curve']
    self._metrics: list[dict[str, np.ndarray]] = position['metrics']
    size = self._config.batch_size
    self._steps = max(-(-len(fold.train) // size) for fold in self._folds)
    self._speed: dict[str, float] = {}
    # Rows after a checkpoint, and those of runs that start again, are dropped.
    rows = reporting.curves.read()
    others = [row for row in rows if _name(row) not in waiting]
    reporting.curves.keep([*others, *self._curve])

  @classmethod
  def begin(cls, trainer, waiting, initial, reporting) -> '_Loop':
    names, first = list(waiting)[: trainer.runs], trainer.experiment.first_state
    states = [
      stack.start(
        first(seed, waiting[seed, fold], initial and initial[fold]),
        trainer.selections,
      )
      for seed, fold in names
    ]
    latest, runs = reporting.store.latest, [_Status(*name) for name in names]
    position = {'base': 0 if latest is None else latest + 1}
    position |= {'epoch': 0, 'step': 0, 'metrics': [], 'curve': []}
    return cls(trainer, waiting, runs, states, reporting, position)

  @classmethod
  def resume(cls, trainer, waiting, reporting) -> '_Loop | None':
    """Continues the newest checkpoint unless it is finished."""
    if reporting.store.latest is None:
      return None
    position = reporting.store.restore_position()
    runs = [
      _Status(**{**fields, 'plateau': schedule.Plateau(**fields['plateau'])})
      for fields in position.pop('runs')
    ]
    kept = [i for i, run in enumerate(runs) if run.name in waiting]
    kept = kept[: trainer.runs]
    if not kept:
      return None
    host = reporting.store.restore(trainer.blank(len(runs)))
    states = [jax.tree.map(lambda x: x[i], host) for i in kept]
    runs = [runs[i] for i in kept]
    names = [run.name for run in runs]
    curve = [row for row in position['curve'] if _name(row) in names]
    metrics = [
      {name: np.array(value)[kept] for name, value in chunk.items()}
      for chunk in position['metrics']
    ]
    reporting.bar.skip(sum(run.epoch for run in runs))
    who, verb = f'{len(runs)} runs at once', 'continue'
    if len(runs) == 1:
      who, verb = curves.run_name(*names[0]), 'continues'
    reporting.bar.note(f'{who}: {verb} after epoch {position["epoch"]}')
    position |= {'curve': curve, 'metrics': metrics}
    return cls(trainer, waiting, runs, states, reporting, position)

  def _save(self) -> None:
    self._reporting.store.save(
      # Rises from step to step, at the end of an epoch, and from stack to stack.
      self._base + self._epoch * (self._steps + 1) + self._step,
      self._trainer.host(self._state, len(self._runs)),
      {
        'runs': [dataclasses.asdict(run) for run in self._runs],
        'base': self._base,
        'epoch': self._epoch,
        'step': self._step,
        'metrics': [
          {name: value.tolist() for name, value in chunk.items()}
          for chunk in self._metrics
        ],
        'curve': self._curve,
      },
    )

  def _active(self) -> np.ndarray:
    """Returns bool [slots]: runs that are neither stopped nor failed."""
    active = np.zeros(self._trainer.slots, bool)
    for i, run in enumerate(self._runs):
      active[i] = not (run.plateau.stopped or run.failure)
    return active

  def run(self) -> None:
    config, trainer = self._config, self._trainer
    seeds = [run.seed for run in self._runs]
    samplers = trainer.samplers(list(zip(seeds, self._folds, strict=True)))
    position = self._epoch, self._step, config.epochs
    chunks = trainer.batches.training(samplers, *position)
    with contextlib.closing(chunks), contextlib.closing(self._reporting.trace):
      while self._epoch < config.epochs and self._active().any():
        self._train_epoch(chunks)
        self._epoch += 1
        rows = self._train_rows()
        if self._epoch % config.eval_every == 0 or self._epoch == config.epochs:
          self._evaluate(rows)
        self._report(rows)
        if self._epoch % config.checkpoint_every == 0:
          self._save()
    self._save()
    skipped = sum(config.epochs - run.epoch for run in self._runs)
    self._reporting.bar.skip(skipped)

  def _train_epoch(self, chunks: Iterator[Chunk]) -> None:
    """Takes the steps of an epoch; collects their metrics one call behind."""
    ended, pending = False, None
    start, earlier = time.monotonic(), len(self._metrics)
    while not ended and self._active().any():
      signum = self._reporting.watch.asked()
      if signum is not None:
        self._collect(pending)
        self._save()
        raise interruption.Interrupted(signum)
      chunk = next(chunks)
      arguments = self._state, chunk, self._active(), self._epoch
      step = functools.partial(self._trainer.train, *arguments)
      done = self._epoch * self._steps + self._step
      self._state, metrics = self._reporting.trace.call(done, chunk.steps, step)
      self._step += chunk.steps
      self._collect(pending)
      pending, ended = metrics, chunk.ends_epoch
    self._collect(pending)
    self._step = 0
    examples = sum(chunk['rows'].sum() for chunk in self._metrics[earlier:])
    self._speed = {
      'examples_per_second': float(examples) / (time.monotonic() - start),
      'memory_gib': memory.peak() / memory.GIB,
    }

  def _collect(self, metrics: Tree | None) -> None:
    """Waits for the metrics of a call; ends runs whose loss diverged."""
    if metrics is None:
      return
    found = self._trainer.host(metrics, len(self._runs))
    before = sum(chunk['loss'].shape[1] for chunk in self._metrics)
    self._metrics.append(found)
    for i in np.flatnonzero(self._active()).tolist():
      taken = found['rows'][i] > 0
      loss, norm = (found[name][i][taken] for name in ('loss', 'grad_norm'))
      bad = np.flatnonzero(~np.isfinite(loss + norm))
      good = loss[: bad[0]] if len(bad) else loss
      if len(good):
        self._runs[i].last_loss = float(good[-1])
      if len(bad):
        what = 'gradient' if np.isfinite(loss[bad[0]]) else 'loss'
        self._fail(self._runs[i], f'the {what} of step {before + bad[0] + 1}')

  def _fail(self, run: _Status, what: str) -> None:
    """Ends a run without a result; the others go on."""
    last = 'none' if run.last_loss is None else f'{run.last_loss:.4g}'
    run.failure = (
      f'seed {run.seed} fold {run.fold}, epoch {self._epoch + 1}: {what} is not '
      f'finite (last finite loss: {last})'
    )
    self._reporting.bar.note(
      f'{run.failure}. This run ends. Try a lower '
      '--config.optimizer.learning_rate, and look for NaN in its utterances.'
    )

  def _row(self, run, split, values) -> dict[str, Any]:
    position = {'seed': run.seed, 'fold': run.fold, 'epoch': self._epoch}
    return {**position, 'split': split, **values}

  def _train_rows(self) -> Rows:
    names = self._metrics[0]
    steps = {
      name: np.concatenate([chunk[name] for chunk in self._metrics], axis=1)
      for name in names
    }
    count, self._metrics = steps.pop('rows').astype(np.float64), []
    follow = schedule.over_epochs(self._config.schedule, self._config.epochs)
    rows = {}
    for i in np.flatnonzero(self._active()).tolist():
      self._runs[i].epoch = self._epoch
      # Steps without rows are those of runs that have more steps.
      real = count[i] > 0
      weight = count[i][real] / count[i].sum()
      means = {n: float(weight @ x[i][real]) for n, x in steps.items()}
      rate = self._config.optimizer.learning_rate * self._runs[i].plateau.scale
      if follow is not None:
        # As of the last step.
        rate *= float(follow(self._epoch - 1 / np.count_nonzero(real)))
      means['learning_rate'] = rate
      rows[i] = [self._row(self._runs[i], 'train', means)]
    return rows

  def _evaluate(self, rows: Rows) -> None:
    """Scores dev, and test only where the protocol selects on it."""
    config, trainer, rule = self._config, self._trainer, self._config.schedule
    for selection, split in trainer.selections.items():
      splits = [getattr(fold, split) for fold in self._folds]
      if not any(map(len, splits)):
        continue
      predicted = trainer.predict(self._weights(), splits)
      improved = np.zeros(trainer.slots, bool)
      for i in np.flatnonzero(self._active()).tolist():
        run = self._runs[i]
        if not len(splits[i]):
          continue
        if not np.isfinite(predicted[i]).all():
          self._fail(run, f'a prediction for the {split} split')
          continue
        scores = trainer.experiment.score(predicted[i], splits[i])
        rows[i].append(self._row(run, split, scores))
        score = scores[config.selection_metric]
        _, best = run.best.get(selection, (0, None))
        if schedule.better(score, best):
          improved[i], run.best[selection] = True, (run.epoch, score)
        if split == 'dev' and rule.name == 'plateau':
          run.plateau.update(scores[rule.metric], rule)
      self._state = trainer.keep_best(self._state, selection, improved)
    if rule.name == 'plateau':
      scale = trainer.put([np.float32(r.plateau.scale) for r in self._runs])
      state = self._state.train.replace(lr_scale=scale)
      self._state = self._state.replace(train=state)

  def _weights(self) -> Tree:
    return (self._state.train.params, self._state.train.model_state)

  def _report(self, rows: Rows) -> None:
    written = [row for found in rows.values() for row in found]
    if not written:
      return
    self._curve += written
    self._reporting.curves.add(written)
    speed = (self._row(self._runs[i], 'speed', self._speed) for i in rows)
    self._reporting.curves.add(speed, curves.SPEED)
    shown = [r for r in written if r['split'] == written[-1]['split']]
    where = f'epoch {self._epoch} {shown[0]["split"]}'
    if len(self._runs) == 1:
      where = f'seed {shown[0]["seed"]} fold {shown[0]["fold"]} {where}'
    else:
      where = f'{len(rows)} runs at once, {where}, mean of'
    text = curves.in_words(shown, self._config.selection_metric)
    self._reporting.bar.advance(f'{where} {text}', len(rows))

  def finished(self) -> Iterator[Finished]:
    trainer, runs = self._trainer, self._runs
    tests = [fold.test for fold in self._folds]
    weights = {'last': self._weights(), **self._state.best}
    if self._config.ema:
      weights['ema_last'] = trainer.averaged(self._state)
    predicted = {n: trainer.predict(w, tests) for n, w in weights.items()}
    host = {n: trainer.host(w, len(runs)) for n, w in weights.items()}
    for i, (run, fold) in enumerate(zip(runs, self._folds, strict=True)):
      epochs = {'last': run.epoch} | {n: e for n, (e, _) in run.best.items()}
      if self._config.ema:
        epochs['ema_last'] = run.epoch
      finite = all(np.isfinite(predicted[name][i]).all() for name in epochs)
      if not run.failure and not finite:
        self._fail(run, 'a prediction for the test split')
      if run.failure:
        epochs = {}
      outputs = {name: (e, predicted[name][i]) for name, e in epochs.items()}
      trees = {
        name: (e, *jax.tree.map(lambda x: x[i], host[name]))
        for name, e in epochs.items()
      }
      name = trainer.batches.name
      yield Finished(run.seed, fold, run.failure, name, outputs, trees)
