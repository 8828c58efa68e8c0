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
    batches: `Resident` or `Streamed`.
    selections: the best epochs that are kept, with the split that chooses them.
  """

  def __init__(
    self,
    experiment: Experiment,
    every: Sequence[Run],
    runs: int,
    *,
    resident: bool,
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
    config, source = experiment.config, experiment.source
    self.experiment, self._note = experiment, note
    self.runs = runs if resident else 1
    self.sharding = Sharding(
      self.runs, devices=devices, parallel=config.parallel
    )
    self.slots = self.sharding.padded_runs(self.runs)
    self._programs = stack.Programs(
      experiment.system,
      experiment.optimizer,
      self.sharding,
      accumulate=config.accumulate,
      side_by_side=side_by_side,
    )
    self._compiled: dict[Hashable, Callable[..., Any]] = {}
    self._noted: set[Hashable] = set()
    self._fold = every[0][1]
    folds = [fold for _, fold in every]
    self.selections = {}
    if any(len(fold.dev) for fold in folds):
      self.selections['best_on_dev'] = 'dev'
    if config.select_on_test:
      self.selections['best_on_test'] = 'test'
    longest = max(max(len(fold.dev), len(fold.test)) for fold in folds)
    self.rows = self.sharding.padded(config.batch_size, config.accumulate)
    eval_rows = self.sharding.padded(min(config.eval_batch_size, longest))
    self._steps = max(-(-len(f.train) // config.batch_size) for f in folds)
    if resident:
      self.batches = batches_lib.Resident(
        source, self.sharding, self.rows, eval_rows, self._steps
      )
    else:
      self.batches = batches_lib.Streamed(source, self.sharding, eval_rows)

  # Memory.

  @functools.cached_property
  def abstract(self) -> stack.StackState:
    """Shapes of the stack's state."""
    table, train = self.experiment.source.corpus.table, self._fold.train
    state = self._programs.abstract_state(
      self.slots,
      self.experiment.example(self._fold),
      (table.vad[train], table.labels[train]),
    )
    return stack.start(state, tuple(self.selections))

  def blank(self, runs: int) -> stack.StackState:
    """Returns shapes of some runs' states on the host."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((runs, *x.shape[1:]), x.dtype),
      self.abstract,
    )

  def _abstract_corpus(self) -> Tree:
    source = self.experiment.source
    example = self.experiment.example(self._fold)
    count = len(source.corpus.table)
    return {
      name: jax.ShapeDtypeStruct(
        (count, *example[name].shape[1:]), example[name].dtype
      )
      for name in ('features', 'length', 'label', 'vad', 'speaker')
    }

  def least(self) -> int:
    """Returns bytes that a device needs at the very least, uncompiled."""
    corpus = self._abstract_corpus()
    per_device = self.slots // self.sharding.run_groups
    row = memory.size(corpus['features']) // corpus['features'].shape[0]
    batch = self.rows // self.sharding.per_run * row
    states = memory.size(self.abstract) * per_device // self.slots
    return memory.size(corpus) + states + 2 * per_device * batch

  def compile(self, phases: Sequence[Hashable], budget: int) -> int:
    """Compiles the epochs of these phases for a corpus on the devices.

    Args:
      phases: of the loss.
      budget: bytes on each device.

    Returns:
      Bytes that the largest of them needs; a number above the budget once one
      does not fit.
    """
    arguments = self._programs.abstract_epoch(
      self.slots, self._steps, self.rows, self._abstract_corpus()
    )
    kept = memory.size(self.abstract.best) // self.sharding.run_groups
    needed = 0
    for phase in phases:
      self._say(phase, phase)
      function = self._programs.train(phase)
      try:
        compiled = function.lower(self.abstract.train, *arguments).compile()
      except jax.errors.JaxRuntimeError as error:
        # Compilers of GPUs try kernels on arrays of the real size.
        if not memory.exhausted(error):
          raise
        return max(needed, budget) + 1
      self._compiled[phase] = compiled
      needed = max(needed, memory.need(compiled) + kept)
      if needed > budget:
        break
    return needed

  def _say(self, key: Hashable, phase: Hashable, shape: str = '') -> None:
    """Says what is about to be compiled, which may take a while."""
    if key in self._noted:
      return
    self._noted.add(key)
    many = f' of {self.runs} runs at once' if self.runs > 1 else ''
    which = '' if phase in (None, 'main') else f", phase '{phase}'"
    what = 'prediction' if phase is None else 'training step'
    self._note(f'Compiling the {what}{many}{which}{shape} ...')

  # What the loop calls.

  def put(self, runs: Sequence[stack.StackState]) -> stack.StackState:
    """Stacks the states of some runs on the devices."""
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
    if phase not in self._compiled:
      self._compiled[phase] = self._programs.train(phase)
    if self.batches.name == 'streamed':
      shape = chunk.batches['features'].shape
      length = shape[3 if self.sharding.parallel == 'jit' else 4]
      self._say((phase, length), phase, f', length {length}')
    train, metrics = self._compiled[phase](
      state.train,
      self.batches.corpus,
      chunk.batches,
      real,
      self.sharding.put(np.int32(epoch), EVERYWHERE),
    )
    return state.replace(train=train), metrics

  @functools.cached_property
  def _predict(self) -> Callable[..., jax.Array]:
    self._say('predict', None)
    return self._programs.predict()

  def predict(
    self, weights: Tree, rows: Sequence[np.ndarray]
  ) -> list[np.ndarray]:
    """Returns scores [n, classes] or VAD [n, 3] of each run's rows.

    Args:
      weights: (params, model_state) of the stack, on the devices.
      rows: int [n] of the corpus, for each run.
    """
    none = np.zeros(0, np.int64)
    padded = [*rows, *[none] * (self.slots - len(rows))]
    evaluated, places = self.batches.evaluation(padded)
    outputs = [
      self._predict(weights, self.batches.corpus, batch) for batch in evaluated
    ]
    whole = np.concatenate(list(map(self.sharding.get_rows, outputs)), axis=1)
    return [whole[i][places[i]] for i in range(len(rows))]

  @functools.cached_property
  def _where(self) -> Callable[..., Tree]:
    def where(improved, new, old):
      return jax.tree.map(
        lambda a, b: jnp.where(
          improved.reshape(-1, *(1,) * (a.ndim - 1)), a, b
        ),
        new,
        old,
      )

    return jax.jit(
      where, donate_argnums=2, out_shardings=self.sharding.of(RUNS)
    )

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

  def set_lr_scale(
    self, state: stack.StackState, scale: np.ndarray
  ) -> stack.StackState:
    """Sets every run's factor on the learning rate, float32 [slots]."""
    scale = self.sharding.put(scale.astype(np.float32), RUNS)
    return state.replace(train=state.train.replace(lr_scale=scale))


