"""Compiles the program of many trainings so that it fits, and runs it."""

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.data import protocols
from jaxser.engine import context as context_lib
from jaxser.engine import distributed
from jaxser.engine.folds import batches, memory, program, state
from jaxser.engine.folds.grid import Grid

Tree = Any
Trainings = Sequence[tuple[int, protocols.Fold]]


class Engine:
  """Programs for as many trainings at once as memory allows.

  Attributes:
    at_once: trainings of a call, at most.
    grid: the devices.
    shapes: sizes of the programs' arguments.
    needed: bytes on each device, as the compiler says; 0 where it does not.
  """

  def __init__(
    self,
    context: context_lib.Context,
    trainings: Trainings,
    *,
    devices: Sequence[jax.Device] | None = None,
    side_by_side: bool | None = None,
  ):
    """Compiles the programs of all phases.

    Args:
      context: what all trainings share.
      trainings: all that will be trained.
      devices: default all.
      side_by_side: see `program.program`.

    Raises:
      DoesNotFitError: if memory does not suffice for one training per device.
    """
    config = context.config
    self._context, self._trainings = context, list(trainings)
    self._devices = list(devices or jax.devices())
    self._side_by_side = side_by_side
    local = [d for d in self._devices if d.process_index == jax.process_index()]
    # All processes must plan alike, so the one with the least decides.
    mine = memory.budget(local[0], config.folds_memory_gib)
    self._budget = int(np.min(distributed.of_all(np.int64(mine))))
    wanted = config.folds_at_once or len(trainings)
    if self._one_by_one and not config.folds_at_once:
      # More would take more memory and save no time.
      wanted = len(self._devices)
    self._fit(min(wanted, len(trainings)))

  @property
  def _one_by_one(self) -> bool:
    if self._side_by_side is None:
      return self._devices[0].platform == 'cpu'
    return not self._side_by_side

  def _fit(self, count: int) -> None:
    """Compiles for fewer trainings until the need is within the budget."""
    self._arrange(count)
    fixed = self._corpus_bytes
    # What each training takes at the very least, before any compilation.
    least = 2 * memory.size(self._training) + 2 * self._batch_bytes
    per_device = max(1, (self._budget - fixed) // least)
    self._arrange(min(count, per_device * self.grid.folds))
    while True:
      needed = self._need()
      if needed is not None and needed <= self._budget:
        self.needed = needed
        return
      per_device = self.shapes.trainings // self.grid.folds
      if per_device == 1:
        found = 'more' if needed is None else memory.show(needed)
        raise memory.DoesNotFitError(
          f'--config.engine=folds: one training with the corpus needs {found} '
          f'on each device, of which {memory.show(self._budget)} may be used. '
          'Use --config.engine=stream, or allow more with '
          '--config.folds_memory_gib.'
        )
      fewer = per_device // 2
      if needed is not None:
        each = max(1, (needed - fixed) // per_device)
        fewer = (self._budget - fixed) // each
      fewer = min(max(1, fewer), per_device - 1)
      self._arrange(fewer * self.grid.folds)

  def _need(self) -> int | None:
    """Bytes of the phase that takes most; None if a compiler ran out.

    Of phases after one that is over the budget nothing needs to be known.
    """
    epochs = range(self._context.config.epochs)
    most = 0
    for phase in dict.fromkeys(map(self._context.system.phase, epochs)):
      compiled = self._compile(phase)
      if compiled is None:
        return None
      most = max(most, memory.need(compiled) or 0)
      if most > self._budget:
        break
    return most

  def _arrange(self, count: int) -> None:
    """Plans for so many trainings at once."""
    context = self._context
    self.at_once = count
    self.grid = Grid(count, self._devices)
    self.shapes = batches.shapes_of(context, self._trainings, self.grid, count)
    self._compiled: dict[Hashable, Any] = {}

  @functools.cached_property
  def _training(self) -> state.Training:
    """Shapes and types of one training, however many there are at once."""
    context = self._context
    table, rows = context.source.corpus.table, self._trainings[0][1].train
    return program.abstract_training(
      context.system,
      context.optimizer,
      self.shapes,
      table.vad[rows],
      table.labels[rows],
    )

  @property
  def _corpus_bytes(self) -> int:
    return 4 * self.shapes.utterances * int(np.prod(self.shapes.features))

  @property
  def _batch_bytes(self) -> int:
    rows = self.shapes.batch // self.grid.data
    return 4 * rows * int(np.prod(self.shapes.features))

  def _compile(self, phase: Hashable) -> jax.stages.Compiled | None:
    """The program of a phase; None if the compiler ran out of memory."""
    if phase not in self._compiled:
      context = self._context
      function, arguments = program.program(
        context.system,
        context.optimizer,
        state.Settings.from_config(context.config),
        self.shapes,
        self._training,
        self.grid,
        phase=phase,
        side_by_side=not self._one_by_one,
      )
      try:
        self._compiled[phase] = function.lower(*arguments).compile()
      except jax.errors.JaxRuntimeError as error:
        # Compilers of GPUs try kernels on arrays of the real size.
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        return None
    return self._compiled[phase]

  @functools.cached_property
  def _corpus(self) -> Tree:
    arrays = batches.corpus_arrays(self._context.source)
    return program.put_everywhere(self.grid, arrays)

  @functools.cached_property
  def _answer(self):
    return program.answers_program(
      self._context.system, self.grid, not self._one_by_one
    )

  def run(self, group: 'Group', first: int, count: int) -> Tree:
    """Trains epochs of a group, all of one phase; returns their curves."""
    phase = self._context.system.phase(first)
    orders = [self._order(group, first + i) for i in range(count)]
    order = batches.filled(orders, self.shapes.epochs)
    group.trainings, curves = self._compile(phase)(
      self._corpus,
      group.trainings,
      group.tasks,
      program.put_order(self.grid, order),
      program.put_everywhere(self.grid, np.int32(first)),
      program.put_everywhere(self.grid, np.int32(count)),
    )
    # The devices are at work: time to order the epochs that follow.
    last = min(first + 2 * count, self._context.config.epochs)
    group.orders = {
      epoch: self._order(group, epoch) for epoch in range(first + count, last)
    }
    return self.grid.get(curves)

  def _order(self, group: 'Group', epoch: int) -> dict[str, np.ndarray]:
    if epoch in group.orders:
      return group.orders[epoch]
    return batches.order(group.samplers, self.shapes, epoch)

  def answers(self, group: 'Group', weights: Tree) -> list[np.ndarray]:
    """Scores or VAD of every training's test side."""
    sides = [fold.test for _, fold in group.members]
    longest = max(len(fold.test) for _, fold in self._trainings)
    shape = batches.side_shape(
      longest, self._context.config.eval_batch_size, self.grid
    )
    rows = [batches.side_rows(side, *shape) for side in sides]
    rows = batches.stacked(rows, self.shapes.trainings)
    found = self._answer(
      self._corpus, weights, program.put_rows(self.grid, rows)
    )
    found = self.grid.get(found)
    return [
      values.reshape(-1, values.shape[-1])[: len(side)]
      for values, side in zip(found, sides, strict=False)
    ]

  def group(
    self, members: Trainings, trainings: Sequence[state.Training]
  ) -> 'Group':
    """Puts trainings, as far as they are, on the devices.

    Args:
      members: seed and fold of each, at most `at_once`.
      trainings: their states, on the host or one device.
    """
    slots = [*members, *[None] * (self.shapes.trainings - len(members))]
    tasks = batches.tasks(self._context, slots, self.shapes)
    return Group(
      members=list(members),
      trainings=program.put_trainings(
        self.grid, batches.stacked(trainings, len(slots))
      ),
      tasks=program.put_tasks(self.grid, self.shapes, tasks),
      samplers=batches.samplers(self._context, slots, self.shapes),
    )

  def blank(self, count: int) -> state.Training:
    """Zeros on the host in the shape of so many trainings."""
    return jax.tree.map(
      lambda x: np.zeros((count, *x.shape), x.dtype), self._training
    )

  @property
  def sides(self) -> tuple[str, ...]:
    """The sides that are scored in every epoch."""
    return tuple(name for name, _, _ in self.shapes.sides)


@dataclasses.dataclass
class Group:
  """Trainings that run at once.

  Attributes:
    members: seed and fold of each.
    trainings: `state.Training` with a leading axis, on the devices.
    tasks: likewise.
    samplers: of every slot, None where there is no training.
    orders: by epoch, those that are made ahead of time.
  """

  members: list[tuple[int, protocols.Fold]]
  trainings: state.Training
  tasks: state.Task
  samplers: list[Any]
  orders: dict[int, Any] = dataclasses.field(default_factory=dict)

  def host(self, grid: Grid) -> state.Training:
    """The trainings with a leading axis [members], on the host."""
    return jax.tree.map(
      lambda x: x[: len(self.members)], grid.get(self.trainings)
    )
