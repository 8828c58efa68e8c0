"""Keeps libtpu silent on machines without a TPU.

Where the extra `tpu` is installed, JAX asks libtpu for a TPU before it takes
the CPU. Without one libtpu narrates for six lines that it does not know what
kind of TPU it has, which looks like an error and is none. It says nothing once
it is told a kind.
"""

import glob
import importlib.util
import os
import pathlib

_PCI = '/sys/bus/pci/devices/*/vendor'
_GOOGLE = '0x1ae0'
# What the drivers of TPUs make.
_DEVICES = ('/dev/accel*', '/dev/vfio/[0-9]*')
QUIET = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
"""With these libtpu asks no server of Google's cloud who it is, does not want the
machine to itself, and does not narrate. None of this matters without a TPU."""


def quiet_without_tpu() -> bool:
  """Sets libtpu's variables if there is certainly no TPU; call it before JAX.

  With any sign of a TPU nothing is touched: a device of Google's (which may be
  a network card), a variable about TPUs, or a PCI bus that cannot be seen.

  Returns:
    Whether they were set.
  """
  if importlib.util.find_spec('libtpu') is None or _told() or _maybe_tpu():
    return False
  os.environ.update(QUIET)
  return True


def _told() -> bool:
  """Whether somebody has said something about TPUs, or asked for one."""
  # Importing libtpu sets the first, and JAX the second where it finds no TPU.
  names = os.environ.keys() - {'TPU_LIBRARY_PATH', 'TPU_SKIP_MDS_QUERY'}
  return (
    # With another platform libtpu is not even asked.
    bool(os.environ.get('JAX_PLATFORMS'))
    or 'JAX_FORCE_TPU_INIT' in names
    or any(name.startswith(('TPU_', 'CLOUD_TPU_', 'LIBTPU_')) for name in names)
  )


def _maybe_tpu() -> bool:
  try:
    vendors = [pathlib.Path(p).read_text().strip() for p in glob.glob(_PCI)]
  except OSError:
    return True
  if not vendors or _GOOGLE in vendors:
    return True
  return any(glob.glob(pattern) for pattern in _DEVICES)
