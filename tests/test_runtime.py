"""What is set before JAX computes: memory, libtpu, caches."""

import os
import platform
import subprocess
import sys

import pytest

from jaxser.core import runtime


def run(program, *arguments, **environment):
  return subprocess.run(
    [sys.executable, '-c', program, *arguments],
    capture_output=True,
    text=True,
    env={**os.environ, **environment},
  )


# Page faults of the second of two 200 MB arrays made in a thread, as XLA's are.
_FAULTS = """
import resource, sys, threading
import numpy as np
from jaxser.core import runtime

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
  array = np.empty(200 * 2**20, np.uint8)
  array[::4096] = 1

kept = runtime.keep_freed_memory() if sys.argv[1] == 'keep' else None
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
  kept, faults = run(_FAULTS, 'keep').stdout.split()
  assert kept == 'True'
  # Without it every one of 51,200 pages is mapped and cleared again; pages may
  # be larger where the system says so.
  assert int(faults) < 50
  assert int(run(_FAULTS, 'return').stdout.split()[1]) > int(faults)


# JAX has been imported, and found none either.
IMPORTED = {'TPU_LIBRARY_PATH': 'libtpu.so', 'TPU_SKIP_MDS_QUERY': '1'}


@pytest.mark.parametrize(
  ('environment', 'vendors', 'device', 'libtpu', 'quiet'),
  [
    ({'JAX_PLATFORMS': 'tpu,cpu'}, ('0x8086',), False, True, False),
    ({'JAX_FORCE_TPU_INIT': '1'}, ('0x8086',), False, True, False),
    ({'TPU_WORKER_ID': '0'}, ('0x8086',), False, True, False),
    ({'LIBTPU_INIT_ARGS': '--x'}, ('0x8086',), False, True, False),
    ({}, ('0x8086',), True, True, False),
    ({}, (), False, True, False),
    ({}, ('0x8086',), False, False, False),
    ({}, ('0x8086', '0x1ae0'), False, True, False),
    ({}, ('0x8086',), False, True, True),
    (IMPORTED, ('0x8086',), False, True, True),
  ],
)
def test_libtpu_is_quiet_only_without_any_sign_of_a_tpu(
  tmp_path, monkeypatch, environment, vendors, device, libtpu, quiet
):
  for name in {*os.environ, *runtime.QUIET_LIBTPU}:
    if 'TPU' in name or name == 'JAX_PLATFORMS':
      # Set first, so that monkeypatch takes back what the function sets.
      monkeypatch.setenv(name, '')
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  for vendor in vendors:
    (tmp_path / f'pci{vendor}').write_text(f'{vendor}\n')
  if device:
    (tmp_path / 'accel0').touch()
  monkeypatch.setattr(runtime, '_PCI_VENDORS', f'{tmp_path}/pci*')
  monkeypatch.setattr(runtime, '_TPU_DEVICES', (f'{tmp_path}/accel*',))
  found = 'libtpu' if libtpu else None
  monkeypatch.setattr(runtime.importlib.util, 'find_spec', lambda _: found)
  assert runtime.quiet_without_tpu() == quiet
  assert ('TPU_ACCELERATOR_TYPE' in os.environ) == quiet


# A user without an entry in the password database, as in `docker run --user`.
_CACHE = """
import os, pathlib, sys
if sys.argv[1] == 'unset':
  import pwd
  def unknown(uid): raise KeyError(uid)
  pwd.getpwuid = unknown
  del os.environ['HOME']
from jaxser.core import runtime
runtime.enable_compilation_cache()
import jax
folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
print(folder, folder.parent.is_dir(), os.environ.get('NUMBA_CACHE_DIR'))
"""


@pytest.mark.parametrize('home', ['unset', 'read-only', 'usable'])
def test_caches_need_no_home(tmp_path, monkeypatch, home):
  for name in ('JAXSER_CACHE_DIR', 'JAX_COMPILATION_CACHE_DIR'):
    monkeypatch.delenv(name, raising=False)
  # The superuser may write everywhere, but not below a file.
  place = tmp_path / 'home'
  place.touch() if home == 'read-only' else place.mkdir()
  done = run(_CACHE, home, HOME=str(place))
  assert done.returncode == 0, done.stderr
  folder, exists, numba = done.stdout.split()
  assert exists == 'True'
  if home == 'usable':
    assert folder == f'{place}/.cache/jaxser/xla'
    assert done.stderr == ''
  else:
    assert done.stderr.startswith('No folder for caches (')
    assert done.stderr.count('\n') == 1
    assert numba.startswith(folder.removesuffix('/xla'))
    assert not os.path.exists(folder)  # It ends with the command.
