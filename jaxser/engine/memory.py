"""How much memory a device has left, and how much a program needs."""

import os
import pathlib
import resource
import sys

import jax
import numpy as np

from jaxser.systems.base import Tree

GIB = 2**30
# Kept free: fragmentation, kernels' workspaces, other programs.
_PART_OF_DEVICE = 0.9
_PART_OF_HOST = 0.8


def budget(device: jax.Device, override_gib: float = 0.0) -> int:
  """Returns the bytes that may be used on each device.

  Args:
    device: one of this process' devices.
    override_gib: config.memory_gib; 0 asks the device.
  """
  if override_gib:
    return int(override_gib * GIB)
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    return int(_PART_OF_DEVICE * free)
  # Devices of a CPU share the memory of the machine.
  sharing = jax.local_device_count() if device.platform == 'cpu' else 1
  return int(_PART_OF_HOST * available_host_bytes() / sharing)


def peak() -> int:
  """Returns the most bytes that one of this process' devices has held.

  Of devices that do not say, such as CPUs, the most that the process has held.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all('peak_bytes_in_use' in found for found in stats):
    return max(found['peak_bytes_in_use'] for found in stats)
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else 1024 * most


def available_host_bytes() -> int:
  """Returns what this process can still get, within a container's limit."""
  meminfo = pathlib.Path('/proc/meminfo')
  if meminfo.exists():
    fields = dict(
      line.split(':', 1) for line in meminfo.read_text().splitlines()
    )
    free = int(fields['MemAvailable'].split()[0]) * 1024
  else:
    # Not Linux, where free memory is not listed: half of what there is.
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
  group = pathlib.Path('/sys/fs/cgroup')
  limit = group / 'memory.max'
  if limit.exists() and (text := limit.read_text().strip()) != 'max':
    used = int((group / 'memory.current').read_text())
    free = min(free, int(text) - used)
  return max(free, 0)


def need(compiled: jax.stages.Compiled) -> int:
  """Returns the bytes on each device while a program runs.

  Its arguments are included. 0 where the compiler does not say.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    return 0
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )


def size(tree: Tree) -> int:
  """Returns the bytes of all arrays of a tree, abstract ones too."""
  return sum(
    int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def exhausted(error: Exception) -> bool:
  """Returns whether a device ran out of memory."""
  return 'RESOURCE_EXHAUSTED' in str(error)


def show(count: int) -> str:
  """Returns '1.25 GiB'."""
  return f'{count / GIB:.3g} GiB'
