"""The machine that figures depend on, and what it can do at best."""

import functools
import os
import pathlib
import platform
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.benchmark import timing

# Side of the square matrices, matmuls per call, MiB of each streamed array: beyond
# every cache, and done within seconds.
SIZES = {'cpu': (1024, 1, 128), 'other': (8192, 16, 1024)}


def measure_peaks(seconds: float) -> dict[str, Any]:
  """Measures the best speed of matmuls and of memory, of all devices together.

  Args:
    seconds: time for each of the figures.

  Returns:
    'flops_per_second' by type: 'float32' at the platform's usual precision (TF32
    on NVIDIA GPUs, one bfloat16 pass on TPUs), 'float32_highest' in full, and
    'bfloat16'; 'bytes_per_second', read and written by a = a s + c.
  """
  devices = jax.devices()
  on_cpu = devices[0].platform == 'cpu'
  side, matmuls, mebibytes = SIZES['cpu' if on_cpu else 'other']
  mesh = Mesh(np.array(devices), ('device',))
  sharding = NamedSharding(mesh, PartitionSpec('device'))

  def per_second(amount, call):
    times = timing.repeat(lambda: jax.block_until_ready(call()), seconds, 3)
    return len(devices) * amount / min(times)

  size = mebibytes * 2**20
  return {
    'flops_per_second': {
      name: per_second(
        matmuls * 2 * side**3,
        _matmuls(sharding, side, matmuls, dtype, precision),
      )
      for name, dtype, precision in (
        ('float32', jnp.float32, jax.lax.Precision.DEFAULT),
        ('float32_highest', jnp.float32, jax.lax.Precision.HIGHEST),
        ('bfloat16', jnp.bfloat16, jax.lax.Precision.DEFAULT),
      )
    },
    'bytes_per_second': per_second(3 * size, _triad(sharding, size)),
  }


def _matmuls(
  sharding: NamedSharding, side: int, count: int, dtype: Any, precision: Any
) -> Callable[[], Any]:
  """Returns a call that multiplies square matrices on every device."""
  rows = sharding.spec

  @jax.jit
  @functools.partial(
    jax.shard_map, mesh=sharding.mesh, in_specs=(rows, rows), out_specs=rows
  )
  def chain(x, matrix):
    def multiply(_, x):
      return jnp.matmul(x, matrix[0], precision=precision).astype(dtype)

    return jax.lax.fori_loop(0, count, multiply, x[0])[None]

  shape = sharding.mesh.size, side, side
  x = jnp.ones(shape, dtype, device=sharding)
  # Its rows add up to 1, so results stay finite however long the chain is.
  matrix = jnp.full(shape, 1 / side, dtype, device=sharding)
  return functools.partial(chain, x, matrix)


def _triad(sharding: NamedSharding, size: int) -> Callable[[], Any]:
  """Returns a call that reads two arrays of `size` bytes and writes one."""
  shape = sharding.mesh.size, size // 4
  a, c = (jnp.ones(shape, device=sharding) for _ in range(2))
  # Donated, so that no fresh memory has to be mapped.
  triad = jax.jit(lambda a, c: a * 0.5 + c, donate_argnums=0)

  def call():
    nonlocal a
    a = triad(a, c)
    return a

  return call


def peak_device_bytes() -> int | None:
  """Returns the most memory this process ever held on a device; None on CPUs."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  return max((s['peak_bytes_in_use'] for s in stats if s), default=None)


def environment() -> dict[str, Any]:
  """Describes the machine and the versions, for JSON."""
  device, path = jax.devices()[0], pathlib.Path('/proc/cpuinfo')
  about = path.read_text('utf-8') if path.exists() else ''
  name = re.search(r'^model name\s*: (.*)$', about, re.MULTILINE)
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'devices': jax.device_count(),
    'cpu': name[1] if name else platform.processor() or platform.machine(),
    'cpu_cores': os.cpu_count(),
    # Above the number of cores, others were working too.
    'load_average': os.getloadavg()[0],
    'jax': jax.__version__,
    'python': platform.python_version(),
  }
