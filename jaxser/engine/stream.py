"""One training: one seed, one fold, from fresh parameters to predictions."""

import contextlib
import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core import progress
from jaxser.data import pipeline, protocols
from jaxser.engine import checkpoints, interruption
from jaxser.engine import context as context_lib
from jaxser.engine import schedule as schedule_lib
from jaxser.evaluation import curves
from jaxser.systems.base import Tree


@dataclasses.dataclass
class Best:
  """The weights of the epoch with the best score so far.

  The first of several equal epochs is kept, as Keras' ModelCheckpoint does.
  """

  weights: Tree
  score: float = -math.inf
  epoch: int = 0

  @classmethod
  def create(cls, weights: Tree) -> 'Best':
    """Before the first epoch."""
    # A copy: the step is about to donate the buffers of its state.
    return cls(jax.tree.map(jnp.copy, weights))

  def offer(self, score: float, epoch: int, weights: Tree) -> None:
    """Keeps a copy of the weights if the score is better."""
    if schedule_lib.better(score, self.score):
      self.weights = jax.tree.map(jnp.copy, weights)
      self.score, self.epoch = score, epoch


def train(
  context: context_lib.Context,
  trainings: Sequence[tuple[int, protocols.Fold]],
  initial: Mapping[int, tuple[Tree, Tree]] | None,
  run: context_lib.Run,
) -> None:
  """Trains one after the other, batch by batch from tf.data.

  Args:
    context: what all trainings share.
    trainings: (seed, fold) of those that are not finished.
    initial: (params, model_state) by fold to start from, or None.
    run: the run.

  Raises:
    Interrupted: once a signal was noted and the position saved.
  """
  padding = _padding(context, *trainings[0]) if trainings else ''
  if padding:
    run.bar.note(padding)
  for seed, fold in trainings:
    name = curves.run_name(seed, fold.number)
    training = FoldTraining(
      context, seed, fold, initial and initial[fold.number]
    )
    with checkpoints.Checkpoints(run.workdir / 'checkpoints' / name) as store:
      if store.latest is not None:
        training.restore(store)
        run.bar.note(f'{name}: continues after epoch {training.epoch}')
        run.bar.skip(training.epoch)
        run.writer.keep([*run.writer.read(), *training.curve])
      training.run(store, run.writer, run.bar, run.watch)
    run.bar.skip(context.config.epochs - training.epoch)
    run.finish(seed, fold, training.answers(), training.weights())


def _padding(
  context: context_lib.Context, seed: int, fold: protocols.Fold
) -> str:
  """How much of an epoch is padding, where batches differ in length."""
  if len(context.source.buckets) < 2:
    return ''
  sampler = context_lib.make_sampler(context, seed, fold)
  share = pipeline.padding_share(context.source, sampler.epoch(0))
  said = (
    f'Padding is {share:.0%} of an epoch, in batches of '
    f'{len(context.source.buckets)} lengths.'
  )
  if share > 0.1:
    said += ' More utterances or a smaller --config.batch_size have less.'
  return said


