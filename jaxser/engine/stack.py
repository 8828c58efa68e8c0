"""A stack of runs: several seeds and folds that train side by side.

Every array of a stack has a leading axis [runs], for one run too. On a GPU or
TPU the runs of a device are one vmapped axis, on a CPU one follows the other:
there a vmapped step takes the time of all of them (TIM-Net, two cores: 0.28 s
per run and step either way) and the memory of all at once.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxser.data import pipeline
from jaxser.engine import step as step_lib
from jaxser.engine.augmentation import Augmentation
from jaxser.engine.sharding import EVERYWHERE, ROWS, RUNS, STEPS, Sharding
from jaxser.systems.base import Array, Batch, System, Tree


class StackState(struct.PyTreeNode):
  """What changes in a stack of runs; each array has a leading axis [runs]."""

  train: step_lib.TrainState
  # (params, model_state) of the best epoch so far, by selection.
  best: dict[str, tuple[Tree, Tree]]


def start(state: step_lib.TrainState, selections: Iterable[str]) -> StackState:
  """Returns one run before its first epoch, without the leading axis."""
  weights = (state.params, state.model_state)
  return StackState(state, dict.fromkeys(selections, weights))


def stacked(runs: Sequence[Tree], count: int) -> Tree:
  """Stacks trees on the host; beyond the given ones the first is repeated."""
  runs = [*runs, *[runs[0]] * (count - len(runs))]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def gather(corpus: Batch, indices: Batch) -> dict[str, Array]:
  """Returns a batch as in `jaxser.systems.base` from a corpus on the devices.

  `indices` are int32 [batch]: 'rows', -1 for padding; 'row', the position of
  each in the global batch; and by name what stands beside them, see
  `pipeline.Slot`.
  """

  def pick(name, rows, otherwise):
    real = rows >= 0
    value = corpus[name][jnp.where(real, rows, 0)]
    real = real.reshape(-1, *(1,) * (value.ndim - 1))
    return jnp.where(real, value, otherwise).astype(value.dtype)

  mask = (indices['rows'] >= 0).astype(jnp.float32)
  batch = {'mask': mask, 'row': indices['row']}
  for name in [n for n in indices if n != 'row']:
    prefix = '' if name == 'rows' else f'{name}_'
    for part, otherwise in pipeline.PADDING.items():
      batch[prefix + part] = pick(part, indices[name], otherwise)
  return batch


@dataclasses.dataclass(eq=False)
class Programs:
  """The functions of a stack of runs, jitted over the devices of a sharding."""

  system: System
  optimizer: optax.GradientTransformation
  sharding: Sharding
  _: dataclasses.KW_ONLY
  accumulate: int = 1  # Micro-batches per step.
  augment: Augmentation | None = None
  ema: float = 0.0  # See `jaxser.engine.step.train_step`.
  # Whether runs of a device are vmapped; default: not on a CPU.
  side_by_side: bool | None = None

  def __post_init__(self):
    if self.side_by_side is None:
      self.side_by_side = self.sharding.platform != 'cpu'

  def _of_runs(self, function: Callable, *arguments: Tree) -> Tree:
    if len(jax.tree.leaves(arguments)[0]) == 1:
      outputs = function(*jax.tree.map(lambda x: x[0], arguments))
      return jax.tree.map(lambda x: x[None], outputs)
    if self.side_by_side:
      return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda run: function(*run), arguments)

  def train(self, phase: Hashable = 'main') -> Any:
    """Returns the jitted (state, corpus, batches, real, epoch) -> (state, metrics).

    - state: `TrainState` with a leading axis [runs], kind RUNS; donated.
    - corpus: all utterances, kind EVERYWHERE; {} where `batches` are arrays.
    - batches: kind STEPS: arrays [runs, steps, rows, ...] of `System` batches,
      or the indices that `gather` takes.
    - real: bool [runs, steps], kind RUNS: steps that are taken, None for all.
    - epoch: int32 [], epochs completed.
    - metrics: by name, float32 [runs, steps].
    """

    def local(state, corpus, batches, real, epoch):
      def one(state, batches, real):
        return self._steps(phase, corpus, epoch, state, batches, real)

      return self._of_runs(one, state, batches, real)

    kinds = (RUNS, EVERYWHERE, STEPS, RUNS, EVERYWHERE)
    return self.sharding.compile(local, kinds, (RUNS, RUNS), donate=0)

  def _steps(self, phase, corpus, epoch, state, batches, real):
    # Traced once, although its result's shape is needed before its result.
    @jax.jit
    def take(state, batch):
      batch = gather(corpus, batch) if corpus else batch
      return step_lib.train_step(
        self.system,
        self.optimizer,
        state,
        batch,
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
      new, old = take(state, batch), skip(state, batch)
      return jax.tree.map(lambda a, b: jnp.where(is_real, a, b), new, old)

    items = batches, real
    if len(jax.tree.leaves(batches)[0]) == 1:
      state, metrics = step(state, jax.tree.map(lambda x: x[0], items))
      return state, jax.tree.map(lambda m: m[None], metrics)
    return jax.lax.scan(step, state, items)

  def predict(self) -> Callable[..., Array]:
    """Returns the jitted (weights, corpus, batch) -> float32 [runs, rows, ...].

    Weights are (params, model_state), kind RUNS; the others as for `train`, but
    of kind ROWS, as are the predictions.
    """
    name = 'scores' if self.system.task == 'classification' else 'vad'

    def local(weights, corpus, batch):
      def one(weights, batch):
        batch = gather(corpus, batch) if corpus else batch
        return self.system.predict(*weights, batch)[name]

      return self._of_runs(one, weights, batch)

    return self.sharding.compile(local, (RUNS, EVERYWHERE, ROWS), ROWS)
