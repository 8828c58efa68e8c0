"""Test settings: virtual devices, strict shapes, a scratch folder for all."""

import atexit
import ctypes
import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

# Set before JAX starts. Tests with several devices use virtual ones of a CPU;
# most programs run once, so compiling them well would take most of the time.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  + ' --xla_backend_optimization_level=0'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Workers, and the programs that tests start, inherit it: what one of them
# prepares or compiles is there for all, and nothing goes to the home folder.
if 'JAXSER_TEST_DIR' not in os.environ:
  _scratch = tempfile.mkdtemp(prefix='jaxser_tests_')
  atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
  os.environ['JAXSER_TEST_DIR'] = _scratch
  os.environ['JAXSER_DATA_DIR'] = f'{_scratch}/data'
  os.environ['JAXSER_CACHE_DIR'] = f'{_scratch}/cache'
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{_scratch}/xla')
  os.environ.setdefault('MPLCONFIGDIR', f'{_scratch}/matplotlib')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def free_programs() -> Iterator[None]:
  """Frees what a file compiled; others hardly ever run the same programs."""
  yield
  jax.clear_caches()
  # glibc would keep what is free between what is not.
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
    trim(0)


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The data folder of this session, in which the demo corpus is prepared."""
  from data_prep import prepare

  folder = pathlib.Path(os.environ['JAXSER_DATA_DIR'])
  # Workers wait for the first of them here.
  prepare.prepare_corpus(
    'demo', data_dir=folder, num_workers=1, report=lambda line: None
  )
  return folder


@pytest.fixture(scope='session')
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
  """Five recordings of the demo corpus, one per class and speaker."""
  from tests import trained

  return trained.write_speech(tmp_path_factory.mktemp('speech'))


@pytest.fixture(scope='session')
def trained_run(
  speech: list[pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
  """Makes a run of a system with random weights; nothing may change it."""
  from tests import trained

  @functools.cache
  def run(system: str) -> trained.Run:
    return trained.write_run(tmp_path_factory.mktemp(system), system, speech)

  return run
