"""Several processes train what one does, and survive what may happen to them.

Processes are real, join over loopback and are started by launch/local.sh; only
the corpus is a small one in memory (tests/in_memory_main.py).
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import timnet
from jaxser.engine import distributed, train, trainer
from jaxser.evaluation import predictions
from tests import in_memory_main

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = {'model.num_blocks': 1, 'batch_size': 13, 'epochs': 12}
SETTINGS |= {'checkpoint_every': 1, 'tensorboard': False, 'embeddings': False}
# Four folds on eight devices: each process has two of them, and each of these
# two devices.
BATCHES = {
  'streamed': {**SETTINGS, 'data.cache_gib': 0.0, 'fold_subset': (0,)},
  'resident': {**SETTINGS, 'data.cache_gib': 1.0, 'fold_subset': (0, 1, 2, 3)},
}
# So wide that all eight devices hold parts of the kernels.
WIDE = {'parallel': 'fsdp', 'model.filters': 64}
BATCHES['divided'] = {**BATCHES['streamed'], **WIDE}


def train_here(batches, workdir):
  config = timnet.get_config()
  config.update_from_flattened_dict(BATCHES[batches])
  train.run(config, workdir)


@pytest.fixture(scope='module', autouse=True)
def in_memory():
  with pytest.MonkeyPatch.context() as patch:
    in_memory_main.install(patch.setattr)
    yield


@pytest.fixture(scope='module')
def one_process(in_memory, tmp_path_factory):
  """batches -> work folder of one process with eight devices."""

  @functools.cache
  def trained(batches):
    workdir = tmp_path_factory.mktemp(batches)
    train_here(batches, workdir)
    return workdir

  return trained


def rows_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_same_results(found, expected):
  """Curves and predictions, up to the order in which devices are summed."""
  wanted = rows_of(expected)
  assert len(wanted) % (2 * SETTINGS['epochs']) == 0
  for row, other in zip(rows_of(found), wanted, strict=True):
    assert row.pop('split') == other.pop('split')
    assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
  found, expected = (
    predictions.read_predictions(workdir / 'predictions.jsonl')
    for workdir in (found, expected)
  )
  assert len(found) == len(expected) > 0
  for one, other in zip(found, expected, strict=True):
    for name in ('id', 'fold', 'selection', 'epoch', 'prediction'):
      assert getattr(one, name) == getattr(other, name)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


class Local:
  """A running launch/local.sh with two processes of four devices."""

  def __init__(self, workdir, batches, *more):
    python = workdir / 'python'
    python.write_text(
      '#!/usr/bin/env bash\n'
      f'if [[ $2 == jaxser.main ]]; then set -- -m tests.in_memory_main "${{@:3}}"; fi\n'
      f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    self.workdir = workdir
    command = ['launch/local.sh', '--processes=2', '--devices=4', *more]
    command += [f'--config={ROOT}/configs/timnet.py', f'--workdir={workdir}']
    command += [
      f'--config.{n}={value}' for n, value in BATCHES[batches].items()
    ]
    changes = {'PYTHON': python, 'JAXSER_CACHE_DIR': workdir / 'cache'}
    changes['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
    with (workdir / 'stderr').open('w') as errors:
      self.process = subprocess.Popen(
        [*command, '--lost_after=20'],
        cwd=ROOT,
        env={**os.environ, **{name: str(x) for name, x in changes.items()}},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
      )

  @property
  def errors(self):
    return (self.workdir / 'stderr').read_text()

  def after_first_epoch(self):
    """Waits until an epoch is saved; the process numbers."""
    saved = self.workdir / 'checkpoints'
    while not any(path.name.isdigit() for path in saved.glob('*/*')):
      assert self.process.poll() is None, self.errors
      time.sleep(0.01)
    return [int(n) for n in re.findall(r'process \d: pid (\d+)', self.errors)]

  def end(self):
    """Waits for the end; exit code and what was printed."""
    printed, _ = self.process.communicate(timeout=400)
    return self.process.returncode, printed

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.communicate()


@pytest.mark.parametrize('batches', BATCHES)
def test_a_killed_process_ends_the_other_and_both_continue(
  one_process, batches, tmp_path
):
  with Local(tmp_path, batches, '--max_restarts=1') as local:
    first, second = local.after_first_epoch()
    os.kill(second, signal.SIGKILL)
    start = time.monotonic()
    while pathlib.Path(f'/proc/{first}').exists():
      time.sleep(0.05)
    assert time.monotonic() - start < 60
    code, printed = local.end()
  assert code == 0, local.errors
  assert re.search('another (process|task)', local.errors)
  assert re.search(r'Ended with (75|134|137); restart 1 of 1', local.errors)
  assert re.search(r'continues? after epoch (\d+)', local.errors)
  # Each of them speaks once: process 0.
  assert printed.count('Results: ') == 1
  assert_same_results(tmp_path, one_process(batches))
  results = json.loads((tmp_path / 'results.json').read_text())
  engine = 'resident' if batches == 'resident' else 'streamed'
  wanted = {'engine': engine, 'processes': 2, 'devices': 8}
  assert wanted.items() <= results['environment'].items()


def test_sigterm_to_one_saves_on_all_and_one_device_continues(
  one_process, tmp_path, monkeypatch
):
  with Local(tmp_path, 'resident', '--max_restarts=0') as local:
    _, second = local.after_first_epoch()
    os.kill(second, signal.SIGTERM)
    code, _ = local.end()
  assert code == 143, local.errors
  assert local.errors.count('stopped by SIGTERM; the position is saved') == 2
  done = len(rows_of(tmp_path)) // (2 * 4)
  assert 1 <= done < SETTINGS['epochs']
  expected = one_process('resident')
  plan = functools.partial(trainer.plan, devices=jax.devices()[:1])
  monkeypatch.setattr(trainer, 'plan', plan)
  train_here('resident', tmp_path)
  assert_same_results(tmp_path, expected)


@pytest.mark.parametrize(
  ('mode', 'coordinator', 'process', 'message'),
  [
    ('off', None, None, r'go together; given were None, 2, None'),
    ('off', 'here', 0, r'--coordinator=here must be HOST:PORT'),
    ('off', 'a:1', 2, r'--process_id=2 must be from 0 to 1'),
    ('auto', 'a:1', 1, '--distributed=auto: no cluster'),
  ],
)
def test_processes_that_cannot_join_are_explained(
  mode, coordinator, process, message, monkeypatch
):
  def initialize(*unused, **also):
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises(distributed.DistributedError, match=message):
    distributed.initialize(mode, coordinator, 2, process)


LOST = jax.errors.JaxRuntimeError('Gloo all-reduce failed: Connection reset')
OTHER = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED')


@pytest.mark.parametrize(
  ('error', 'code', 'said'),
  [
    (LOST, 75, 'Error: another process of this run was lost'),
    (OTHER, 1, 'RESOURCE_EXHAUSTED'),
    (KeyError('x'), 1, "KeyError: 'x'"),
    (KeyboardInterrupt(), 130, ''),
    (None, 2, ''),
  ],
)
def test_one_of_several_that_fails_ends_at_once(
  monkeypatch, capsys, error, code, said
):
  def function():
    if error:
      raise error
    return code

  # In the place of os._exit, which ends a process.
  monkeypatch.setattr(os, '_exit', sys.exit)
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  with pytest.raises(SystemExit, match=str(code)):
    distributed.run(function)
  assert said in capsys.readouterr().err
  assert distributed.run(lambda: 143) == 143
