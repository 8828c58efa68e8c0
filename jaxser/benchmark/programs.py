"""The engine's own step, prediction and epoch, as programs to be timed.

The one file of the benchmark that knows how the engine is built.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.benchmark import costs, timing
from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.benchmark.workload import FOLDS, Workload
from jaxser.engine import mesh, step
from jaxser.engine.folds import program as stack_program
from jaxser.engine.folds.grid import Grid
from jaxser.engine.folds.state import Settings, Shapes
from jaxser.systems.base import System

DTYPES = ('float32', 'bfloat16')
# Fields of a system that name the type of its matmuls.
_DTYPE_FIELDS = ('compute_dtype', 'dtype')


def dtype_field(system: System) -> str | None:
  """Returns the system's field for the type of matmuls; None if it has one type."""
  names = {field.name for field in dataclasses.fields(system)}
  return next((name for name in _DTYPE_FIELDS if name in names), None)


def dtype_of(system: System) -> str:
  """Returns the type of the system's matmuls."""
  field = dtype_field(system)
  return 'float32' if field is None else getattr(system, field)


def with_dtype(system: System, dtype: str) -> System:
  """Returns the system with matmuls of this type.

  Raises:
    BenchmarkError: if it has no such type.
  """
  field = dtype_field(system)
  possible = DTYPES if field else DTYPES[:1]
  if dtype not in possible:
    raise BenchmarkError(
      f'--dtypes={dtype}: {type(system).__name__} computes in '
      f'{" or ".join(possible)}.'
    )
  return dataclasses.replace(system, **{field: dtype}) if field else system


class Step:
  """The training step and the prediction of one batch on some devices.

  Attributes:
    size: utterances in the batch; its other rows are padding.
    parts: micro-batches of it.
    host: the batch on the host.
  """

  def __init__(
    self,
    workload: Workload,
    size: int = 0,
    devices: Sequence[jax.Device] | None = None,
    parts: int = 0,
  ):
    """Takes the batch and the micro-batches of the workload, and all devices."""
    config, self.system = workload.config, workload.system
    self.placement = mesh.Placement(config.parallel, devices)
    self.size = size or workload.size
    self.parts = parts or workload.micro_batches(self.size)
    padded = self.placement.padded(self.size, self.parts)
    self.host = workload.batch(self.size, padded)
    self.epoch = np.int32(config.epochs - 1)
    optimizer = step.make_optimizer(config.optimizer)
    table = workload.corpus.table
    state = step.create_state(
      self.system, optimizer, jax.random.key(0), self.host
    )
    self.fresh = state.replace(
      model_state=self.system.prepare(
        state.model_state, table.vad, table.labels
      )
    )
    self.train = self.placement.compile_train(
      self.system,
      optimizer,
      accumulate=self.parts,
      phase=self.system.phase(config.epochs - 1),
    )
    output = 'scores' if self.system.task == 'classification' else 'vad'
    self.predict = self.placement.compile_predict(self.system, output)

  def put_batch(self) -> Any:
    """Sends the batch to the devices."""
    return self.placement.put_batch(self.host)

  def put_state(self) -> Any:
    """Sends a copy of the fresh state, which a training step may consume."""
    return self.placement.put_state(jax.tree.map(jnp.copy, self.fresh))

  def program(self, work: str, variant: str = '') -> Program:
    """Compiles training steps or predictions of a batch on the devices."""
    batch, state = self.put_batch(), self.put_state()
    training = work == 'training'
    rest = (batch, self.epoch) if training else (batch,)
    fixed = state if training else (state.params, state.model_state)
    call, facts = costs.compile_program(
      self.train if training else self.predict,
      len(self.placement.devices),
      *((state,) if training else fixed),
      *rest,
    )

    def train(calls):
      nonlocal state
      for _ in range(calls):
        state, metrics = call(state, *rest)
      jax.block_until_ready((state, metrics))

    def predict(calls):
      for _ in range(calls):
        outputs = call(*fixed, *rest)
      jax.block_until_ready(outputs)

    run = train if training else predict
    dtype = dtype_of(self.system)
    return Program(
      timing.OURS,
      work,
      self.size,
      run=run,
      dtype=dtype,
      variant=variant,
      **facts,
    )

  def latency(self, work: str, seconds: float) -> dict[str, float]:
    """Times single calls from arrays on the host to outputs on the host.

    'first_milliseconds' is the first call, the compiler included.
    """
    state = self.put_state()

    def train():
      nonlocal state
      state, metrics = self.train(state, self.put_batch(), self.epoch)
      jax.block_until_ready((state, metrics))

    def predict():
      batch = self.put_batch()
      return np.asarray(self.predict(state.params, state.model_state, batch))

    call = train if work == 'training' else predict
    start = time.perf_counter()
    call()
    first = 1e3 * (time.perf_counter() - start)
    return {'first_milliseconds': first, **timing.latency(call, seconds)}


