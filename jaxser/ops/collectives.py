"""Sums over the devices that share a batch, and means over a global batch.

This module alone knows the name of that axis. Where it is not bound, as under
`jax.jit` over a mesh, an array is the global one and `psum` is the identity.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

Tree = Any

DATA = 'data'
"""The mapped axis whose devices hold the rows of one batch."""


def axis_size() -> int:
  """Returns how many devices share a batch here; 1 outside of a mapped axis."""
  try:
    return jax.lax.axis_size(DATA)
  except NameError:
    return 1


def psum(tree: Tree) -> Tree:
  """Sums a tree over the devices that share a batch."""
  return tree if axis_size() == 1 else jax.lax.psum(tree, DATA)


def by_rows(x: Array) -> Array:
  """Keeps rows [rows, ...] on the devices of their batch, whatever divides them.

  For activations of networks so large that the weights are divided, too: the
  compiler then gathers weights and leaves the rows where they are.
  """
  if DATA not in jax.sharding.get_abstract_mesh().auto_axes:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))


def mean_share(values: Array, mask: Array) -> Array:
  """Returns this device's part, [], of the mean over the global batch.

  Values [rows] are finite; mask, float [rows], is the weight of a row, 0 for
  padding. The sum over the devices is the mean, 0 if no row counts.
  """
  total = psum(jnp.sum(mask))
  return jnp.sum(values * mask) / jnp.where(total > 0, total, 1)
