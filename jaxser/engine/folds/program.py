"""Many trainings as one compiled program.

Corpus and states stay on the devices. A call trains some epochs of all its
trainings: a loop over epochs around a scan over steps, the evaluation of each
epoch, the best epoch's weights, the schedule and the stopping rule included.
The host hears of it when the call is over.

    trainings   split over the groups of devices (`Grid`); on a GPU or TPU those
                of a group are one vmapped axis, on a CPU they run one by one
    step        `jaxser.engine.step.train_step`, the very one of the other engine
    steps       of a fold smaller than the largest: padding batches change
                neither parameters nor optimiser, statistics or step number

On a CPU a vmapped step was measured to need the same time as the steps one by
one (TIM-Net, two cores: 0.28 s of processor time per training and step, in a
`lax.map` 0.28 s, in the host's loop of the other engine 0.33 s) and the memory
of all of them, so nothing speaks for it there.
"""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxser.engine import step as step_lib
from jaxser.engine.folds.epochs import Trainer, take
from jaxser.engine.folds.grid import FOLDS, Grid
from jaxser.engine.folds.state import Settings, Shapes, Task, Training, start
from jaxser.ops.collectives import DATA
from jaxser.systems.base import Array, System, Tree

_EACH = PartitionSpec(FOLDS)
_ROWS = PartitionSpec(FOLDS, None, DATA)
_STEPS = PartitionSpec(FOLDS, None, None, DATA)
_ALL = PartitionSpec()


def _mapped(function: Callable, side_by_side: bool) -> Callable:
  """The function of one training, for all of this group of devices."""
  if side_by_side:
    return jax.vmap(function)
  return lambda *each: jax.lax.map(lambda one: function(*one), each)


def _on_grid(function, grid: Grid, inputs, outputs, **options) -> Callable:
  """Runs on every group of devices with its own trainings."""
  # Not checked: values are replicated along `data` by the psums of the step.
  return jax.jit(
    jax.shard_map(
      function,
      mesh=grid.mesh,
      in_specs=inputs,
      out_specs=outputs,
      check_vma=False,
    ),
    **options,
  )


def program(
  system: System,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  shapes: Shapes,
  training: Training,
  grid: Grid,
  *,
  phase: Hashable = 'main',
  side_by_side: bool | None = None,
) -> tuple[Callable, tuple[Tree, ...]]:
  """The program that trains some epochs of all trainings.

  Args:
    system: what is trained.
    optimizer: from `jaxser.engine.step.make_optimizer`.
    settings: from the config.
    shapes: sizes of the arguments.
    training: one training, abstract or not, such as `abstract_training` makes.
    grid: devices; they may be those of a topology that is not there.
    phase: static part of the loss in these epochs.
    side_by_side: vmap over the trainings of a group of devices, or one by one;
      None: side by side except on a CPU.

  Returns:
    The jitted function of (corpus, trainings, tasks, order, first, count), and
    its abstract arguments, with which it can be lowered ahead of time. It
    donates `trainings` and returns (trainings, curves):

    - corpus: arrays of all utterances, on every device.
    - trainings: `Training`, each array with a leading axis [trainings].
    - tasks: `Task`, likewise.
    - order: {'rows': int32 [trainings, epochs, steps, batch], and 'partners'
      where the system needs neutral utterances}.
    - first, count: int32 []; epochs first .. first + count - 1 are trained, at
      most shapes.epochs of them.
    - curves: {'active': bool [trainings, epochs], 'train': {metric: [trainings,
      epochs, steps]}, side: {'confusion', 'loss'} or {'ccc'}}.
  """
  if side_by_side is None:
    side_by_side = grid.platform != 'cpu'
  arguments = _abstract(system, shapes, training, grid)
  # Under vmap a branch would compute both sides anyway, and devices that share
  # a batch must not wait for a sum in a branch that others do not take.
  branch = not side_by_side and grid.data == 1
  trainer = Trainer(system, optimizer, settings, phase, branch)

  def local(corpus, trainings, tasks, order, first, count):
    def one(training, task, order):
      return trainer.call(corpus, training, task, order, first, count)

    return _mapped(one, side_by_side)(trainings, tasks, order)

  inputs = (_ALL, _EACH, _task_specs(shapes), _STEPS, _ALL, _ALL)
  function = _on_grid(local, grid, inputs, _EACH, donate_argnums=1)
  return function, arguments


