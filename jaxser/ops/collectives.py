"""Sums over the devices of a mapped axis, and means over a global batch.

Under `jax.jit` over a mesh an array is the global one and sums need nothing;
under a mapped axis (`pmap`, `shard_map`) each device holds its rows only.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any


def psum(tree: Tree, axis_name: str | None) -> Tree:
  """Sums a tree over the devices of an axis; without one, the tree itself."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def mean_share(
  values: Array, mask: Array, axis_name: str | None = None
) -> Array:
  """This device's share of the mean over the rows of the global batch.

  Args:
    values: [rows], finite in every row.
    mask: float [rows], 1 for a row that counts, 0 for padding.
    axis_name: mapped axis whose devices hold the other rows.

  Returns:
    []; the sum over the devices is the mean. No row gives 0.
  """
  count = psum(jnp.sum(mask), axis_name)
  return jnp.sum(values * mask) / jnp.maximum(count, 1)
