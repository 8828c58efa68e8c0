"""Trains all runs of an experiment: epochs, scores, selection, checkpoints."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxser.core import progress
from jaxser.data.protocols import Fold
from jaxser.engine import (
  checkpoints,
  interruption,
  memory,
  schedule,
  scoring,
  stack,
)
from jaxser.engine import trainer as trainer_lib
from jaxser.engine.experiment import Experiment, Run
from jaxser.engine.trainer import OutOfMemoryError, Trainer
from jaxser.evaluation import curves
from jaxser.systems.base import Tree


class Reporting(NamedTuple):
  """Where training tells what happens.

  Attributes:
    curves: gets the rows of every epoch.
    bar: is shown.
    watch: says when to stop.
  """

  curves: curves.Curves
  bar: progress.Progress
  watch: interruption.Watch


@dataclasses.dataclass
class Finished:
  """A run that is over.

  Attributes:
    seed: of the run.
    fold: of the run.
    failure: why it has no result, '' if it has one.
    batches: 'resident' or 'streamed'.
    predictions: by selection, (epoch, predictions for the test split).
    weights: by selection, (epoch, params, model_state).
  """

  seed: int
  fold: Fold
  failure: str
  batches: str
  predictions: dict[str, tuple[int, np.ndarray]]
  weights: dict[str, tuple[int, Tree, Tree]]


@dataclasses.dataclass
class _Status:
  """What the host knows of a run; JSON but for the fold.

  Attributes:
    seed: of the run.
    fold: of the run.
    epoch: epochs trained.
    plateau: of the schedule.
    best: by selection, (epoch, score) of the best epoch so far.
    last_loss: the last finite one.
    failure: why the run ended early without a result.
  """

  seed: int
  fold: Fold
  epoch: int = 0
  plateau: schedule.Plateau = dataclasses.field(
    default_factory=schedule.Plateau
  )
  best: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
  last_loss: float | None = None
  failure: str = ''

  @property
  def name(self) -> tuple[int, int]:
    return self.seed, self.fold.number

  def to_json(self) -> dict[str, Any]:
    fields = dataclasses.asdict(dataclasses.replace(self, fold=None))
    return {**fields, 'fold': self.fold.number}

  @classmethod
  def from_json(cls, fields: Mapping[str, Any], fold: Fold) -> '_Status':
    plateau = schedule.Plateau(**fields['plateau'])
    return cls(**{**fields, 'fold': fold, 'plateau': plateau})


def train(
  experiment: Experiment,
  every: Sequence[Run],
  left: Sequence[Run],
  initial: Mapping[int, tuple[Tree, Tree]] | None,
  store: checkpoints.Checkpoints,
  reporting: Reporting,
  **options: Any,
) -> Iterator[Finished]:
  """Trains all that is left, as many runs at once as memory allows.

  Args:
    experiment: what all runs share.
    every: all runs of the experiment, in the order of its files.
    left: those that are not finished.
    initial: (params, model_state) by fold to start from, or None.
    store: of checkpoints.
    reporting: where training tells what happens.
    **options: of `jaxser.engine.trainer.plan`.

  Yields:
    Each run once it is over.

  Raises:
    Interrupted: once a signal was noted and the position saved.
    OutOfMemoryError: if not even one run fits into memory.
  """
  left, trainer = list(left), None
  note = reporting.bar.note
  while left:
    if trainer is None:
      trainer = trainer_lib.plan(experiment, every, note, **options)
    try:
      loop = _Loop.resume(trainer, left, store, reporting) or _Loop.begin(
        trainer, left[: trainer.runs], initial, store, reporting
      )
      _rewind(reporting.curves, left, loop.curve)
      loop.run()
      finished = list(loop.finished())
    except jax.errors.JaxRuntimeError as error:
      if not memory.exhausted(error):
        raise
      message = str(error).splitlines()[0][:300]
      fewer = trainer.runs // 2
    else:
      yield from finished
      _sort(reporting.curves, every)
      done = [(run.seed, run.fold.number) for run in finished]
      left = [(s, fold) for s, fold in left if (s, fold.number) not in done]
      continue
    # Outside of the handler, which holds the arrays of the stack.
    if not fewer:
      raise OutOfMemoryError(
        f'one run does not fit into memory ({message}); lower '
        '--config.batch_size, or cut batches with --config.accumulate.'
      )
    note(f'{trainer.runs} runs at once do not fit ({message}).')
    loop, trainer, options = None, None, {**options, 'at_most': fewer}


def _rewind(
  writer: curves.Curves, left: Sequence[Run], curve: Sequence[dict[str, Any]]
) -> None:
  """Drops rows after a checkpoint, and those of runs that start again."""
  names = [(seed, fold.number) for seed, fold in left]
  rows = [r for r in writer.read() if (r['seed'], r['fold']) not in names]
  writer.keep([*rows, *curve])


def _sort(writer: curves.Curves, every: Sequence[Run]) -> None:
  """Puts rows that several runs wrote by turns into the order of the runs."""
  names = [(seed, fold.number) for seed, fold in every]
  rows = writer.read()
  rows.sort(
    key=lambda row: (names.index((row['seed'], row['fold'])), row['epoch'])
  )
  writer.keep(rows)


class _Loop:
  """One stack of runs, from its first or next epoch to its last.

  Attributes:
    curve: rows of metrics.jsonl so far.
  """

  def __init__(
    self,
    trainer: Trainer,
    runs: list[_Status],
    state: stack.StackState,
    store: checkpoints.Checkpoints,
    reporting: Reporting,
    *,
    base: int,
    epoch: int = 0,
    step: int = 0,
    metrics: Sequence[dict[str, np.ndarray]] = (),
    curve: Sequence[dict[str, Any]] = (),
  ):
    """Stands before the next step.

    Args:
      trainer: trains the stack.
      runs: its runs.
      state: on the devices.
      store: of checkpoints.
      reporting: where training tells what happens.
      base: number of the stack's first checkpoint.
      epoch: epochs trained.
      step: steps trained of the epoch that is under way.
      metrics: of these steps, each [runs, steps].
      curve: rows of metrics.jsonl so far.
    """
    self._trainer, self._runs, self._state = trainer, runs, state
    self._store, self._reporting = store, reporting
    self._config = trainer.experiment.config
    self._base, self._epoch, self._step = base, epoch, step
    self._metrics, self.curve = list(metrics), list(curve)
    self._steps = max(
      -(-len(run.fold.train) // self._config.batch_size) for run in runs
    )

  @classmethod
  def begin(cls, trainer, runs, initial, store, reporting) -> '_Loop':
    """Stands before the first epoch of some runs."""
    states = [
      stack.start(
        trainer.experiment.first_state(
          seed, fold, initial and initial[fold.number]
        ),
        tuple(trainer.selections),
      )
      for seed, fold in runs
    ]
    statuses = [_Status(seed, fold) for seed, fold in runs]
    base = 0 if store.latest is None else store.latest + 1
    state = trainer.put(states)
    return cls(trainer, statuses, state, store, reporting, base=base)

  # Checkpoints.

  def _save(self) -> None:
    """Saves everything that `resume` needs to go on with the next step."""
    self._store.save(
      # Rises from step to step, at the end of an epoch, and from stack to stack.
      self._base + self._epoch * (self._steps + 1) + self._step,
      self._trainer.host(self._state, len(self._runs)),
      {
        'runs': [run.to_json() for run in self._runs],
        'base': self._base,
        'epoch': self._epoch,
        'step': self._step,
        'metrics': [
          {name: value.tolist() for name, value in chunk.items()}
          for chunk in self._metrics
        ],
        'curve': self.curve,
      },
    )

  @classmethod
  def resume(cls, trainer, left, store, reporting) -> '_Loop | None':
    """Continues the stack of the newest checkpoint, unless it is finished.

    If fewer runs fit into memory now, the first ones continue; the others start
    again later.
    """
    if store.latest is None:
      return None
    position = store.restore_position()
    folds = {(seed, fold.number): fold for seed, fold in left}
    names = [(run['seed'], run['fold']) for run in position['runs']]
    kept = [i for i, name in enumerate(names) if name in folds]
    kept = kept[: trainer.runs]
    if not kept:
      return None
    host = store.restore(trainer.blank(len(names)))
    states = [jax.tree.map(lambda x: x[i], host) for i in kept]
    statuses = [
      _Status.from_json(position['runs'][i], folds[names[i]]) for i in kept
    ]
    kept_names = {run.name for run in statuses}
    curve = [
      row
      for row in position['curve']
      if (row['seed'], row['fold']) in kept_names
    ]
    reporting.bar.skip(sum(run.epoch for run in statuses))
    what = (
      curves.run_name(*names[0])
      if len(names) == 1
      else f'{len(statuses)} runs at once'
    )
    verb = 'continues' if len(names) == 1 else 'continue'
    reporting.bar.note(f'{what}: {verb} after epoch {position["epoch"]}')
    return cls(
      trainer,
      statuses,
      trainer.put(states),
      store,
      reporting,
      base=position['base'],
      epoch=position['epoch'],
      step=position['step'],
      metrics=[
        {name: np.array(value)[kept] for name, value in chunk.items()}
        for chunk in position['metrics']
      ],
      curve=curve,
    )

  # Training.

  def _active(self) -> np.ndarray:
    """bool [slots]: runs that are neither stopped nor failed."""
    active = np.zeros(self._trainer.slots, bool)
    for i, run in enumerate(self._runs):
      active[i] = not (run.plateau.stopped or run.failure)
    return active

  def run(self) -> None:
    """Trains to the last epoch, saving and reporting on the way.

    Raises:
      Interrupted: once a signal was noted and the position saved.
    """
    config, trainer = self._config, self._trainer
    chunks = trainer.batches.training(
      trainer.samplers([(run.seed, run.fold) for run in self._runs]),
      self._epoch,
      self._step,
      config.epochs,
    )
    with contextlib.closing(chunks):
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
    unused = sum(config.epochs - run.epoch for run in self._runs)
    self._reporting.bar.skip(unused)

  def _train_epoch(self, chunks: Iterator[Any]) -> None:
    """Takes the steps of an epoch; collects their metrics one call behind."""
    ended, ahead = False, None
    while not ended:
      signum = self._reporting.watch.asked()
      if signum is not None:
        self._collect(ahead)
        self._save()
        raise interruption.Interrupted(signum)
      chunk = next(chunks)
      self._state, metrics = self._trainer.train(
        self._state, chunk, self._active(), self._epoch
      )
      self._step += chunk.steps
      self._collect(ahead)
      ahead, ended = metrics, chunk.ends_epoch
      if not self._active().any():
        break
    self._collect(ahead)
    self._step = 0

  def _collect(self, metrics: Tree | None) -> None:
    """Waits for the metrics of a call; ends runs whose loss is not finite."""
    if metrics is None:
      return
    found = self._trainer.host(metrics, len(self._runs))
    first = sum(chunk['rows'].shape[1] for chunk in self._metrics)
    self._metrics.append(found)
    for i in np.flatnonzero(self._active()):
      run, loss = self._runs[i], found['loss'][i]
      bad = np.flatnonzero(~np.isfinite(loss))
      good = loss[(found['rows'][i] > 0) & np.isfinite(loss)]
      if len(bad):
        good = loss[: bad[0]]
      run.last_loss = float(good[-1]) if len(good) else run.last_loss
      if len(bad):
        self._fail(run, f'the loss of step {first + bad[0] + 1}')

  def _fail(self, run: _Status, what: str) -> None:
    """Ends a run without a result; the others go on."""
    last = 'none' if run.last_loss is None else f'{run.last_loss:.4g}'
    run.failure = (
      f'seed {run.seed} fold {run.fold.number}, epoch {run.epoch + 1}: {what} '
      f'is not finite (last finite loss: {last})'
    )
    self._reporting.bar.note(
      f'{run.failure}. This run ends. Try a lower '
      '--config.optimizer.learning_rate, and look for NaN in its utterances.'
    )

  def _train_rows(self) -> dict[int, list[dict[str, Any]]]:
    """Returns, by run, the row of the epoch's training metrics."""
    steps = {
      name: np.concatenate(
        [np.asarray(chunk[name], np.float64) for chunk in self._metrics], 1
      )
      for name in self._metrics[0]
    }
    count, self._metrics = steps.pop('rows'), []
    rows = {}
    for i in np.flatnonzero(self._active()):
      self._runs[i].epoch = self._epoch
      # Steps with no rows are those of runs with more steps.
      real = count[i] > 0
      weight = count[i][real]
      means = {
        name: float(np.sum(weight * value[i][real]) / np.sum(weight))
        for name, value in steps.items()
      }
      rows[i] = [self._row(self._runs[i], 'train', means)]
    return rows

  def _row(
    self, run: _Status, split: str, values: Mapping[str, float]
  ) -> dict[str, Any]:
    fold = run.fold.number
    return {
      'seed': run.seed,
      'fold': fold,
      'epoch': run.epoch,
      'split': split,
      **values,
    }

  def _evaluate(self, rows: dict[int, list[dict[str, Any]]]) -> None:
    """Scores the dev split, and test where the protocol selects on it.

    Otherwise no test label is read before the end. Keeps the weights of epochs
    that are better than those before, and follows the schedule.
    """
    config, trainer = self._config, self._trainer
    table = trainer.experiment.source.corpus.table
    task, rule = trainer.experiment.system.task, config.schedule
    for selection, split in trainer.selections.items():
      splits = [getattr(run.fold, split) for run in self._runs]
      if not any(map(len, splits)):
        continue
      predicted = trainer.predict(self._weights(), splits)
      improved = np.zeros(trainer.slots, bool)
      for i in np.flatnonzero(self._active()):
        run = self._runs[i]
        if not len(splits[i]):
          continue
        if not np.isfinite(predicted[i]).all():
          self._fail(run, f'a prediction for the {split} split')
          continue
        scores = scoring.score(task, predicted[i], table, splits[i])
        rows[i].append(self._row(run, split, scores))
        score = scores[config.selection_metric]
        _, best = run.best.get(selection, (0, None))
        if schedule.better(score, best):
          improved[i], run.best[selection] = True, (run.epoch, score)
        if split == 'dev' and rule.name == 'plateau':
          run.plateau.update(
            scores[rule.metric],
            factor=rule.factor,
            patience=rule.patience,
            stop_patience=rule.stop_patience,
          )
      self._state = trainer.keep_best(self._state, selection, improved)
    if rule.name == 'plateau':
      scale = np.ones(trainer.slots, np.float32)
      scale[: len(self._runs)] = [run.plateau.scale for run in self._runs]
      self._state = trainer.set_lr_scale(self._state, scale)

  def _weights(self) -> Tree:
    return (self._state.train.params, self._state.train.model_state)

  def _report(self, rows: dict[int, list[dict[str, Any]]]) -> None:
    """Writes the rows of an epoch, and shows the last split's."""
    written = [row for found in rows.values() for row in found]
    self.curve += written
    if not written:
      return
    self._reporting.curves.add(written)
    shown = [r for r in written if r['split'] == written[-1]['split']]
    where = f'epoch {self._epoch} {shown[0]["split"]}'
    if len(self._runs) == 1:
      where = f'seed {shown[0]["seed"]} fold {shown[0]["fold"]} {where}'
    else:
      where = f'{len(rows)} runs at once, {where}, mean of'
    text = curves.in_words(shown, self._config.selection_metric)
    self._reporting.bar.advance(f'{where} {text}', len(rows))

  # The end.

  def finished(self) -> Iterator[Finished]:
    """Yields the predictions and weights of every run and selection."""
    trainer, runs = self._trainer, self._runs
    tests = [run.fold.test for run in runs]
    weights = {'last': self._weights(), **self._state.best}
    predicted = {
      name: trainer.predict(tree, tests) for name, tree in weights.items()
    }
    host = {
      name: trainer.host(tree, len(runs)) for name, tree in weights.items()
    }
    for i, run in enumerate(runs):
      epochs = {'last': run.epoch}
      epochs |= {name: epoch for name, (epoch, _) in run.best.items()}
      for name in epochs:
        if not run.failure and not np.isfinite(predicted[name][i]).all():
          self._fail(run, 'a prediction for the test split')
      if run.failure:
        epochs = {}
      yield Finished(
        run.seed,
        run.fold,
        run.failure,
        trainer.batches.name,
        {name: (e, predicted[name][i]) for name, e in epochs.items()},
        {
          name: (e, *jax.tree.map(lambda x: x[i], host[name]))
          for name, e in epochs.items()
        },
      )
