import platform
import subprocess
import sys

import pytest

# Page faults of the second of two 200 MB arrays made in a thread, as XLA's are.
_PROGRAM = """
import resource, sys, threading
import numpy as np
from jaxser import heap

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
  array = np.empty(200 * 2**20, np.uint8)
  array[::4096] = 1

kept = heap.keep_freed_memory() if sys.argv[1] == 'keep' else None
for _ in range(2):
  before = faults()
  thread = threading.Thread(target=fill)
  thread.start()
  thread.join()
print(kept, faults() - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='needs the GNU C library'
)
def test_freed_memory_is_used_again():
  def run(how):
    done = subprocess.run(
      [sys.executable, '-c', _PROGRAM, how],
      capture_output=True,
      text=True,
      check=True,
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)

  kept, faults = run('keep')
  assert kept == 'True'
  # Without it every one of 51,200 pages is mapped and cleared again; pages may
  # be larger where the system says so.
  assert faults < 50
  assert run('return')[1] > faults
