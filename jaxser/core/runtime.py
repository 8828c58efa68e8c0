"""What a command sets in its process before JAX computes."""

import atexit
import ctypes
import glob
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

from absl import logging

from data_prep import command_line
from jaxser.core import files

# From <malloc.h>; part of the library's stable interface.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_INT_MAX = 2**31 - 1

_PCI_VENDORS = '/sys/bus/pci/devices/*/vendor'
_GOOGLE = '0x1ae0'
_TPU_DEVICES = ('/dev/accel*', '/dev/vfio/[0-9]*')
QUIET_LIBTPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
"""With these libtpu asks no metadata server, shares the machine and is silent."""


def prepare() -> None:
  """Sets what a process that trains needs, before it imports TensorFlow."""
  command_line.quiet_tensorflow()
  # Orbax logs every checkpoint at the level below.
  logging.set_verbosity(logging.WARNING)
  keep_freed_memory()
  quiet_without_tpu()
  enable_compilation_cache()


def keep_freed_memory() -> bool:
  """Lets malloc reuse large blocks; returns whether the C library took that.

  XLA's CPU programs allocate their temporary memory at every call, and the GNU
  C library returns such blocks at once, so that the kernel clears and maps
  fresh pages in every step: two fifths of the time of a TIM-Net step (batch
  64). The memory of the process then stays at its highest level.
  """
  library = ctypes.CDLL(None) if sys.platform == 'linux' else None
  if not hasattr(library, 'gnu_get_libc_version'):
    return False
  settings = (
    (_M_MMAP_MAX, 0),  # Take large blocks from the heap, ...
    (_M_TRIM_THRESHOLD, _INT_MAX),  # ... never give back its end, ...
    (_M_ARENA_MAX, 1),  # ... and share it: threads' pools hold no such blocks.
  )
  return all(library.mallopt(name, value) == 1 for name, value in settings)


def quiet_without_tpu() -> bool:
  """Silences libtpu if there is certainly no TPU; returns whether it did.

  Where the extra `tpu` is installed, JAX asks libtpu for a TPU before it takes
  the CPU, and without one libtpu prints lines that look like errors.
  """
  installed = importlib.util.find_spec('libtpu') is not None
  if not installed or _environment_names_tpu() or _may_have_tpu():
    return False
  os.environ.update(QUIET_LIBTPU)
  return True


def _environment_names_tpu() -> bool:
  # Importing libtpu sets the first, and JAX the second where it finds no TPU.
  names = os.environ.keys() - {'TPU_LIBRARY_PATH', 'TPU_SKIP_MDS_QUERY'}
  return (
    # With another platform libtpu is not even asked.
    bool(os.environ.get('JAX_PLATFORMS'))
    or 'JAX_FORCE_TPU_INIT' in names
    or any(name.startswith(('TPU_', 'CLOUD_TPU_', 'LIBTPU_')) for name in names)
  )


def _may_have_tpu() -> bool:
  try:
    paths = map(pathlib.Path, glob.glob(_PCI_VENDORS))
    vendors = {path.read_text().strip() for path in paths}
  except OSError:
    return True
  devices = any(glob.glob(pattern) for pattern in _TPU_DEVICES)
  return not vendors or _GOOGLE in vendors or devices


def enable_compilation_cache() -> None:
  """Keeps compiled programs between runs, so that only the first one waits."""
  import jax  # Late, so that --help is quick.

  folder = cache_directory()
  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', str(folder / 'xla'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def cache_directory() -> pathlib.Path:
  """Returns $JAXSER_CACHE_DIR, ~/.cache/jaxser, or a temporary folder."""
  try:
    chosen = os.environ.get('JAXSER_CACHE_DIR')
    folder = pathlib.Path(chosen or pathlib.Path.home() / '.cache' / 'jaxser')
    files.check_writable(folder / 'xla' / 'program')
    return folder
  # Without HOME and an entry for the user, pathlib raises a RuntimeError.
  except (OSError, RuntimeError) as error:
    reason = error
  folder = pathlib.Path(tempfile.mkdtemp(prefix='jaxser_cache_'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  os.environ['JAXSER_CACHE_DIR'] = str(folder)
  os.environ.setdefault('XDG_CACHE_HOME', str(folder))
  os.environ.setdefault('NUMBA_CACHE_DIR', str(folder / 'numba'))
  print(
    f'No folder for caches ({reason}): what is compiled lasts until this '
    'command ends. Set JAXSER_CACHE_DIR to a folder to keep it.',
    file=sys.stderr,
  )
  return folder