def answers_program(system: System, grid: Grid, side_by_side: bool) -> Callable:
  """(corpus, weights, rows) -> scores or VAD of every training's rows.

  The jitted function takes weights (params, model_state) with a leading axis
  [trainings] and rows int32 [trainings, batches, rows]; it returns [trainings,
  batches, rows, ...].
  """
  trainer = Trainer(system, None, None, None, False)

  def local(corpus, weights, rows):
    def one(weights, rows):
      found = trainer.answers(corpus, weights, rows)
      return found.reshape(*rows.shape, -1)

    return _mapped(one, side_by_side)(weights, rows)

  return _on_grid(local, grid, (_ALL, _EACH, _ROWS), _ROWS)


def _task_specs(shapes: Shapes) -> Task:
  names = [name for name, _, _ in shapes.sides]
  return Task(
    steps=_EACH,
    sides=dict.fromkeys(names, _ROWS),
    scored=dict.fromkeys(names, _EACH),
  )


def put_tasks(grid: Grid, shapes: Shapes, tasks: Task) -> Task:
  """Sends the constants of all trainings to their devices."""
  return jax.tree.map(grid.put, tasks, _task_specs(shapes))


def put_order(grid: Grid, order: Tree) -> Tree:
  """Sends the order of some epochs to the devices."""
  return grid.put(order, _STEPS)


def put_rows(grid: Grid, rows: np.ndarray) -> Array:
  """Sends the rows of `answers_program` to the devices."""
  return grid.put(rows, _ROWS)


def put_trainings(grid: Grid, trainings: Tree) -> Tree:
  """Sends what belongs to trainings, the leading axis, to their devices."""
  return grid.put(trainings, _EACH)


def put_everywhere(grid: Grid, tree: Tree) -> Tree:
  """Copies to all devices."""
  return grid.put(tree, _ALL)


def _abstract(system, shapes, training, grid) -> tuple[Tree, ...]:
  """Shapes, types and places of the program's arguments."""

  def array(shape, dtype, spec):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=grid.sharding(spec))

  count, rows = shapes.trainings, shapes.utterances
  order = (count, shapes.epochs, shapes.steps, shapes.batch)
  corpus = {
    'features': ((rows, *shapes.features), jnp.float32),
    'length': ((rows,), jnp.int32),
    'label': ((rows,), jnp.int32),
    'vad': ((rows, 3), jnp.float32),
    'speaker': ((rows,), jnp.int32),
  }
  names = ('rows', 'partners') if system.needs_neutral else ('rows',)
  trainings = jax.tree.map(
    lambda x: array((count, *x.shape), x.dtype, _EACH), training
  )
  return (
    {name: array(*about, _ALL) for name, about in corpus.items()},
    trainings,
    Task(
      steps=array((count,), jnp.int32, _EACH),
      sides={
        name: array((count, batches, size), jnp.int32, _ROWS)
        for name, batches, size in shapes.sides
      },
      scored={
        name: array((count,), bool, _EACH) for name, _, _ in shapes.sides
      },
    ),
    {name: array(order, jnp.int32, _STEPS) for name in names},
    array((), jnp.int32, _ALL),
    array((), jnp.int32, _ALL),
  )


def abstract_training(
  system: System,
  optimizer: optax.GradientTransformation,
  shapes: Shapes,
  vad: np.ndarray,
  label: np.ndarray,
) -> Training:
  """Shapes and types of one `Training`, of which nothing is computed.

  Args:
    system: what is trained.
    optimizer: from `jaxser.engine.step.make_optimizer`.
    shapes: sizes of the program's arguments.
    vad: float32 [n, 3] of some training side, for `System.prepare`.
    label: int32 [n] of the same.
  """
  row = jnp.zeros(1, jnp.int32)

  def create():
    corpus = {
      'features': jnp.zeros((1, *shapes.features)),
      'length': row,
      'label': row,
      'vad': jnp.zeros((1, 3)),
      'speaker': row,
    }
    batch = take(corpus, row, row if system.needs_neutral else None)
    return step_lib.create_state(system, optimizer, jax.random.key(0), batch)

  state = jax.eval_shape(create)
  state = state.replace(
    model_state=system.prepare(state.model_state, vad, label)
  )
  sides = tuple(name for name, _, _ in shapes.sides)
  return jax.eval_shape(lambda state: start(state, sides), state)
