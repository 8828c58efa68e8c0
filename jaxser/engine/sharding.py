"""How a stack of runs is spread over devices.

Devices form a mesh ('run', 'data'): runs are divided along the first axis, the
rows of every batch along the second. The same function of one device runs under
`jit` with `shard_map` (the default) or, for one run at a time, under `pmap`; or
the compiler divides the function of global arrays, and large arrays of the state
lie divided over the devices of the run ('fsdp', fully sharded data parallel).
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.engine import distributed
from jaxser.ops.collectives import DATA
from jaxser.systems.base import Tree

EVERYWHERE = PartitionSpec()
"""Copied to every device."""
RUNS = PartitionSpec('run')
"""[runs, ...]: a run's arrays are on all devices that train it."""
ROWS = PartitionSpec('run', DATA)
"""[runs, rows, ...]: one batch of each run."""
STEPS = PartitionSpec('run', None, DATA)
"""[runs, steps, rows, ...]: several batches of each run."""
# Elements from which an array is divided; to gather less costs more than it saves.
LARGE = 2**12


class Sharding:
  """Devices for a stack of runs.

  Runs come first, as they need no communication. Where there are fewer runs
  than devices, each run has the smallest group that divides them evenly: 3 runs
  on 8 devices make 4 `run_groups` of 2 (`per_run`), one of which is idle.
  """

  def __init__(
    self,
    runs: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
    parallel: str = 'jit',
  ):
    if parallel == 'pmap' and distributed.several():
      raise distributed.DistributedError(
        "--config.parallel='pmap' runs in one process; there are "
        f"{jax.process_count()}. Use --config.parallel='jit'."
      )
    # A process' devices side by side: its rows of a batch are then contiguous.
    every = devices or jax.devices()
    self.devices = sorted(every, key=lambda d: (d.process_index, d.id))
    count, self.parallel = len(self.devices), parallel
    groups = range(min(runs, count), count + 1)
    self.run_groups = next(n for n in groups if count % n == 0)
    self.per_run = count // self.run_groups
    self.platform = self.devices[0].platform
    grid = np.array(self.devices).reshape(self.run_groups, self.per_run)
    self._mesh = Mesh(grid, ('run', DATA))

  def padded_runs(self, runs: int) -> int:
    """Returns a number of runs that all groups share evenly."""
    return -(-runs // self.run_groups) * self.run_groups

  def padded(self, rows: int, multiple: int = 1) -> int:
    """Returns a number of rows that a run's devices share evenly."""
    unit = self.per_run * multiple
    return -(-rows // unit) * unit

  def of(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Returns the sharding of every array of a kind."""

    divided = self.parallel == 'fsdp' and spec == RUNS

    def of(x):
      axes = range(1, x.ndim if divided and x.size >= LARGE else 1)
      axes = [i for i in axes if x.shape[i] % self.per_run == 0]
      longest = max(axes, key=x.shape.__getitem__, default=0)
      parts = PartitionSpec('run', *[None] * (longest - 1), DATA)
      return NamedSharding(self._mesh, parts if longest else spec)

    return jax.tree.map(of, tree)

  def abstract(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Returns shapes with shardings, for compiling without arrays."""
    return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      tree,
      self.of(tree, spec),
    )

  def put(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Sends host arrays, the same on every process, to the devices."""
    tree = self._cut(tree, spec)
    places = self.of(tree, spec)
    if not distributed.several():
      return jax.device_put(tree, places)
    return jax.tree.map(
      lambda x, where: jax.make_array_from_callback(
        x.shape, where, np.asarray(x).__getitem__
      ),
      tree,
      places,
    )

  def put_local(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Sends each process' own rows to its devices; returns at once."""
    if not distributed.several():
      return self.put(tree, spec)
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(self.of(x, spec), x),
      tree,
    )

  def _cut(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Under pmap rows are [devices, rows of each]."""
    if self.parallel != 'pmap' or DATA not in spec:
      return tree
    i, cut = spec.index(DATA), (self.per_run, -1)
    return jax.tree.map(
      lambda x: x.reshape(*x.shape[:i], *cut, *x.shape[i + 1 :]), tree
    )

  def get(self, tree: Tree) -> Tree:
    def get(x):
      if x.is_fully_addressable or x.is_fully_replicated:
        return x
      return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(get, tree))

  def get_rows(self, output: jax.Array) -> np.ndarray:
    """Returns an output of kind ROWS on the host, [runs, rows, ...]."""
    host = self.get(output)
    if self.parallel == 'pmap':
      host = host.reshape(host.shape[0], -1, *host.shape[3:])
    return host

  def compile(
    self,
    function: Callable,
    inputs: tuple[PartitionSpec, ...],
    outputs: PartitionSpec | tuple[PartitionSpec, ...],
    donate: int | tuple[int, ...] = (),
  ) -> Callable:
    """Returns the jitted function of global arrays, from that of one device."""
    if self.parallel == 'pmap':
      in_axes, out_axes = jax.tree.map(
        lambda spec: spec.index(DATA) if DATA in spec else None,
        (inputs, outputs),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
      )
      return jax.pmap(
        function,
        axis_name=DATA,
        devices=self.devices,
        in_axes=in_axes,
        out_axes=out_axes,
        donate_argnums=donate,
      )
    if self.parallel == 'fsdp':

      def spread(*arguments):
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
          results = function(*arguments)
        return jax.tree.map(
          lambda spec, x: jax.lax.with_sharding_constraint(x, self.of(x, spec)),
          outputs,
          results,
          is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

      return jax.jit(spread, donate_argnums=donate)
    # Not checked: the sums of the step make results equal along `data`.
    mapped = jax.shard_map(
      function,
      mesh=self._mesh,
      in_specs=inputs,
      out_specs=outputs,
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)
