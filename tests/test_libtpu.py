"""libtpu is told to be quiet only where there is certainly no TPU."""

import importlib.util
import os
import subprocess
import sys

import pytest

from jaxser.core import libtpu


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """A machine without a TPU, with libtpu; adds PCI devices and variables."""
  for name in [*os.environ]:
    if 'TPU' in name or name == 'JAX_PLATFORMS':
      monkeypatch.delenv(name)
  for name in libtpu.QUIET:
    # So that what is set here is taken back.
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)
  monkeypatch.setattr(libtpu, '_PCI', f'{tmp_path}/pci/*/vendor')
  monkeypatch.setattr(libtpu, '_DEVICES', (f'{tmp_path}/accel*',))
  monkeypatch.setattr(libtpu.importlib.util, 'find_spec', lambda name: name)

  def plug(vendor):
    folder = tmp_path / 'pci' / vendor
    folder.mkdir(parents=True)
    (folder / 'vendor').write_text(f'{vendor}\n')

  plug('0x8086')
  return tmp_path, plug, monkeypatch


def silent():
  done = libtpu.quiet_without_tpu()
  assert done == ('TPU_ACCELERATOR_TYPE' in os.environ)
  return done


def test_it_is_quiet_without_a_tpu(machine):
  # JAX has been imported, and found none either.
  machine[2].setenv('TPU_LIBRARY_PATH', 'libtpu.so')
  machine[2].setenv('TPU_SKIP_MDS_QUERY', '1')
  assert silent()


def test_a_device_of_google_or_of_a_driver_is_left_alone(machine):
  folder, plug, _ = machine
  (folder / 'accel0').touch()
  assert not silent()
  (folder / 'accel0').unlink()
  plug('0x1ae0')
  assert not silent()


def test_a_bus_that_cannot_be_seen_says_nothing(machine):
  _, _, monkeypatch = machine
  monkeypatch.setattr(libtpu, '_PCI', '/nowhere/*')
  assert not silent()


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('JAX_PLATFORMS', 'tpu,cpu'),
    ('JAX_PLATFORMS', 'cpu'),
    ('JAX_FORCE_TPU_INIT', '1'),
    ('TPU_WORKER_ID', '0'),
    ('LIBTPU_INIT_ARGS', '--x'),
  ],
)
def test_who_speaks_of_tpus_is_left_alone(machine, name, value):
  machine[2].setenv(name, value)
  assert libtpu.quiet_without_tpu() is False
  assert 'ALLOW_MULTIPLE_LIBTPU_LOAD' not in os.environ


def test_without_libtpu_there_is_nothing_to_silence(machine):
  _, _, monkeypatch = machine
  monkeypatch.setattr(libtpu.importlib.util, 'find_spec', lambda name: None)
  assert not silent()


_PROGRAM = """
import jax
from jaxser import libtpu
print(libtpu.quiet_without_tpu(), jax.default_backend())
"""


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu (the extra `tpu`)',
)
def test_the_real_libtpu_has_nothing_to_say():
  environment = {
    name: value
    for name, value in os.environ.items()
    if 'TPU' not in name and name != 'JAX_PLATFORMS'
  }
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM],
    capture_output=True,
    text=True,
    env=environment,
  )
  if done.stdout.split() != ['True', 'cpu']:
    pytest.skip(f'another kind of machine: {done.stdout}')
  assert done.stderr == ''
