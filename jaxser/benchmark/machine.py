"""The machine that figures depend on, and what it can do at best."""

import functools
import os
import pathlib
import platform
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.benchmark import timing

# Side of the square matrices, matmuls per call, MiB of each streamed array: beyond
# every cache, and done within seconds.
SIZES = {'cpu': (1024, 1, 128), 'other': (8192, 16, 1024)}


def measure_peaks(seconds: float) -> dict[str, Any]:
  """Measures the best speed of matmuls and of memory, of all devices together."""
  devices = jax.devices()
  on_cpu = devices[0].platform == 'cpu'
  side, matmuls, mebibytes = SIZES['cpu' if on_cpu else 'other']
  mesh = Mesh(np.array(devices), ('device',))
  full = functools.partial(
    jnp.full, device=NamedSharding(mesh, PartitionSpec('device'))
  )

  def per_second(amount, call):
    times = timing.repeat(lambda: jax.block_until_ready(call()), seconds, 3)
    return len(devices) * amount / min(times)

  @functools.partial(jax.jit, static_argnums=2)
  def chain(x, matrix, precision):
    def multiply(_, x):
      return jnp.matmul(x, matrix, precision=precision).astype(x.dtype)

    return jax.lax.fori_loop(0, matmuls, multiply, x)

  def flops(dtype, precision):
    shape = len(devices), side, side
    # Rows of the matrix add up to 1, so results stay finite.
    x, matrix = full(shape, 1, dtype), full(shape, 1 / side, dtype)
    operations = matmuls * 2 * side**3
    return per_second(operations, lambda: chain(x, matrix, precision))

  size = mebibytes * 2**20
  a, c = (full((len(devices), size // 4), 1.0) for _ in range(2))
  # Donated, so that no fresh memory has to be mapped.
  add = jax.jit(lambda a, c: a * 0.5 + c, donate_argnums=0)

  def triad():
    nonlocal a
    a = add(a, c)
    return a

  return {
    'flops': {
      'float32': flops(jnp.float32, Precision.DEFAULT),
      'float32_highest': flops(jnp.float32, Precision.HIGHEST),
      'bfloat16': flops(jnp.bfloat16, Precision.DEFAULT),
    },
    'bytes': per_second(3 * size, triad),
  }


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
