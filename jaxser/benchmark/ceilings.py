"""What the devices at hand can do: matrix products, and memory traffic.

Speeds of programs mean little by themselves; beside these, measured in the same
process, they say how much is left.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = 'device'
# Side of the matrices, and MiB of each array that is streamed: large enough to
# leave every cache, small enough to be measured in seconds.
_SIDE = {'cpu': 1024, 'default': 8192}
_MEBIBYTES = {'cpu': 128, 'default': 1024}
_PRODUCTS_PER_CALL = {'cpu': 1, 'default': 16}


class Ceilings(NamedTuple):
  """The best that was measured, of all devices together.

  Attributes:
    flops_per_second: by type of the products: 'float32' at the platform's usual
      precision (TF32 on NVIDIA GPUs, one bfloat16 pass on TPUs),
      'float32_highest' in full, 'bfloat16'.
    bytes_per_second: read and written by a triad a = a s + c.
  """

  flops_per_second: dict[str, float]
  bytes_per_second: float


def measure(
  devices: list[jax.Device] | None = None,
  *,
  seconds: float = 0.5,
  side: int = 0,
  mebibytes: int = 0,
) -> Ceilings:
  """Measures the devices, all at once.

  Args:
    devices: of one kind; all by default.
    seconds: time for each of the figures.
    side: of the square matrices; 0 is 1024 on CPUs, else 8192.
    mebibytes: per streamed array and device; 0 is 128 on CPUs, else 1024.
  """
  devices = list(devices or jax.devices())
  kind = 'cpu' if devices[0].platform == 'cpu' else 'default'
  side = side or _SIDE[kind]
  mebibytes = mebibytes or _MEBIBYTES[kind]
  mesh = Mesh(np.array(devices), (_AXIS,))
  products = _PRODUCTS_PER_CALL[kind]
  flops = {}
  for name, dtype, precision in (
    ('float32', jnp.float32, jax.lax.Precision.DEFAULT),
    ('float32_highest', jnp.float32, jax.lax.Precision.HIGHEST),
    ('bfloat16', jnp.bfloat16, jax.lax.Precision.DEFAULT),
  ):
    call = _matrix_products(mesh, side, products, dtype, precision)
    best = _best(call, seconds)
    flops[name] = len(devices) * products * 2 * side**3 / best
  size = mebibytes * 2**20
  best = _best(_triad(mesh, size), seconds)
  return Ceilings(flops, len(devices) * 3 * size / best)


def _matrix_products(
  mesh: Mesh, side: int, products: int, dtype: Any, precision: Any
) -> Callable[[], Any]:
  """A call that multiplies so often on every device."""
  sharding = NamedSharding(mesh, PartitionSpec(_AXIS))
  shape = (mesh.size, side, side)

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(PartitionSpec(_AXIS), PartitionSpec(_AXIS)),
    out_specs=PartitionSpec(_AXIS),
  )
  def chain(x, matrix):
    def once(_, x):
      return jnp.matmul(x, matrix[0], precision=precision).astype(dtype)

    return jax.lax.fori_loop(0, products, once, x[0])[None]

  @functools.partial(jax.jit, out_shardings=(sharding, sharding))
  def start():
    # The identity, scaled: products stay finite however long the chain is.
    matrix = jnp.eye(side, dtype=dtype)[None] * jnp.asarray(0.5, dtype)
    return jnp.ones(shape, dtype), jnp.broadcast_to(matrix, shape)

  x, matrix = start()
  call = jax.jit(chain).lower(x, matrix).compile()
  return lambda: call(x, matrix)


def _triad(mesh: Mesh, size: int) -> Callable[[], Any]:
  """A call that reads two arrays of `size` bytes per device and writes one."""
  sharding = NamedSharding(mesh, PartitionSpec(_AXIS))
  shape = (mesh.size, size // 4)

  @functools.partial(jax.jit, out_shardings=(sharding, sharding))
  def start():
    return jnp.ones(shape), jnp.ones(shape)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding)
  def triad(a, c):
    return a * 0.5 + c

  a, c = start()
  compiled = triad.lower(a, c).compile()

  def call():
    nonlocal a
    # Donated, so that no fresh memory has to be mapped.
    a = compiled(a, c)
    return a

  return call


def _best(call: Callable[[], Any], seconds: float) -> float:
  """Shortest time of a call, of at least three after the first."""
  jax.block_until_ready(call())
  times = []
  end = time.perf_counter() + seconds
  while len(times) < 3 or time.perf_counter() < end:
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return min(times)
