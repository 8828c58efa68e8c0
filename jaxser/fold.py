"""One training: one seed, one fold, from fresh parameters to predictions."""

import contextlib
import dataclasses
import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxser import checkpoints, curves, interruption, mesh, progress
from jaxser import schedule as schedule_lib
from jaxser import step as step_lib
from jaxser.data import partners, pipeline, protocols
from jaxser.evaluation import Evaluator
from jaxser.systems.base import System, Tree

TrainFns = dict[Any, mesh.TrainFn]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
  """What all folds and seeds of a run share, compiled functions included."""

  config: ml_collections.ConfigDict
  system: System
  optimizer: optax.GradientTransformation
  placement: mesh.Placement
  source: pipeline.Source
  evaluator: Evaluator
  train_fns: TrainFns = dataclasses.field(default_factory=dict)

  def train_fn(self, phase: Any, steps_per_epoch: int) -> mesh.TrainFn:
    """The step of this phase; compiled once for all folds."""
    key = (phase, steps_per_epoch)
    if key not in self.train_fns:
      self.train_fns[key] = self.placement.compile_train(
        self.system,
        self.optimizer,
        steps_per_epoch=steps_per_epoch,
        accumulate=self.config.accumulate,
        phase=phase,
      )
    return self.train_fns[key]


@dataclasses.dataclass
class Best:
  """The weights of the epoch with the best score so far.

  The first of several equal epochs is kept, as Keras' ModelCheckpoint does.
  """

  weights: Tree
  score: float = -math.inf
  epoch: int = 0

  def offer(self, score: float, epoch: int, weights: Tree) -> None:
    """Keeps a copy of the weights if the score is better."""
    if score > self.score:
      # A copy: the step is about to donate the buffers of its state.
      self.weights = jax.tree.map(jnp.copy, weights)
      self.score, self.epoch = score, epoch


class FoldTraining:
  """Trains one fold of one seed; can be stopped and continued at any step."""

  def __init__(
    self,
    context: Context,
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
    self._sampler = make_sampler(context, seed, fold)
    rng = jax.random.fold_in(jax.random.key(seed), fold.number)
    example = context.source.batch(self._sampler.epoch(0)[0])
    state = step_lib.create_state(
      context.system, context.optimizer, rng, example
    )
    if initial is not None:
      params, model_state = initial
      state = state.replace(params=params, model_state=model_state)
    table = context.source.corpus.table
    state = state.replace(
      model_state=context.system.prepare(
        state.model_state, table.vad[fold.train], table.labels[fold.train]
      )
    )
    self._state = context.placement.put_state(state)
    self._plateau = schedule_lib.Plateau.create()
    names = ['best_on_dev'] if len(fold.dev) else []
    if config.select_on_test:
      names.append('best_on_test')
    self._best = {name: Best(self._weights()) for name in names}
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
      train = self._context.train_fn(phase, steps)
      while self._step_in_epoch < steps:
        if watch.signum is not None:
          self.save(store)
          raise interruption.Interrupted(watch.signum)
        self._state, metrics = train(self._state, next(batches))
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
    rows = [self._row('train', _mean(_to_host(self._epoch_metrics)))]
    self._epoch_metrics = []
    if self._epoch % config.eval_every == 0 or self._epoch == config.epochs:
      rows += self._evaluate()
    self.curve += rows
    writer.add(rows)
    shown = rows[-1]
    metric = config.selection_metric
    score = f', {metric} {100 * shown[metric]:.1f} %' if metric in shown else ''
    bar.advance(
      f'seed {self._seed} fold {self._fold.number} epoch {self._epoch} '
      f'{shown["split"]} loss {shown.get("loss", math.nan):.3f}{score}'
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

  def answers(self) -> dict[str, tuple[int, np.ndarray]]:
    """Selection -> (epoch, answers for the test side)."""
    chosen = {'last': (self._epoch, self._weights())}
    for name, best in self._best.items():
      chosen[name] = (best.epoch, best.weights)
    test = self._fold.test
    return {
      name: (epoch, self._context.evaluator.answers(*weights, test))
      for name, (epoch, weights) in chosen.items()
    }


def make_sampler(
  context: Context, seed: int, fold: protocols.Fold
) -> pipeline.Sampler:
  """The batches of a fold's training side, as the config asks for them."""
  config, source = context.config, context.source
  buckets = tuple(b for b in config.data.buckets if b < source.max_length)
  if buckets:
    info = next(iter(source.corpus.stores.values()))
    seconds = source.corpus.table.durations[fold.train]
    lengths = np.ceil(seconds * info['frames_per_second']).astype(np.int64)
  else:
    lengths = np.zeros(len(fold.train), np.int64)
  found = neutral_partners(context, fold)
  return pipeline.Sampler(
    rows=fold.train,
    lengths=lengths,
    batch_size=config.batch_size,
    padded_size=context.placement.padded(config.batch_size, config.accumulate),
    buckets=(*buckets, source.max_length),
    seed=(seed, fold.number),
    partners=found and (lambda epoch: found.training(seed, fold.number, epoch)),
  )


def neutral_partners(
  context: Context, fold: protocols.Fold
) -> partners.Partners | None:
  """The neutral utterances that training rows can come with.

  Raises:
    ProtocolError: if a training speaker has none.
  """
  if not context.system.needs_neutral:
    return None
  corpus = context.source.corpus
  try:
    return partners.find_partners(
      corpus.table.speakers,
      corpus.table.labels,
      partners.neutral_label(corpus.classes),
      fold.train,
      context.config.data.neutral_references,
    )
  except ValueError as error:
    raise protocols.ProtocolError(f'fold {fold.number}: {error}') from error


def _to_host(steps: list[dict[str, Any]]) -> list[dict[str, float]]:
  return [
    {name: float(np.ravel(value)[0]) for name, value in step.items()}
    for step in jax.device_get(steps)
  ]


def _mean(steps: list[dict[str, float]]) -> dict[str, float]:
  """Means over an epoch's steps, each weighted by its utterances."""
  rows = np.array([step['rows'] for step in steps])
  return {
    name: float(np.sum(rows * [step[name] for step in steps]) / np.sum(rows))
    for name in steps[0]
    if name != 'rows'
  }
