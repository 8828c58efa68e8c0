"""Programs, batches and devices for stacks of runs, as many as memory allows."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core.errors import UserError
from jaxser.data import pipeline
from jaxser.engine import batches as batches_lib
from jaxser.engine import distributed, memory, stack
from jaxser.engine import step as step_lib
from jaxser.engine.experiment import Experiment, Run
from jaxser.engine.sharding import EVERYWHERE, RUNS, Sharding
from jaxser.systems.base import Tree

Note = Callable[[str], None]


class OutOfMemoryError(UserError):
  """Not even one run fits into the devices' memory."""


class Trainer:
  """Trains and predicts for stacks of one size, compiling as needed.

  Attributes:
    experiment: what all runs share.
    runs: how many train at once.
    slots: that number, filled up so that all devices have equally many.
    sharding: the devices.
    programs: what is jitted over them.
    rows: of a training batch, padding included.
    batches: `Resident` or `Streamed`.
    selections: the best epochs that are kept, with the split that chooses them.
  """

  def __init__(
    self,
    experiment: Experiment,
    every: Sequence[Run],
    runs: int = 1,
    *,
    resident: bool = False,
    note: Note = lambda text: None,
    devices: Sequence[jax.Device] | None = None,
    side_by_side: bool | None = None,
  ):
    """Compiles nothing yet.

    Args:
      experiment: what all runs share.
      every: all runs of the experiment, whose sizes decide on shapes.
      runs: how many train at once; one where batches are streamed.
      resident: whether the corpus lies on the devices.
      note: gets lines for people.
      devices: default all.
      side_by_side: see `jaxser.engine.stack.Programs`.
    """
    config, self.runs = experiment.config, runs
    self.experiment, self._note = experiment, note
    self.sharding = Sharding(runs, devices=devices, parallel=config.parallel)
    self.slots = self.sharding.padded_runs(runs)
    self.programs = stack.Programs(
      experiment.system,
      experiment.optimizer,
      self.sharding,
      accumulate=config.accumulate,
      augment=experiment.augment,
      ema=config.ema,
      side_by_side=side_by_side,
    )
    self._train: dict[Hashable, Callable[..., Any]] = {}
    self._noted: set[Hashable] = set()
    folds = [fold for _, fold in every]
    self._fold, self.selections = folds[0], experiment.selections(folds)
    padded, size = self.sharding.padded, config.batch_size
    longest = max(max(len(fold.dev), len(fold.test), 1) for fold in folds)
    self.rows = padded(size, config.accumulate)
    kind = batches_lib.Resident if resident else batches_lib.Streamed
    self.batches = kind(
      experiment.source,
      self.sharding,
      rows=self.rows,
      eval_rows=padded(min(config.eval_batch_size, longest)),
      steps=max(-(-len(fold.train) // size) for fold in folds),
    )

  @functools.cached_property
  def abstract(self) -> stack.StackState:
    """Shapes of the stack's state."""
    state = self.programs.abstract_state(
      self.slots,
      self.experiment.example(self._fold),
      functools.partial(self.experiment.prepared, fold=self._fold),
    )
    return stack.start(state, tuple(self.selections))

  def blank(self, runs: int) -> stack.StackState:
    """Returns shapes of some runs' states on the host."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((runs, *x.shape[1:]), x.dtype),
      self.abstract,
    )

  def abstract_epoch(self) -> tuple[Tree, ...]:
    """Returns shapes of what an epoch takes after the state, on the devices."""
    return self.programs.abstract_epoch(
      self.slots, self.batches.steps, self.rows, self.batches.shapes
    )

  def compile(self, phases: Sequence[Hashable], budget: int) -> int:
    """Compiles the epochs of these phases for a corpus on the devices.

    Args:
      phases: of the loss.
      budget: bytes on each device.

    Returns:
      Bytes that the largest of them needs; or more than the budget, as soon as
      it is known not to suffice.
    """
    corpus = self.batches.shapes
    arguments = self.abstract_epoch()
    groups, per_run = self.sharding.run_groups, self.sharding.per_run
    best = memory.size(self.abstract.best) // groups
    row = memory.size(corpus) // len(self.experiment.source.corpus.table)
    batch = self.rows // per_run * row * self.slots // groups
    # The least that can be, before anything is compiled.
    needed = memory.size(self.abstract) // groups + memory.size(corpus) + batch
    for phase in phases:
      if needed > budget:
        break
      self._say('train', phase)
      function = self.programs.train(phase)
      try:
        compiled = function.lower(self.abstract.train, *arguments).compile()
      except jax.errors.JaxRuntimeError as error:
        # Compilers of GPUs try kernels on arrays of the real size.
        if not memory.exhausted(error):
          raise
        return budget + 1
      self._train[phase] = compiled
      needed = max(needed, memory.need(compiled) + best)
    return needed

  def _say(self, kind: str, phase: Hashable, length: int = 0) -> None:
    """Says once what is about to be compiled, which may take a while."""
    if (kind, phase, length) in self._noted:
      return
    self._noted.add((kind, phase, length))
    what = 'the training step' if kind == 'train' else 'the prediction'
    what += '' if phase == 'main' else f', phase {phase!r}'
    what += f', length {length}' if length else ''
    self._note(f'Compiling {what} ...')

  def put(self, runs: Sequence[Tree]) -> Tree:
    """Stacks trees of some runs on the devices."""
    return self.sharding.put(stack.stacked(runs, self.slots), RUNS)

  def host(self, tree: Tree, runs: int) -> Tree:
    """Returns the first runs' part of a stacked tree on the host."""
    return jax.tree.map(lambda x: x[:runs], self.sharding.get(tree))

  def samplers(self, runs: Sequence[Run]) -> list[pipeline.Sampler | None]:
    """Returns what draws each slot's batches."""
    drawn = [self.experiment.sampler(*run, self.rows) for run in runs]
    return [*drawn, *[None] * (self.slots - len(drawn))]

  def train(
    self,
    state: stack.StackState,
    chunk: batches_lib.Chunk,
    active: np.ndarray,
    epoch: int,
  ) -> tuple[stack.StackState, Tree]:
    """Takes the steps of a chunk; returns at once.

    Args:
      state: of the stack; consumed.
      chunk: its batches.
      active: bool [slots], runs that are trained.
      epoch: epochs completed.

    Returns:
      The new state, and metrics [slots, steps] on the devices.
    """
    phase, real = self.experiment.system.phase(epoch), chunk.real
    if real is not None:
      real = self.sharding.put(real & active[:, None], RUNS)
    if phase not in self._train:
      self._train[phase] = self.programs.train(phase)
    if chunk.length:
      self._say('train', phase, chunk.length)
    train, metrics = self._train[phase](
      state.train,
      self.batches.corpus,
      chunk.batches,
      real,
      self.sharding.put(np.int32(epoch), EVERYWHERE),
    )
    return state.replace(train=train), metrics

  @functools.cached_property
  def _predict(self) -> Callable[..., jax.Array]:
    self._say('predict', 'main')
    return self.programs.predict()

  def predict(
    self, weights: Tree, rows: Sequence[np.ndarray]
  ) -> list[np.ndarray]:
    """Returns scores [n, classes] or VAD [n, 3] of each run's rows.

    Args:
      weights: (params, model_state) of the stack, on the devices.
      rows: int [n] of the corpus, for each run.
    """
    empty = np.zeros(0, np.int64)
    padded = [*rows, *[empty] * (self.slots - len(rows))]
    evaluated, places = self.batches.evaluation(
      padded, list(map(self.experiment.predicted_with, padded))
    )
    outputs = [
      self._predict(weights, self.batches.corpus, batch) for batch in evaluated
    ]
    if not outputs:
      return [np.zeros((0, 0), np.float32) for _ in rows]
    whole = np.concatenate(list(map(self.sharding.get_rows, outputs)), axis=1)
    return [whole[i][places[i]] for i in range(len(rows))]

  @functools.cached_property
  def _where(self) -> Callable[..., Tree]:
    def where(improved, new, old):
      def one(a, b):
        shape = (-1, *(1,) * (a.ndim - 1))
        return jnp.where(improved.reshape(shape), a, b)

      return jax.tree.map(one, new, old)

    kind = self.sharding.of(RUNS)
    return jax.jit(where, donate_argnums=2, out_shardings=kind)

  def keep_best(
    self, state: stack.StackState, selection: str, improved: np.ndarray
  ) -> stack.StackState:
    """Keeps the weights of the runs that improved, bool [slots]."""
    if not improved.any():
      return state
    weights = (state.train.params, state.train.model_state)
    improved = self.sharding.put(improved, RUNS)
    best = self._where(improved, weights, state.best[selection])
    return state.replace(best={**state.best, selection: best})

  @functools.cached_property
  def _averaged(self) -> Callable[..., Tree]:
    ema = self.experiment.config.ema
    function = jax.vmap(functools.partial(step_lib.averaged, ema=ema))
    return jax.jit(function, out_shardings=self.sharding.of(RUNS))

  def averaged(self, state: stack.StackState) -> Tree:
    """Returns the averages of the runs' (params, model_state)."""
    return self._averaged(state.train)

  def set_lr_scale(
    self, state: stack.StackState, scale: Sequence[float]
  ) -> stack.StackState:
    """Sets each run's factor on the learning rate."""
    scale = self.put([np.float32(factor) for factor in scale])
    return state.replace(train=state.train.replace(lr_scale=scale))


def obstacle(experiment: Experiment) -> str | None:
  """Returns why the corpus cannot stay on the devices, or None."""
  config, source = experiment.config, experiment.source
  if config.parallel != 'jit':
    return f'--config.parallel={config.parallel}'
  if len(source.buckets) > 1:
    # Of any split, as an example.
    rows = np.arange(len(source.lengths))
    slots, _ = pipeline.for_evaluation(source, rows, config.batch_size)
    share = pipeline.padding_share(source, slots)
    return f'batches have {len(source.buckets)} lengths ({share:.0%} padding)'
  if not source.in_memory:
    limit = f'--config.data.cache_gib={config.data.cache_gib:g}'
    return f'the corpus is larger than {limit}'
  return None


def plan(
  experiment: Experiment,
  every: Sequence[Run],
  note: Note,
  *,
  at_most: int = 0,
  devices: Sequence[jax.Device] | None = None,
  side_by_side: bool | None = None,
) -> Trainer:
  """Returns a trainer for as many runs at once as memory allows.

  Args:
    experiment: what all runs share.
    every: all runs of the experiment.
    note: gets lines that tell people what was chosen and why.
    at_most: runs at once; 0 is config.runs_at_once, or else all of them, on a
      CPU one per device.
    devices: default all.
    side_by_side: see `jaxser.engine.stack.Programs`.
  """
  config, devices = experiment.config, list(devices or jax.devices())
  made = functools.partial(
    Trainer,
    experiment,
    every,
    note=note,
    devices=devices,
    side_by_side=side_by_side,
  )
  reason = obstacle(experiment)
  if reason is None:
    local = [d for d in devices if d.process_index == jax.process_index()]
    # All processes must plan alike, so the one with the least decides.
    local_budget = memory.budget(local[0], config.memory_gib)
    budget = int(np.min(distributed.of_all(np.int64(local_budget))))
    # On a CPU more would take more memory and save no time.
    one_each = devices[0].platform == 'cpu' and not side_by_side
    wanted = len(devices) if one_each else len(every)
    count = min(at_most or config.runs_at_once or wanted, len(every))
    phases = dict.fromkeys(map(experiment.system.phase, range(config.epochs)))
    where = f'{len(devices)} devices' if len(devices) > 1 else 'one device'
    while count:
      trainer = made(count, resident=True)
      needed = trainer.compile(tuple(phases), budget)
      if needed <= budget:
        note(
          f'{count} of {len(every)} runs at once on {where}, {memory.show(needed)}'
          f'{" each" if len(devices) > 1 else ""}, the corpus included.'
        )
        return trainer
      groups = trainer.sharding.run_groups
      count = max(groups, count // 2) if count > groups else 0
    reason = (
      f'one run with the corpus needs {memory.show(needed)} of '
      f'{memory.show(budget)} on each device'
    )
  note(f'Batches are streamed, one run at a time: {reason}.')
  return made()