def abstract_step(
  workload: Workload, devices: Sequence[Any], phase: Hashable
) -> tuple[Any, tuple[Any, ...]]:
  """Returns the jitted step of `workload.size` utterances per device.

  And its abstract arguments, so that the devices need not be there.
  """
  system, table = workload.system, workload.corpus.table
  placement = mesh.Placement('jit', devices)
  optimizer = step.make_optimizer(workload.config.optimizer)
  example = workload.batch(1, 1)
  state = jax.eval_shape(
    lambda rng, batch: step.create_state(system, optimizer, rng, batch),
    jax.random.key(0),
    example,
  )
  state = state.replace(
    model_state=system.prepare(state.model_state, table.vad, table.labels)
  )
  function = placement.compile_train(
    system, optimizer, accumulate=workload.micro_batches(), phase=phase
  )
  rows = workload.size * len(devices)
  return function, placement.abstract(state, example, rows)


def fold_sizes(utterances: int) -> tuple[int, int]:
  """Returns the utterances (trained on, tested) of the smallest of ten folds."""
  return utterances - utterances // FOLDS, utterances // FOLDS


def abstract_stack(
  workload: Workload,
  devices: Sequence[Any],
  phase: Hashable,
  runs: int,
  utterances: int,
) -> tuple[Any, tuple[Any, ...]]:
  """Returns the jitted program of a stack of runs, and its abstract arguments.

  As in ten random folds, nine tenths of the utterances are trained on and one
  tenth is tested in every epoch, with room for the largest of the folds. What is
  counted per call (operations, collectives) is counted per epoch: their number
  is an argument.
  """
  config, system, corpus = workload.config, workload.system, workload.corpus
  grid = Grid(runs, devices)
  optimizer = step.make_optimizer(config.optimizer)
  trained, _ = fold_sizes(utterances)
  accumulate = workload.micro_batches()
  settings = dataclasses.replace(
    Settings.from_config(config), accumulate=accumulate
  )
  shapes = Shapes(
    trainings=grid.slots(runs),
    epochs=min(config.checkpoint_every, config.epochs),
    steps=-(-trained // workload.size),
    batch=grid.padded(workload.size, accumulate),
    utterances=utterances,
    features=tuple(workload.shape),
    sides=(('test', 1, grid.padded(-(-utterances // FOLDS))),),
  )
  state = stack_program.abstract_training(
    system, optimizer, shapes, corpus.table.vad, corpus.table.labels
  )
  return stack_program.program(
    system, optimizer, settings, shapes, state, grid, phase=phase
  )


def epoch(workload: Workload, runs: int, utterances: int) -> Program:
  """One epoch of so many runs at once, trained and tested, on all devices."""
  phase = workload.system.phase(workload.config.epochs - 1)
  function, arguments = abstract_stack(
    workload, jax.devices(), phase, runs, utterances
  )
  call, facts = costs.compile_program(function, jax.device_count(), *arguments)
  rng = np.random.default_rng(0)

  def filled(abstract, value=0):
    full = np.broadcast_to(np.asarray(value, abstract.dtype), abstract.shape)
    return jax.device_put(full, abstract.sharding)

  def drawn(abstract):
    return filled(abstract, rng.integers(0, utterances, abstract.shape))

  data, state, tasks, order, first, count = arguments
  features = rng.standard_normal(data['features'].shape, np.float32)
  classes = np.arange(utterances) % len(workload.corpus.classes)
  known = {'features': features, 'length': workload.shape[0], 'label': classes}
  data = {name: filled(x, known.get(name, 0)) for name, x in data.items()}
  tasks = jax.tree.map(filled, tasks).replace(
    steps=filled(tasks.steps, order['rows'].shape[2]),
    sides=jax.tree.map(drawn, tasks.sides),
    scored=jax.tree.map(lambda x: filled(x, True), tasks.scored),
  )
  rest = (
    data,
    tasks,
    jax.tree.map(drawn, order),
    filled(first),
    filled(count, 1),
  )
  state = jax.tree.map(filled, state)

  def run(calls):
    nonlocal state
    data, *others = rest
    for _ in range(calls):
      state, curves = call(data, state, *others)
    jax.block_until_ready((state, curves))

  # The compiler counts the bytes of a loop's body once, and all is loops here.
  facts['bytes_accessed'] = None
  return Program(
    timing.OURS,
    'training',
    runs * utterances,
    run=run,
    dtype=dtype_of(workload.system),
    variant=f'{runs} folds',
    **facts,
  )


def waiting(config: Any, data_dir: str, steps: int = 50) -> dict[str, Any]:
  """Times training on a prepared corpus with the engine's own pipeline.

  Of steps on one batch that lies on the devices, of the pipeline alone, and of
  both together.

  Args:
    config: a recipe; its corpus must be prepared.
    data_dir: where.
    steps: at most; a small corpus is read several times over.

  Raises:
    BenchmarkError: if the first fold has no utterance to train on.
    StoreError: if the corpus is not prepared; the message gives the command.
  """
  # Reading a corpus needs TensorFlow; the other measurements do not.
  from jaxser import train
  from jaxser.data import opening, pipeline
  from jaxser.engine import context as context_lib

  config = config.copy_and_resolve_references()
  config.data_dir = data_dir
  corpus = opening.open_corpus(config)
  folds = train.choose_folds(
    train.make_folds(config, corpus), config.fold_subset
  )
  context = train.make_context(config, corpus, folds)
  fold, placement = folds[0], context.placement
  if not len(fold.train):
    raise BenchmarkError(f'fold {fold.number} trains on no utterance.')
  batches = list(context_lib.make_sampler(context, config.seed, fold).epoch(0))
  # One length, one program: of several the compiler's time would be in here.
  longest = max(batch.length for batch in batches)
  batches = [batch for batch in batches if batch.length == longest]
  steps = min(steps, 10 * len(batches))
  batches = [batches[i % len(batches)] for i in range(steps)]
  last = np.int32(config.epochs - 1)
  step_function = context.train_fn(context.system.phase(int(last)))
  state = placement.put_state(
    context_lib.first_state(context, config.seed, fold)
  )

  def train_on(resident: Any) -> None:
    nonlocal state
    state, _ = step_function(state, resident, last)

  def stream() -> Any:
    source = pipeline.stream(context.source, iter(batches))
    with contextlib.closing(source) as data:
      yield from map(placement.put_batch, data)

  def milliseconds(body: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready((body(), state))
    return 1e3 * (time.perf_counter() - start) / steps

  def together() -> None:
    ahead = None
    for batch in stream():
      if ahead is not None:
        train_on(ahead)
      ahead = batch
    train_on(ahead)

  resident = placement.put_batch(context.source.batch(batches[0]))
  milliseconds(lambda: train_on(resident))  # Compiles.
  alone = milliseconds(lambda: [train_on(resident) for _ in batches])
  reading = milliseconds(lambda: list(stream())[-1])
  both = milliseconds(together)
  return {
    'corpus': corpus.name,
    'steps': steps,
    'step_milliseconds': alone,
    'pipeline_milliseconds': reading,
    'together_milliseconds': both,
    'share_waiting': max(0.0, 1 - alone / both),
  }
