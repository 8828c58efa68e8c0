"""Extraction in several processes: order, memory, failures, the end."""

import functools
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from data_prep import features, workers

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pool_of(convention, num_workers):
  extract = functools.partial(workers.extract, convention)
  return workers.Pool(extract, num_workers)


@pytest.fixture
def paths(tmp_path):
  """Twenty files; the n-th has 1000 + n samples."""
  names = [tmp_path / f'{number}.wav' for number in range(20)]
  for number, path in enumerate(names):
    soundfile.write(path, np.full(1000 + number, number / 100), 16000)
  return names


@pytest.mark.parametrize('num_workers', [1, 2])
def test_results_are_in_order_and_errors_belong_to_their_files(
  paths, num_workers
):
  paths[3].write_bytes(b'')
  soundfile.write(paths[5], np.full(1000, 1e30), 16000, 'FLOAT')
  soundfile.write(paths[6], np.zeros(10), 16000)
  with pool_of(features.Kaldi16k(), num_workers) as pool:
    results = list(pool.map(paths))
  assert [i for i, r in enumerate(results) if r.error] == [3, 5, 6]
  assert f'{paths[3]}: the file is empty' in results[3].error
  assert f'{paths[5]}: the kaldi16k features are not fin' in results[5].error
  assert 'the largest sample is 1e+30 and full scale is 1' in results[5].error
  assert f'{paths[6]}: kaldi16k: the audio lasts 0.6 ms' in results[6].error
  samples = [16000 * r.seconds for r in results if not r.error]
  expected = [1000 + n for n in range(20) if n not in (3, 5, 6)]
  assert samples == pytest.approx(expected)


def test_only_a_few_results_are_waiting_and_leaving_early_ends_all(paths):
  taken = []
  source = (taken.append(i) or paths[i % 20] for i in itertools.count())
  with pool_of(features.Wave16k(), 2) as pool:
    for count, result in enumerate(pool.map(source), start=1):
      assert len(taken) <= count + 2 * 2
      assert len(result.features) == 1000 + (count - 1) % 20
      if count == 50:
        break
    assert multiprocessing.active_children()
  assert not multiprocessing.active_children()


@pytest.mark.parametrize('num_workers', [1, 2])
def test_another_failure_names_the_file_and_shows_the_cause(paths, num_workers):
  broken = features.Kaldi16k(high_hz='high')
  with (
    pool_of(broken, num_workers) as pool,
    pytest.raises(workers.WorkerError, match='TypeError') as error,
  ):
    list(pool.map(paths))
  assert str(paths[0]) in str(error.value)


class Deadly(features.Wave16k):
  """Kills its process at the file of 1003 samples, once or always."""

  def __call__(self, waveform, sample_rate, **rest):
    flag = pathlib.Path(os.environ['DEADLY'])
    if len(waveform) == 1003 and flag.exists():
      if flag.read_text() == 'once':
        flag.unlink()
      os.kill(os.getpid(), signal.SIGKILL)
    return super().__call__(waveform, sample_rate, **rest)


def test_a_process_that_dies_is_an_error_that_names_its_file(
  paths, monkeypatch, tmp_path
):
  flag = tmp_path / 'flag'
  monkeypatch.setenv('DEADLY', str(flag))
  flag.write_text('always')
  done = []
  message = r'/3\.wav: the process that reads'
  with (
    pool_of(Deadly(), 2) as pool,
    pytest.raises(workers.WorkerError, match=message),
  ):
    done += (len(result.features) for result in pool.map(paths))
  assert done == [1000, 1001, 1002]
  # As when memory was short for a moment: alone, every file succeeds.
  flag.write_text('once')
  with pool_of(Deadly(), 2) as pool:
    sizes = [len(result.features) for result in pool.map(paths)]
  assert sizes == list(range(1000, 1020))


@pytest.mark.slow
def test_workers_need_no_main_guard_and_end_with_a_killed_parent(
  paths, tmp_path
):
  program = tmp_path / 'program.py'
  program.write_text(
    f"""
import functools, itertools, multiprocessing, os, pathlib
from data_prep import features, workers
extract = functools.partial(workers.extract, features.Wave16k())
print('started', flush=True)
with workers.Pool(extract, 2) as pool:
  next(pool.map(itertools.repeat(pathlib.Path({str(paths[0])!r}))))
  print(*(p.pid for p in multiprocessing.active_children()), flush=True)
  os.kill(os.getpid(), 9)
"""
  )
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  options = {'stdout': subprocess.PIPE, 'text': True, 'timeout': 120}
  done = subprocess.run([sys.executable, program], env=environment, **options)
  started, pids = done.stdout.splitlines()
  assert started == 'started'
  deadline = time.monotonic() + 20
  while any(_runs(pid) for pid in pids.split()):
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _runs(pid):
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'


def test_few_files_get_few_processes():
  assert workers.Pool(len, None, 20).num_workers == 1
  most = workers.Pool(len, None, 10**6).num_workers
  assert most == workers.default_workers()
  assert 1 <= most <= 16
  assert workers.Pool(len, 5, 20).num_workers == 5
