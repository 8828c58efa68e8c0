"""One training inside the compiled program: epochs, steps, evaluation."""

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import optax

from jaxser.engine import schedule
from jaxser.engine import step as step_lib
from jaxser.engine.folds import scores
from jaxser.engine.folds.state import Best, Settings, Training
from jaxser.ops.collectives import axis_index
from jaxser.systems.base import Array, Batch, System, Tree


def take(
  corpus: Batch, rows: Array, partners: Array | None
) -> dict[str, Array]:
  """A batch as in `jaxser.systems.base`, from the corpus on the device.

  Args:
    corpus: arrays of all utterances.
    rows: int32 [batch], this device's rows of the batch, -1 for padding.
    partners: int32 [batch], neutral utterances, or None.
  """

  def pick(name, rows, otherwise):
    real = rows >= 0
    value = corpus[name][jnp.where(real, rows, 0)]
    return jnp.where(
      real.reshape(-1, *(1,) * (value.ndim - 1)), value, otherwise
    ).astype(value.dtype)

  first = axis_index() * len(rows)
  batch = {
    'features': pick('features', rows, 0),
    'length': pick('length', rows, 0),
    'label': pick('label', rows, -1),
    'vad': pick('vad', rows, 0),
    'speaker': pick('speaker', rows, -1),
    'mask': (rows >= 0).astype(jnp.float32),
    'row': (first + jnp.arange(len(rows))).astype(jnp.int32),
  }
  if partners is not None:
    batch['neutral_features'] = pick('features', partners, 0)
    batch['neutral_length'] = pick('length', partners, 0)
  return batch


def take_rows(corpus: Batch, rows: Array) -> dict[str, Array]:
  """Label, VAD and mask of rows of the corpus, -1 for padding."""
  chosen = jnp.maximum(rows, 0)
  return {
    'label': jnp.where(rows >= 0, corpus['label'][chosen], -1),
    'vad': corpus['vad'][chosen],
    'mask': (rows >= 0).astype(jnp.float32),
  }


def _where(condition: Array, new: Tree, old: Tree) -> Tree:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


@dataclasses.dataclass(frozen=True)
class Trainer:
  """The program for one training, before it is mapped over trainings.

  Attributes:
    system: what is trained.
    optimizer: from `jaxser.engine.step.make_optimizer`.
    settings: from the config.
    phase: static part of the loss.
    branch: whether padding steps are skipped rather than computed and dropped.
  """

  system: System
  optimizer: optax.GradientTransformation
  settings: Settings
  phase: Hashable
  branch: bool

  def call(
    self, corpus, training, task, order, first, count
  ) -> tuple[Training, Tree]:
    """Epochs first .. first + count - 1, and what is known of each."""

    # Traced once, although its result's shape is needed before its result.
    @jax.jit
    def epoch(i, training):
      here = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), order
      )
      return self.epoch(corpus, training, task, here, first + i)

    def one(i, carry):
      training, curve = carry
      training, row = epoch(i, training)
      return training, jax.tree.map(
        lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, i, 0),
        curve,
        row,
      )

    most = jax.tree.leaves(order)[0].shape[0]
    curve = jax.tree.map(
      lambda x: jnp.zeros((most, *x.shape), x.dtype),
      jax.eval_shape(epoch, jnp.int32(0), training)[1],
    )
    return jax.lax.fori_loop(jnp.int32(0), count, one, (training, curve))

  def epoch(
    self, corpus, training, task, order, number
  ) -> tuple[Training, Tree]:
    """One epoch and what is known of it."""
    active = ~training.plateau.stopped & (task.steps > 0)
    rng = jax.random.wrap_key_data(training.state.rng)

    def one(state, batch):
      state, metrics = step_lib.train_step(
        self.system,
        self.optimizer,
        state.replace(rng=rng),
        batch,
        number,
        accumulate=self.settings.accumulate,
        phase=self.phase,
      )
      return state.replace(rng=training.state.rng), metrics

    def step(state, here):
      index, rows = here
      real = active & (index < task.steps)

      # Traced once, as above.
      @jax.jit
      def do(state):
        batch = take(corpus, rows['rows'], rows.get('partners'))
        return one(state, batch)

      def skip(state):
        metrics = jax.eval_shape(do, state)[1]
        return state, jax.tree.map(
          lambda m: jnp.zeros(m.shape, m.dtype), metrics
        )

      if self.branch:
        return jax.lax.cond(real, do, skip, state)
      return _where(real, do(state), skip(state))

    steps = jnp.arange(order['rows'].shape[0])
    state, metrics = jax.lax.scan(step, training.state, (steps, order))
    training = training.replace(
      state=state, epoch=training.epoch + active.astype(jnp.int32)
    )
    row = {'active': active, 'train': metrics}
    if not task.sides:
      return training, row
    every, last = self.settings.eval_every, self.settings.epochs

    def evaluate(training):
      return self.evaluate(corpus, training, task, active)

    def leave(training):
      counted = jax.eval_shape(evaluate, training)[1]
      return training, jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), counted
      )

    if every == 1:
      training, counted = evaluate(training)
    else:
      due = ((number + 1) % every == 0) | (number + 1 == last)
      training, counted = jax.lax.cond(due, evaluate, leave, training)
    return training, {**row, **counted}

  def evaluate(self, corpus, training, task, active) -> tuple[Training, Tree]:
    """Scores the sides of the fold; keeps the best epochs' weights."""
    settings, counted, best = self.settings, {}, dict(training.best)
    weights = (training.state.params, training.state.model_state)
    plateau = training.plateau
    for name, rows in task.sides.items():
      found = self.answers(corpus, weights, rows)
      about = take_rows(corpus, rows.reshape(-1))
      if self.system.task == 'classification':
        counted[name] = scores.classification(
          found, about['label'], about['mask']
        )
      else:
        counted[name] = scores.regression(found, about['vad'], about['mask'])
      used = active & task.scored[name]
      score = scores.value(counted[name], settings.selection_metric)
      now = Best(weights, score, training.epoch)
      better = used & schedule.better(score, best[name].score)
      best[name] = _where(better, now, best[name])
      if name == 'dev' and settings.plateau:
        moved = plateau.update(
          scores.value(counted[name], settings.plateau_metric),
          factor=settings.factor,
          patience=settings.patience,
          stop_patience=settings.stop_patience,
        )
        plateau = _where(used, moved, plateau)
    state = training.state.replace(lr_scale=plateau.scale)
    return training.replace(state=state, best=best, plateau=plateau), counted

  def answers(self, corpus, weights, rows) -> Array:
    """Scores or VAD [batches * rows, ...] of int32 [batches, rows]."""
    name = 'scores' if self.system.task == 'classification' else 'vad'

    def one(rows):
      batch = take(corpus, rows, None)
      return self.system.predict(*weights, batch)[name]

    if rows.shape[0] == 1:
      return one(rows[0])
    found = jax.lax.map(one, rows)
    return found.reshape(-1, found.shape[-1])