class FoldTraining:
  """Trains one fold of one seed; can be stopped and continued at any step."""

  def __init__(
    self,
    context: context_lib.Context,
    seed: int,
    fold: protocols.Fold,
    initial: tuple[Tree, Tree] | None = None,
  ):
    """Sets up epoch 0.

    Args:
      context: what all trainings share.
      seed: names initial parameters, order and dropout, with the fold.
      fold: rows to train, develop and test on.
      initial: (params, model_state) to start from instead of fresh ones.
    """
    config = context.config
    self._context, self._config = context, config
    self._seed, self._fold = seed, fold
    self._sampler = context_lib.make_sampler(context, seed, fold)
    state = context_lib.first_state(context, seed, fold, initial)
    self._state = context.placement.put_state(state)
    self._plateau = schedule_lib.Plateau.create()
    names = ['best_on_dev'] if len(fold.dev) else []
    if config.select_on_test:
      names.append('best_on_test')
    self._best = {name: Best.create(self._weights()) for name in names}
    self._epoch = self._step_in_epoch = 0
    self._epoch_metrics: list[dict[str, float]] = []
    self.curve: list[dict[str, Any]] = []

  def _weights(self) -> Tree:
    return (self._state.params, self._state.model_state)

  @property
  def _position(self) -> int:
    """Steps since the start; one more once an epoch's end is done."""
    steps = self._sampler.steps_per_epoch
    return self._epoch * (steps + 1) + self._step_in_epoch

  @property
  def epoch(self) -> int:
    """Epochs completed."""
    return self._epoch

  # What a checkpoint holds.

  def _arrays(self) -> Tree:
    take = self._context.placement.get_state
    return {
      'state': take(self._state),
      'plateau': self._plateau,
      'best': {name: take(best.weights) for name, best in self._best.items()},
    }

  def save(self, store: checkpoints.Checkpoints) -> None:
    """Saves everything that `restore` needs to go on with the next step."""
    store.save(
      self._position,
      self._arrays(),
      {
        'seed': self._seed,
        'fold': self._fold.number,
        'epoch': self._epoch,
        'step_in_epoch': self._step_in_epoch,
        'best': {
          name: {'score': best.score, 'epoch': best.epoch}
          for name, best in self._best.items()
          if best.epoch
        },
        'epoch_metrics': _to_host(self._epoch_metrics),
        'curve': self.curve,
      },
    )

  def restore(self, store: checkpoints.Checkpoints) -> None:
    """Continues where the newest checkpoint was written."""
    about = store.restore_about()
    arrays = store.restore(self._arrays())
    put = self._context.placement.put_state
    self._state = put(arrays['state'])
    self._plateau = arrays['plateau']
    for name, best in self._best.items():
      best.weights = put(arrays['best'][name])
      kept = about['best'].get(name)
      if kept is not None:
        best.score, best.epoch = kept['score'], kept['epoch']
    self._epoch = about['epoch']
    self._step_in_epoch = about['step_in_epoch']
    self._epoch_metrics = about['epoch_metrics']
    self.curve = about['curve']

  # Training.

  def run(
    self,
    store: checkpoints.Checkpoints,
    writer: curves.Curves,
    bar: progress.Progress,
    watch: interruption.Watch,
  ) -> None:
    """Trains to the last epoch, saving and reporting on the way.

    Raises:
      Interrupted: once a signal was noted and the position saved.
    """
    with contextlib.closing(self._batches()) as batches:
      self._train(batches, store, writer, bar, watch)
    self.save(store)

  def _train(self, batches, store, writer, bar, watch) -> None:
    config = self._config
    while self._epoch < config.epochs and not self._plateau.stopped:
      phase = self._context.system.phase(self._epoch)
      steps = self._sampler.steps_per_epoch
      train = self._context.train_fn(phase)
      while self._step_in_epoch < steps:
        asked = watch.asked()
        if asked is not None:
          self.save(store)
          raise interruption.Interrupted(asked)
        batch, epoch = next(batches), np.int32(self._epoch)
        self._state, metrics = train(self._state, batch, epoch)
        self._epoch_metrics.append(metrics)
        self._step_in_epoch += 1
      self._end_of_epoch(writer, bar)
      if self._epoch % config.checkpoint_every == 0:
        self.save(store)

  def _batches(self) -> Generator[Any, None, None]:
    """Batches on the devices, one of them ahead of the step."""
    slots = self._sampler.from_position(
      self._epoch, self._step_in_epoch, self._config.epochs
    )
    put = self._context.placement.put_batch
    ahead = None
    for batch in pipeline.stream(
      self._context.source,
      slots,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    ):
      if ahead is not None:
        yield ahead
      ahead = put(batch)
    if ahead is not None:
      yield ahead

  def _end_of_epoch(
    self, writer: curves.Curves, bar: progress.Progress
  ) -> None:
    config = self._config
    self._epoch += 1
    self._step_in_epoch = 0
    rows = [self._row('train', mean_of_steps(_to_host(self._epoch_metrics)))]
    self._epoch_metrics = []
    if self._epoch % config.eval_every == 0 or self._epoch == config.epochs:
      rows += self._evaluate()
    self.curve += rows
    writer.add(rows)
    shown = rows[-1]
    bar.advance(
      f'seed {self._seed} fold {self._fold.number} epoch {self._epoch} '
      f'{shown["split"]} {curves.in_words([shown], config.selection_metric)}'
    )

  def _evaluate(self) -> list[dict[str, Any]]:
    """Scores the dev side, and the test side where the protocol selects on it.

    Otherwise no test label is read before the end.
    """
    config, rows = self._config, []
    if len(self._fold.dev):
      scores = self._score(self._fold.dev)
      rows.append(self._row('dev', scores))
      self._offer('best_on_dev', scores)
      if config.schedule.name == 'plateau':
        self._apply_schedule(scores[config.schedule.metric])
    if config.select_on_test:
      scores = self._score(self._fold.test)
      rows.append(self._row('test', scores))
      self._offer('best_on_test', scores)
    return rows

  def _score(self, rows: np.ndarray) -> dict[str, float]:
    evaluator = self._context.evaluator
    return evaluator.score(evaluator.answers(*self._weights(), rows), rows)

  def _offer(self, name: str, scores: dict[str, float]) -> None:
    self._best[name].offer(
      scores[self._config.selection_metric], self._epoch, self._weights()
    )

  def _apply_schedule(self, score: float) -> None:
    rule = self._config.schedule
    self._plateau = jax.device_get(
      self._plateau.update(
        jnp.float32(score),
        factor=rule.factor,
        patience=rule.patience,
        stop_patience=rule.stop_patience,
      )
    )
    scale = self._context.placement.put_state(self._plateau.scale)
    self._state = self._state.replace(lr_scale=scale)

  def _row(self, split: str, values: dict[str, float]) -> dict[str, Any]:
    return {
      'seed': self._seed,
      'fold': self._fold.number,
      'epoch': self._epoch,
      'split': split,
      **values,
    }

  def _chosen(self) -> dict[str, tuple[int, Tree]]:
    chosen = {'last': (self._epoch, self._weights())}
    for name, best in self._best.items():
      chosen[name] = (best.epoch, best.weights)
    return chosen

  def answers(self) -> dict[str, tuple[int, np.ndarray]]:
    """Selection -> (epoch, answers for the test side)."""
    test = self._fold.test
    return {
      name: (epoch, self._context.evaluator.answers(*weights, test))
      for name, (epoch, weights) in self._chosen().items()
    }

  def weights(self) -> dict[str, tuple[int, Tree, Tree]]:
    """Selection -> (epoch, params, model_state)."""
    take = self._context.placement.get_state
    return {
      name: (epoch, *take(weights))
      for name, (epoch, weights) in self._chosen().items()
    }


def _to_host(steps: list[dict[str, Any]]) -> list[dict[str, float]]:
  return [
    {name: float(np.ravel(value)[0]) for name, value in step.items()}
    for step in jax.device_get(steps)
  ]


def mean_of_steps(steps: list[dict[str, float]]) -> dict[str, float]:
  """Means over an epoch's steps, each weighted by its utterances."""
  rows = np.array([step['rows'] for step in steps])
  return {
    name: float(np.sum(rows * [step[name] for step in steps]) / np.sum(rows))
    for name in steps[0]
    if name != 'rows'
  }
