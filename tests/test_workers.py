"""Extraction in several processes: order, memory, failures, the end."""

import itertools
import os
import time

import numpy as np
import pytest
import soundfile

from data_prep import features, workers


@pytest.fixture
def paths(tmp_path):
  """Twenty files; the n-th has 1000 + n samples."""
  names = []
  for number in range(20):
    names.append(tmp_path / f'{number}.wav')
    soundfile.write(names[-1], np.full(1000 + number, number / 100), 16000)
  return names


@pytest.mark.parametrize('num_workers', [1, 3])
def test_results_come_in_the_order_of_the_paths(paths, num_workers):
  with workers.Pool(features.Wave16k(), num_workers) as pool:
    results = list(pool.map(paths))
  assert [len(r.features) for r in results] == list(range(1000, 1020))
  assert results[16].seconds == pytest.approx(1016 / 16000)
  np.testing.assert_allclose(results[7].features, 0.07, atol=1e-4)
  assert not any(r.error for r in results)


def test_only_a_few_results_are_waiting(paths):
  taken = []
  source = (taken.append(i) or paths[i % 20] for i in itertools.count())
  with workers.Pool(features.Wave16k(), 2) as pool:
    for count, _ in enumerate(pool.map(source), start=1):
      assert len(taken) <= count + 2 * 2
      if count == 50:
        break


@pytest.mark.parametrize('num_workers', [1, 2])
def test_an_unusable_file_is_a_result_that_names_it(paths, num_workers):
  paths[3].write_bytes(b'')
  soundfile.write(paths[5], np.full(1000, 1e30), 16000, 'FLOAT')
  soundfile.write(paths[6], np.zeros(10), 16000)
  with workers.Pool(features.Kaldi16k(), num_workers) as pool:
    results = list(pool.map(paths))
  assert [i for i, r in enumerate(results) if r.error] == [3, 5, 6]
  assert f'{paths[3]}: the file is empty' in results[3].error
  assert f'{paths[5]}: the kaldi16k features are not fin' in results[5].error
  assert 'the largest sample is 1e+30 and full scale is 1' in results[5].error
  assert f'{paths[6]}: kaldi16k: the audio lasts 0.6 ms' in results[6].error


def test_another_failure_names_the_file_and_shows_the_cause(paths):
  broken = features.Kaldi16k(high_hz='high')
  with (
    workers.Pool(broken, 2) as pool,
    pytest.raises(workers.WorkerError, match='TypeError') as error,
  ):
    list(pool.map(paths))
  assert str(paths[0]) in str(error.value)
  with (
    workers.Pool(broken, 1) as pool,
    pytest.raises(TypeError) as error,
  ):
    list(pool.map(paths))
  assert error.value.__notes__ == [f'This happened with {paths[0]}.']


def test_a_worker_that_dies_is_an_error_that_names_the_file(paths):
  with workers.Pool(features.Wave16k(), 2) as pool:
    for process in pool._processes:
      process.kill()
    with pytest.raises(
      workers.WorkerError, match=r'0\.wav ended with exit status -9'
    ):
      list(pool.map(paths))


def test_leaving_early_ends_the_workers(paths):
  with workers.Pool(features.Wave16k(), 2) as pool:
    next(pool.map(itertools.cycle(paths)))
    processes = list(pool._processes)
    assert all(process.poll() is None for process in processes)
  assert all(process.poll() is not None for process in processes)


def test_workers_end_when_their_input_ends(paths):
  """As when the program that feeds them is killed."""
  with workers.Pool(features.Wave16k(), 2) as pool:
    for process in pool._processes:
      process.stdin.close()
    for process in pool._processes:
      assert process.wait(timeout=60) == 0


def test_few_files_get_few_processes():
  convention = features.Wave16k()
  assert workers.Pool(convention, None, 20).num_workers == 1
  most = workers.Pool(convention, None, 10**6).num_workers
  assert most == workers.default_workers()
  assert 1 <= most <= 16
  assert workers.Pool(convention, 5, 20).num_workers == 5
  with pytest.raises(ValueError, match='num_workers is 0; it must be at least'):
    workers.Pool(convention, 0)


def test_starting_does_not_wait(paths):
  """A pool is entered long before its workers have imported NumPy."""
  start = time.monotonic()
  with workers.Pool(features.Wave16k(), 2) as pool:
    entered = time.monotonic() - start
    list(pool.map(paths))
    finished = time.monotonic() - start
  assert entered < finished / 2
  assert os.getpid() not in [process.pid for process in pool._processes]
