"""Where arrays live and how the pure step is run on several devices.

Two ways with equal results: jit over a mesh (the default; arrays are global and
XLA inserts the collectives) and pmap (each device runs the step on its rows and
the step's own collectives make statistics global).
"""

import functools
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.core.config import PARALLEL
from jaxser.engine import distributed
from jaxser.engine import step as step_lib
from jaxser.ops.collectives import DATA
from jaxser.systems.base import Batch, System, Tree

# (state, batch, epochs completed) -> (state, metrics)
TrainFn = Callable[
  [step_lib.TrainState, Batch, np.int32], tuple[step_lib.TrainState, dict]
]


class Placement:
  """Data parallelism over some devices.

  Attributes:
    parallel: 'jit' or 'pmap'.
    devices: the devices, all processes' together.
  """

  def __init__(
    self, parallel: str = 'jit', devices: Sequence[jax.Device] | None = None
  ):
    """Takes all devices of all processes, or those given.

    Raises:
      ValueError: for an unknown way.
      DistributedError: for pmap with several processes.
    """
    if parallel not in PARALLEL:
      raise ValueError(
        f'config.parallel={parallel!r} is unknown; choose one of '
        f'{", ".join(PARALLEL)}.'
      )
    if parallel == 'pmap' and distributed.several():
      raise distributed.DistributedError(
        "--config.parallel='pmap' runs in one process; there are "
        f"{jax.process_count()}. Use --config.parallel='jit'."
      )
    self.parallel = parallel
    # A process' devices side by side: its rows of a batch are then contiguous.
    self.devices = sorted(
      devices or jax.devices(), key=lambda d: (d.process_index, d.id)
    )
    self.mesh = Mesh(np.array(self.devices), (DATA,))
    self._rows = NamedSharding(self.mesh, PartitionSpec(DATA))
    self._everywhere = NamedSharding(self.mesh, PartitionSpec())

  def padded(self, batch_size: int, multiple: int = 1) -> int:
    """Rows of a batch that all devices (times `multiple`) share evenly."""
    unit = len(self.devices) * multiple
    return -(-batch_size // unit) * unit

  def put_batch(self, batch: dict[str, np.ndarray]) -> Batch:
    """Sends this process' rows to its devices; returns at once."""
    if self.parallel == 'pmap':
      count = len(self.devices)
      return {
        name: jax.device_put(
          value.reshape(count, len(value) // count, *value.shape[1:]),
          self._rows,
        )
        for name, value in batch.items()
      }
    return {
      name: jax.make_array_from_process_local_data(self._rows, value)
      for name, value in batch.items()
    }

  def put_state(self, state: Tree) -> Tree:
    """Copies a tree to every device."""
    if self.parallel == 'pmap':
      count = len(self.devices)
      stack = functools.partial(jax.tree.map, lambda x: _repeat(x, count))
      return jax.device_put(stack(state), self._rows)
    if distributed.several():
      return jax.tree.map(self._replicated, state)
    return jax.device_put(state, self._everywhere)

  def _replicated(self, x) -> jax.Array:
    """A global array from the same value on every process."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return x  # It is global already: read from a checkpoint.
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
        self._replicated(jax.random.key_data(x)), impl=jax.random.key_impl(x)
      )
    return jax.make_array_from_process_local_data(
      self._everywhere, np.asarray(x)
    )

  def abstract(self, state: Tree, example: Batch, rows: int) -> tuple:
    """Shapes of what `compile_train` takes, for compiling ahead under jit.

    Args:
      state: arrays or their shapes.
      example: a batch of any number of rows.
      rows: of the batch that is meant.
    """

    def shaped(shape, dtype, sharding):
      return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return (
      jax.tree.map(lambda x: shaped(x.shape, x.dtype, self._everywhere), state),
      {
        name: shaped((rows, *value.shape[1:]), value.dtype, self._rows)
        for name, value in example.items()
      },
      shaped((), np.int32, self._everywhere),
    )

  def get_state(self, state: Tree) -> Tree:
    """One device's copy of a tree from `put_state` or the training step."""
    if self.parallel == 'pmap':
      return jax.tree.map(lambda x: x[0], state)
    return state

  def get_rows(self, output: jax.Array) -> np.ndarray:
    """An output [batch, ...] of all processes as one host array."""
    if distributed.several():
      output = multihost_utils.process_allgather(output, tiled=True)
    host = np.asarray(output)
    if self.parallel == 'pmap':
      host = host.reshape(-1, *host.shape[2:])
    return host

  def compile_train(
    self,
    system: System,
    optimizer: optax.GradientTransformation,
    **static: Hashable,
  ) -> TrainFn:
    """The training step on these devices; it consumes (donates) its state."""
    function = functools.partial(
      step_lib.train_step, system, optimizer, **static
    )
    if self.parallel == 'pmap':
      return jax.pmap(
        function,
        axis_name=DATA,
        devices=self.devices,
        in_axes=(0, 0, None),
        donate_argnums=0,
      )
    return jax.jit(
      function, donate_argnums=0, out_shardings=(self._everywhere,) * 2
    )

  def compile_predict(
    self, system: System, answer: str
  ) -> Callable[..., jax.Array]:
    """(params, model_state, batch) -> that output [batch, ...] of predict."""

    def predict(params, model_state, batch):
      return system.predict(params, model_state, batch)[answer]

    if self.parallel == 'pmap':
      return jax.pmap(predict, axis_name=DATA, devices=self.devices)
    return jax.jit(predict, out_shardings=self._rows)


def _repeat(x, count: int):
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    data = jax.random.key_data(x)
    return jax.random.wrap_key_data(_repeat(data, count))
  return np.broadcast_to(np.asarray(x), (count, *np.shape(x)))
