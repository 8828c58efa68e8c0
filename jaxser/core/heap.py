"""Keeps freed memory in the process, which trains faster on Linux CPUs.

XLA's CPU programs ask for all their temporary memory anew at every call, and
the GNU C library returns such large blocks to the system at once. So every step
begins with fresh pages, which the kernel must clear and map: for TIM-Net
(batch 64) 69,000 page faults, two fifths of the time of a step.
"""

import ctypes
import sys

# From <malloc.h>; part of the library's stable interface.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
  """Lets malloc reuse large blocks instead of returning them to the system.

  Affects the whole process and cannot be undone; its memory then stays at the
  highest level that it once needed. Call it before the first computation, as
  threads that already allocated keep their own pools. GPUs and TPUs have their
  own allocators and are not affected.

  Returns:
    Whether the C library took the settings: False where it is not the GNU one.
  """
  if not sys.platform.startswith('linux'):
    return False
  library = ctypes.CDLL(None)
  if not hasattr(library, 'gnu_get_libc_version'):
    return False
  settings = (
    # Large blocks come from the heap, not from mappings of their own, ...
    (_M_MMAP_MAX, 0),
    # ... the end of the heap is not given back, ...
    (_M_TRIM_THRESHOLD, _INT_MAX),
    # ... and all threads share it: the pools of threads cannot hold such blocks.
    (_M_ARENA_MAX, 1),
  )
  return all(library.mallopt(name, value) == 1 for name, value in settings)
