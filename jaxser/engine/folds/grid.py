"""Devices as a grid: trainings along one axis, rows of a batch along the other."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.engine import distributed
from jaxser.ops.collectives import DATA

Tree = Any

FOLDS = 'folds'


class Grid:
  """A mesh with axes ('folds', 'data') for so many trainings.

  Trainings go along `folds` first, which needs no communication. Where there
  are fewer trainings than devices, each is shared by the smallest group that
  divides the devices evenly, data parallel; with 3 trainings on 8 devices that
  is 4 groups of 2, one of them idle.

  Attributes:
    folds: groups of devices; each trains its own share of the trainings.
    data: devices of a group, which share the rows of every batch.
    mesh: the mesh.
    platform: 'cpu', 'gpu' or 'tpu'.
  """

  def __init__(
    self, trainings: int, devices: Sequence[jax.Device] | None = None
  ):
    """Arranges all devices of all processes, or those given."""
    devices = sorted(
      devices or jax.devices(), key=lambda d: (d.process_index, d.id)
    )
    count = len(devices)
    self.folds = (
      next(n for n in range(1, count + 1) if count % n == 0 and n >= trainings)
      if trainings < count
      else count
    )
    self.data = count // self.folds
    self.mesh = Mesh(
      np.array(devices).reshape(self.folds, self.data), (FOLDS, DATA)
    )
    self.platform = devices[0].platform
    self.devices = devices

  def slots(self, trainings: int) -> int:
    """Trainings, filled up so that every group has equally many."""
    return -(-trainings // self.folds) * self.folds

  def padded(self, rows: int, multiple: int = 1) -> int:
    """Rows of a batch, filled up so that a group shares them evenly."""
    unit = self.data * multiple
    return -(-rows // unit) * unit

  def sharding(self, spec: PartitionSpec) -> NamedSharding:
    """Where an array with this partition lives."""
    return NamedSharding(self.mesh, spec)

  def put(self, tree: Tree, spec: PartitionSpec) -> Tree:
    """Host arrays, the same on every process, as global arrays."""
    sharding = self.sharding(spec)

    def put(x):
      x = np.asarray(x)
      return jax.make_array_from_callback(
        x.shape, sharding, lambda index: x[index]
      )

    return jax.tree.map(put, tree)

  def get(self, tree: Tree) -> Tree:
    """Global arrays as host arrays, on every process."""
    if distributed.several():
      return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
