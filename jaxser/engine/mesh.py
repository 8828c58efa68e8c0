"""Rows of a batch over all devices, for `jaxser.models.predictor`."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.systems.base import Batch, Tree


class Placement:
  """Data parallelism over all devices."""

  def __init__(self):
    """Takes all devices."""
    self._mesh = Mesh(np.array(jax.devices()), ('rows',))

  def padded(self, rows: int) -> int:
    """Returns a number of rows that all devices share evenly."""
    return -(-rows // self._mesh.size) * self._mesh.size

  def put_batch(self, batch: Batch) -> Batch:
    """Divides rows among the devices."""
    rows = NamedSharding(self._mesh, PartitionSpec('rows'))
    return jax.device_put(batch, rows)

  def put_state(self, state: Tree) -> Tree:
    """Copies a tree to every device."""
    return jax.device_put(state, NamedSharding(self._mesh, PartitionSpec()))
