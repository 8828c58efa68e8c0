"""The engine's own training step and prediction, compiled for a measurement."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxser.benchmark import flops, timing, workload
from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.data.corpus import Corpus
from jaxser.engine import mesh, step
from jaxser.systems.base import Batch, System

# The setting of a system that names the type of its products.
_DTYPE_FIELDS = ('compute_dtype', 'dtype')
DTYPES = ('float32', 'bfloat16')


def dtype_field(system: System) -> str | None:
  """The system's setting for the type of products, None if it has one type."""
  names = {field.name for field in dataclasses.fields(system)}
  return next((name for name in _DTYPE_FIELDS if name in names), None)


def dtype_of(system: System) -> str:
  """Type of the system's products."""
  field = dtype_field(system)
  return 'float32' if field is None else getattr(system, field)


def with_dtype(system: System, dtype: str) -> System:
  """The system with products of this type.

  Raises:
    BenchmarkError: if it has no such type.
  """
  field = dtype_field(system)
  if field is None and dtype == 'float32':
    return system
  if field is None or dtype not in DTYPES:
    possible = DTYPES if field else DTYPES[:1]
    raise BenchmarkError(
      f'--dtypes={dtype}: {type(system).__name__} computes in '
      f'{" or ".join(possible)}.'
    )
  return dataclasses.replace(system, **{field: dtype})


@dataclasses.dataclass(frozen=True)
class Setup:
  """What the programs of one system and one batch share.

  Attributes:
    system: what is timed.
    optimizer: of the training step.
    placement: the devices.
    corpus: made up.
    host: the batch on the host.
    size: utterances in it; the other rows are padding.
    accumulate: micro-batches per step.
    epoch: whose step is timed, the last one; its `phase` is static.
  """

  system: System
  optimizer: optax.GradientTransformation
  placement: mesh.Placement
  corpus: Corpus
  host: Batch
  size: int
  accumulate: int
  epoch: int

  @classmethod
  def create(
    cls,
    config: Any,
    system: System,
    corpus: Corpus,
    shape: Sequence[int],
    size: int,
    devices: Sequence[jax.Device] | None = None,
    accumulate: int = 0,
  ) -> 'Setup':
    """Makes up a batch of `size` utterances for these devices.

    Args:
      config: a recipe.
      system: made of it.
      corpus: made up.
      shape: of one utterance's features.
      size: utterances of all devices together.
      devices: all by default.
      accumulate: micro-batches; 0 is `workload.micro_batches` of the size.
    """
    placement = mesh.Placement(config.parallel, devices)
    accumulate = accumulate or workload.micro_batches(config, size)
    padded = placement.padded(size, accumulate)
    return cls(
      system=system,
      optimizer=step.make_optimizer(config.optimizer),
      placement=placement,
      corpus=corpus,
      host=workload.made_up_batch(system, corpus, shape, size, padded),
      size=size,
      accumulate=accumulate,
      epoch=config.epochs - 1,
    )

  @property
  def device_count(self) -> int:
    """Devices that share the batch."""
    return len(self.placement.devices)

  def state(self) -> step.TrainState:
    """A fresh training state, on the host's side of the placement."""
    state = step.create_state(
      self.system, self.optimizer, jax.random.key(0), self.host
    )
    table = self.corpus.table
    return state.replace(
      model_state=self.system.prepare(
        state.model_state, table.vad, table.labels
      )
    )

  def train_function(self) -> Callable:
    """The compiled-to-be training step."""
    return self.placement.compile_train(
      self.system,
      self.optimizer,
      accumulate=self.accumulate,
      phase=self.system.phase(self.epoch),
    )

  def predict_function(self) -> Callable:
    """The compiled-to-be prediction."""
    answer = 'scores' if self.system.task == 'classification' else 'vad'
    return self.placement.compile_predict(self.system, answer)


def training(setup: Setup, variant: str = '') -> Program:
  """Training steps, one after the other, of a batch that lies on the devices."""
  batch = setup.placement.put_batch(setup.host)
  carried = setup.placement.put_state(setup.state())
  epoch = np.int32(setup.epoch)
  program, facts = compiled(
    setup.train_function(), setup.device_count, carried, batch, epoch
  )

  def run(calls):
    nonlocal carried
    for _ in range(calls):
      carried, metrics = program(carried, batch, epoch)
    jax.block_until_ready((carried, metrics))

  return Program(
    timing.OURS,
    'training',
    setup.size,
    run=run,
    dtype=dtype_of(setup.system),
    variant=variant,
    **facts,
  )


def prediction(setup: Setup) -> Program:
  """Predictions for a batch that lies on the devices."""
  batch = setup.placement.put_batch(setup.host)
  state = setup.placement.put_state(setup.state())
  fixed = (state.params, state.model_state)
  program, facts = compiled(
    setup.predict_function(), setup.device_count, *fixed, batch
  )

  def run(calls):
    for _ in range(calls):
      answers = program(*fixed, batch)
    jax.block_until_ready(answers)

  return Program(
    timing.OURS,
    'prediction',
    setup.size,
    run=run,
    dtype=dtype_of(setup.system),
    **facts,
  )


def latency(setup: Setup, seconds: float) -> dict[str, dict[str, float]]:
  """Single calls from arrays on the host to answers on the host.

  Of the batch of `setup`, usually one utterance. 'first_milliseconds' is the
  first call, the compiler included.
  """
  placement = setup.placement
  state = placement.put_state(setup.state())
  fixed = jax.tree.map(lambda x: x.copy(), (state.params, state.model_state))
  train, predict = setup.train_function(), setup.predict_function()

  def training():
    nonlocal state
    batch = placement.put_batch(setup.host)
    state, metrics = train(state, batch, np.int32(setup.epoch))
    jax.block_until_ready((state, metrics))

  def prediction():
    return np.asarray(predict(*fixed, placement.put_batch(setup.host)))

  found = {}
  for name, call in (('training', training), ('prediction', prediction)):
    start = time.perf_counter()
    call()
    first = 1e3 * (time.perf_counter() - start)
    found[name] = {
      'first_milliseconds': first,
      **timing.latency(call, seconds),
    }
  return found


def compiled(
  function: Any, devices: int, *args: Any
) -> tuple[Callable, dict[str, Any]]:
  """Compiles ahead of time: the program, and what is known before it runs.

  Operations and memory traffic are those of all devices, memory is of each.
  """
  start = time.perf_counter()
  program = function.lower(*args).compile()
  seconds = time.perf_counter() - start
  # The compiler speaks of the part of one device.
  traffic = (program.cost_analysis() or {}).get('bytes accessed')
  return program, {
    'compile_seconds': seconds,
    'flops': flops.count(function, *args),
    'bytes_accessed': traffic and devices * traffic,
    'memory': memory_of(program),
  }


def memory_of(program: Any) -> dict[str, int]:
  """Bytes on each device that a compiled program needs.

  Returns:
    {'arguments', 'outputs', 'temporary', 'aliased': outputs that take the place
    of arguments, 'peak': all of them at once}; empty where nobody knows.
  """
  memory = program.memory_analysis()
  if memory is None:
    return {}
  found = {
    'arguments': memory.argument_size_in_bytes,
    'outputs': memory.output_size_in_bytes,
    'temporary': memory.temp_size_in_bytes,
    'aliased': memory.alias_size_in_bytes,
  }
  found['peak'] = (
    found['arguments']
    + found['outputs']
    + found['temporary']
    - found['aliased']
  )
  return found