def obstacle(experiment: Experiment) -> str | None:
  """Returns why the corpus cannot stay on the devices, or None."""
  config, source = experiment.config, experiment.source
  if config.parallel != 'jit':
    return f'--config.parallel={config.parallel}'
  if len(source.buckets) > 1:
    return 'data.buckets make batches of several lengths'
  if not source.in_memory:
    return (
      'the corpus is larger than --config.data.cache_gib='
      f'{config.data.cache_gib:g}'
    )
  return None


def plan(
  experiment: Experiment,
  every: Sequence[Run],
  note: Note,
  *,
  at_most: int = 0,
  epoch: int = 0,
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
    epoch: the first that is trained; phases before it are not compiled.
    devices: default all.
    side_by_side: see `jaxser.engine.stack.Programs`.
  """
  config, system = experiment.config, experiment.system
  devices = list(devices or jax.devices())
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
    phases = dict.fromkeys(map(system.phase, range(epoch, config.epochs)))
    while True:
      trainer = made(count, resident=True)
      needed = trainer.least()
      if needed <= budget:
        needed = trainer.compile(tuple(phases), budget)
      if needed <= budget:
        note(
          f'{trainer.runs} of {len(every)} runs at once on {len(devices)} '
          f'{"devices" if len(devices) > 1 else "device"}, the corpus on '
          f'{"each" if len(devices) > 1 else "it"}: {memory.show(needed)}.'
        )
        return trainer
      groups = trainer.sharding.run_groups
      if count <= groups:
        break
      count = max(groups, count // 2)
    reason = (
      f'one run with the corpus needs {memory.show(needed)} on each device, of '
      f'which {memory.show(budget)} may be used'
    )
  note(f'Batches are streamed, one run at a time: {reason}.')
  return made(1, resident=False)
