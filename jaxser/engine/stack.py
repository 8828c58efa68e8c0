"""A stack of runs: several seeds and folds that train side by side.

Every array of a stack has a leading axis [runs], for one run too. A call of the
compiled program takes some optimizer steps of all its runs. Their batches come
as arrays, or as batch indices into a corpus that lies on the devices; then one
call is an epoch, a `lax.scan` over its steps.

On a GPU or TPU the runs of a device are one vmapped axis, on a CPU one follows
the other: there a vmapped step takes the time of all of them (TIM-Net, two
cores: 0.28 s per run and step either way) and the memory of all at once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxser.data import pipeline
from jaxser.engine import step as step_lib
from jaxser.engine.augmentation import PARTNER, Augmentation
from jaxser.engine.sharding import EVERYWHERE, ROWS, RUNS, STEPS, Sharding
from jaxser.systems.base import Array, Batch, System, Tree


class StackState(struct.PyTreeNode):
  """What changes in a stack of runs; each array has a leading axis [runs].

  Attributes:
    train: the state that the step changes.
    best: (params, model_state) of the best epoch so far, by selection.
  """

  train: step_lib.TrainState
  best: dict[str, tuple[Tree, Tree]]


def start(state: step_lib.TrainState, selections: Sequence[str]) -> StackState:
  """Returns one run before its first epoch, without the leading axis."""
  weights = (state.params, state.model_state)
  return StackState(state, dict.fromkeys(selections, weights))


def stacked(runs: Sequence[Tree], count: int) -> Tree:
  """Stacks the trees of some runs on the host.

  Runs beyond the given ones repeat the first; nothing trains them.
  """
  runs = [*runs, *[runs[0]] * (count - len(runs))]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def gather(corpus: Batch, indices: Batch) -> dict[str, Array]:
  """Returns a batch as in `jaxser.systems.base` from a corpus on the devices.

  Args:
    corpus: arrays of all utterances.
    indices: 'rows', int32 [batch], -1 for padding; 'row', the position of each
      in the global batch; by name of each reference, see
      `jaxser.data.pipeline.Slot`, int32 [batch], what stands beside them.
  """

  def pick(name, rows, otherwise):
    real = rows >= 0
    value = corpus[name][jnp.where(real, rows, 0)]
    return jnp.where(
      real.reshape(-1, *(1,) * (value.ndim - 1)), value, otherwise
    ).astype(value.dtype)

  batch = {
    'mask': (indices['rows'] >= 0).astype(jnp.float32),
    'row': indices['row'],
  }
  for name in [n for n in indices if n != 'row']:
    prefix = '' if name == 'rows' else f'{name}_'
    for part, otherwise in pipeline.PADDING.items():
      batch[prefix + part] = pick(part, indices[name], otherwise)
  return batch


class Programs:
  """The functions of a stack of runs, jitted over the devices of a sharding.

  Attributes:
    system: what is trained.
    optimizer: from `jaxser.engine.step.make_optimizer`.
    sharding: the devices.
    accumulate: micro-batches per step.
    augment: what happens to training batches, or None.
    ema: see `jaxser.engine.step.train_step`.
    side_by_side: whether runs of a device are vmapped; default: not on a CPU.
  """

  def __init__(
    self,
    system: System,
    optimizer: optax.GradientTransformation,
    sharding: Sharding,
    *,
    accumulate: int = 1,
    augment: Augmentation | None = None,
    ema: float = 0.0,
    side_by_side: bool | None = None,
  ):
    """Compiles nothing yet."""
    self.system, self.optimizer = system, optimizer
    self.sharding, self.accumulate = sharding, accumulate
    self.augment = augment
    self.ema = ema
    if side_by_side is None:
      side_by_side = sharding.platform != 'cpu'
    self.side_by_side = side_by_side

  def _of_runs(self, function: Callable, *arguments: Tree) -> Tree:
    """Applies the function of one run to the runs of this device."""
    if len(jax.tree.leaves(arguments)[0]) == 1:
      outputs = function(*jax.tree.map(lambda x: x[0], arguments))
      return jax.tree.map(lambda x: x[None], outputs)
    if self.side_by_side:
      return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda run: function(*run), arguments)

  def train(self, phase: Hashable = 'main') -> Callable[..., Any]:
    """Returns the jitted (state, corpus, batches, real, epoch) -> (state, metrics).

    It donates `state`.

    - state: `TrainState` with a leading axis [runs], kind RUNS.
    - corpus: arrays of all utterances, kind EVERYWHERE; {} where `batches` are
      arrays.
    - batches: kind STEPS: arrays [runs, steps, rows, ...] of `System` batches,
      or the indices that `gather` takes.
    - real: bool [runs, steps], kind RUNS: steps that are taken; the others
      change nothing. None takes all.
    - epoch: int32 [], epochs completed.
    - metrics: by name, float32 [runs, steps].

    Args:
      phase: static part of the loss.
    """

    def local(state, corpus, batches, real, epoch):
      def one(state, batches, real):
        return self._steps(phase, corpus, epoch, state, batches, real)

      return self._of_runs(one, state, batches, real)

    return self.sharding.compile(
      local, (RUNS, EVERYWHERE, STEPS, RUNS, EVERYWHERE), (RUNS, RUNS), donate=0
    )

  def _steps(self, phase, corpus, epoch, state, batches, real):
    """Takes the steps of one run."""

    # Traced once, although its result's shape is needed before its result.
    @jax.jit
    def take(state, batch):
      return step_lib.train_step(
        self.system,
        self.optimizer,
        state,
        gather(corpus, batch) if corpus else batch,
        epoch,
        accumulate=self.accumulate,
        augment=self.augment,
        phase=phase,
        ema=self.ema,
      )

    def skip(state, batch):
      metrics = jax.eval_shape(take, state, batch)[1]
      return state, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)

    # Under vmap a branch would compute both sides anyway, and devices that
    # share a batch must not wait for a sum that others skip.
    branch = not self.side_by_side and self.sharding.per_run == 1

    def step(state, item):
      batch, is_real = item
      if is_real is None:
        return take(state, batch)
      if branch:
        return jax.lax.cond(is_real, take, skip, state, batch)
      return jax.tree.map(
        lambda new, old: jnp.where(is_real, new, old),
        take(state, batch),
        skip(state, batch),
      )

    if len(jax.tree.leaves(batches)[0]) == 1:
      state, metrics = step(
        state, jax.tree.map(lambda x: x[0], (batches, real))
      )
      return state, jax.tree.map(lambda m: m[None], metrics)
    return jax.lax.scan(step, state, (batches, real))

  def predict(self) -> Callable[..., Array]:
    """Returns the jitted (weights, corpus, batch) -> predictions.

    - weights: (params, model_state) with a leading axis [runs], kind RUNS.
    - corpus, batch: as for `train`, but of kind ROWS: [runs, rows, ...].
    - predictions: float32 [runs, rows, classes or 3], kind ROWS.
    """
    name = 'scores' if self.system.task == 'classification' else 'vad'

    def local(weights, corpus, batch):
      def one(weights, batch):
        batch = gather(corpus, batch) if corpus else batch
        return self.system.predict(*weights, batch)[name]

      return self._of_runs(one, weights, batch)

    return self.sharding.compile(local, (RUNS, EVERYWHERE, ROWS), ROWS)

  def abstract_state(
    self,
    runs: int,
    example: Batch,
    prepare: Callable[[step_lib.TrainState], step_lib.TrainState],
  ) -> Tree:
    """Returns shapes of the `TrainState` of so many runs.

    Args:
      runs: how many.
      example: a batch with any number of rows.
      prepare: puts into a state what is known of a training split.
    """
    state = jax.eval_shape(
      lambda: step_lib.create_state(
        self.system, self.optimizer, jax.random.key(0), example
      )
    )
    state = prepare(state)
    state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), state
    )
    return self.sharding.abstract(state, RUNS)

  def abstract_epoch(
    self, runs: int, steps: int, rows: int, corpus: Mapping[str, Any]
  ) -> tuple[Tree, Tree, Tree, Tree]:
    """Returns shapes of (corpus, batches, real, epoch) as `train` takes them.

    Args:
      runs: of the stack.
      steps: of the epoch.
      rows: of each step.
      corpus: arrays of all utterances, or their shapes.
    """
    names = ['rows', 'row', *self.system.references]
    if self.augment is not None and self.augment.mixup:
      names.append(PARTNER)
    indices = jax.ShapeDtypeStruct((runs, steps, rows), np.int32)
    abstract = self.sharding.abstract
    return (
      abstract(dict(corpus), EVERYWHERE),
      abstract(dict.fromkeys(names, indices), STEPS),
      abstract(jax.ShapeDtypeStruct((runs, steps), np.bool_), RUNS),
      abstract(jax.ShapeDtypeStruct((), np.int32), EVERYWHERE),
    )
