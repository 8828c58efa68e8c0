"""Programs, batches and devices for as many runs as memory allows."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core.errors import UserError
from jaxser.data import pipeline
from jaxser.engine import distributed, memory, stack
from jaxser.engine import step as step_lib
from jaxser.engine.augmentation import PARTNER
from jaxser.engine.batches import Chunk, Resident, Streamed
from jaxser.engine.experiment import Experiment, Run
from jaxser.engine.sharding import EVERYWHERE, RUNS, STEPS, Sharding
from jaxser.engine.stack import StackState
from jaxser.systems.base import Tree

Rows = np.ndarray
"""Rows of the corpus, int [n]."""
Note = Callable[[str], None]
"""Gets lines for people."""


class OutOfMemoryError(UserError):
  """Not even one run fits into the devices' memory."""


class Trainer:
  """Trains and predicts for so many runs; `slots` share all devices evenly."""

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
    """Compiles nothing yet; the sizes of `every` run decide on shapes."""
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
    eval_rows = padded(min(config.eval_batch_size, longest))
    steps = max(-(-len(fold.train) // size) for fold in folds)
    kind = Resident if resident else Streamed
    self.batches = kind(
      experiment.source, self.sharding, self.rows, eval_rows, steps
    )

  @functools.cached_property
  def abstract(self) -> StackState:
    """Shapes of the stack's state."""
    create = functools.partial(
      step_lib.create_state, self.experiment.system, self.experiment.optimizer
    )
    example = self.experiment.example(self._fold)
    state = jax.eval_shape(lambda: create(jax.random.key(0), example))
    state = self.experiment.prepared(state, self._fold)
    state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((self.slots, *x.shape), x.dtype), state
    )
    return stack.start(self.sharding.abstract(state, RUNS), self.selections)

  def blank(self, runs: int) -> StackState:
    """Returns shapes of some runs' states on the host."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((runs, *x.shape[1:]), x.dtype),
      self.abstract,
    )

  def abstract_epoch(self) -> tuple[Tree, ...]:
    """Returns shapes of what an epoch takes after the state, on the devices."""
    augment, shape = self.experiment.augment, (self.slots, self.batches.steps)
    names = ['rows', 'row', *self.experiment.system.references]
    if augment is not None and augment.mixup:
      names.append(PARTNER)
    indices = jax.ShapeDtypeStruct((*shape, self.rows), np.int32)
    abstract = self.sharding.abstract
    return (
      abstract(self.batches.shapes, EVERYWHERE),
      abstract(dict.fromkeys(names, indices), STEPS),
      abstract(jax.ShapeDtypeStruct(shape, np.bool_), RUNS),
      abstract(jax.ShapeDtypeStruct((), np.int32), EVERYWHERE),
    )

  def compile(self, phases: Sequence[Hashable], budget: int) -> int:
    """Compiles epochs; returns the most bytes, or more than the budget."""
    corpus, arguments = self.batches.shapes, self.abstract_epoch()
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
    return self.sharding.put(stack.stacked(runs, self.slots), RUNS)

  def host(self, tree: Tree, runs: int) -> Tree:
    return jax.tree.map(lambda x: x[:runs], self.sharding.get(tree))

  def samplers(self, runs: Sequence[Run]) -> list[pipeline.Sampler | None]:
    drawn = [self.experiment.sampler(*run, self.rows) for run in runs]
    return [*drawn, *[None] * (self.slots - len(drawn))]

  def train(
    self, state: StackState, chunk: Chunk, active: np.ndarray, epoch: int
  ) -> tuple[StackState, Tree]:
    """Takes the steps of a chunk; consumes the state and returns at once."""
    phase, real = self.experiment.system.phase(epoch), chunk.real
    if real is not None:
      real = self.sharding.put(real & active[:, None], RUNS)
    if phase not in self._train:
      self._train[phase] = self.programs.train(phase)
    if chunk.length:
      self._say('train', phase, chunk.length)
    epoch = self.sharding.put(np.int32(epoch), EVERYWHERE)
    train, metrics = self._train[phase](
      state.train, self.batches.corpus, chunk.batches, real, epoch
    )
    return state.replace(train=train), metrics

  @functools.cached_property
  def _predict(self) -> Callable[..., jax.Array]:
    self._say('predict', 'main')
    return self.programs.predict()

  def predict(self, weights: Tree, rows: Sequence[Rows]) -> list[np.ndarray]:
    """Returns scores [n, classes] or VAD [n, 3] of each run's rows, int [n]."""
    empty = np.zeros(0, np.int64)
    padded = [*rows, *[empty] * (self.slots - len(rows))]
    beside = list(map(self.experiment.predicted_with, padded))
    batches, places = self.batches.evaluation(padded, beside)
    corpus = self.batches.corpus
    outputs = [self._predict(weights, corpus, batch) for batch in batches]
    if not outputs:
      return [np.zeros((0, 0), np.float32) for _ in rows]
    whole = np.concatenate(list(map(self.sharding.get_rows, outputs)), axis=1)
    return [whole[i][places[i]] for i in range(len(rows))]

  @property
  def _places(self) -> Tree:
    """Where (params, model_state) lie."""
    state = self.abstract.train
    return self.sharding.of((state.params, state.model_state), RUNS)

  @functools.cached_property
  def _where(self) -> Callable[..., Tree]:
    def where(improved, new, old):
      def one(a, b):
        return jnp.where(improved.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

      return jax.tree.map(one, new, old)

    return jax.jit(where, donate_argnums=2, out_shardings=self._places)

  def keep_best(self, state: StackState, selection: str, improved: np.ndarray):
    if not improved.any():
      return state
    weights = (state.train.params, state.train.model_state)
    improved = self.sharding.put(improved, RUNS)
    best = self._where(improved, weights, state.best[selection])
    return state.replace(best={**state.best, selection: best})

  def averaged(self, state: StackState) -> Tree:
    ema = self.experiment.config.ema
    function = jax.vmap(functools.partial(step_lib.averaged, ema=ema))
    return jax.jit(function, out_shardings=self._places)(state.train)


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
  """Returns a trainer for as many of the runs at once as memory allows."""
  config, devices = experiment.config, list(devices or jax.devices())
  more: dict[str, Any] = {
    'note': note,
    'devices': devices,
    'side_by_side': side_by_side,
  }
  reason = obstacle(experiment)
  if reason is None:
    local = [d for d in devices if d.process_index == jax.process_index()]
    # All processes must plan alike, so the one with the least decides.
    local_budget = memory.budget(local[0], config.memory_gib)
    budget = int(np.min(distributed.of_all(np.array(local_budget))))
    # On a CPU more would take more memory and save no time.
    one_each = devices[0].platform == 'cpu' and not side_by_side
    wanted = len(devices) if one_each else len(every)
    count = min(at_most or config.runs_at_once or wanted, len(every))
    phases = dict.fromkeys(map(experiment.system.phase, range(config.epochs)))
    where, each = 'one device', ''
    if len(devices) > 1:
      where, each = f'{len(devices)} devices', ' each'
    while count:
      trainer = Trainer(experiment, every, count, resident=True, **more)
      needed = trainer.compile(tuple(phases), budget)
      if needed <= budget:
        note(
          f'{count} of {len(every)} runs at once on {where}, '
          f'{memory.show(needed)}{each}, the corpus included.'
        )
        return trainer
      groups = trainer.sharding.run_groups
      count = max(groups, count // 2) if count > groups else 0
    reason = (
      f'one run with the corpus needs {memory.show(needed)} of '
      f'{memory.show(budget)} on each device'
    )
  note(f'Batches are streamed, one run at a time: {reason}.')
  return Trainer(experiment, every, **more)
