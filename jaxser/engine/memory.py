"""How much memory a device has left, and how much a program needs, in bytes."""

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
  """Returns what may be used on each device; config.memory_gib overrides it."""
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
  """Returns the most that a device, or else this process, has held."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all('peak_bytes_in_use' in found for found in stats):
    return max(found['peak_bytes_in_use'] for found in stats)
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else 1024 * most


def available_host_bytes() -> int:
  """Returns what this process can still get, within a container's limit."""
  meminfo = pathlib.Path('/proc/meminfo')
  if meminfo.exists():
    lines = meminfo.read_text().splitlines()
    fields = dict(line.split(':', 1) for line in lines)
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
  """Returns what a program holds on each device; 0 if that is unknown."""
  found = compiled.memory_analysis()
  if found is None:
    return 0
  arrays = found.argument_size_in_bytes + found.output_size_in_bytes
  return arrays - found.alias_size_in_bytes + found.temp_size_in_bytes


def size(tree: Tree) -> int:
  leaves = jax.tree.leaves(tree)
  return sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves)


def exhausted(error: Exception) -> bool:
  return 'RESOURCE_EXHAUSTED' in str(error)


def show(count: int) -> str:
  """Returns '1.25 GiB'."""
  return f'{count / GIB:.3g} GiB'
