"""Extracting features from many files at once, in order, in bounded memory.

A worker is a fresh Python that imports NumPy, soundfile and the feature
convention, and nothing else: no TensorFlow, no JAX, and not the program that
started it, so it may be started by a program that runs threads or lacks an
`if __name__ == '__main__'`. It reads paths from its standard input and writes
features to its standard output until its input ends, so that it cannot outlive
the program that feeds it, however that one ends.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from data_prep import audio
from data_prep import features as features_lib
from data_prep.errors import UserError

# A pool larger than this waits for the process that writes the records.
_MOST = 16
# With fewer files per worker, starting it takes longer than it saves.
_FILES_PER_WORKER = 32
_SIZE = struct.Struct('<Q')


class WorkerError(UserError):
  """Extraction failed for a reason other than the audio."""


@dataclasses.dataclass(frozen=True)
class Extracted:
  """What became of one file.

  Attributes:
    features: float32, as the convention says; None if the file is unusable.
    seconds: duration of the audio.
    error: why the file is unusable, naming it; '' if it is fine.
  """

  features: np.ndarray | None
  seconds: float = 0.0
  error: str = ''


def extract(
  convention: features_lib.Convention, path: os.PathLike[str] | str
) -> Extracted:
  """Decodes one file and computes its features."""
  try:
    waveform, rate = audio.decode(path)
  except audio.AudioError as error:
    return Extracted(None, error=str(error))
  try:
    # A float file may hold values whose power is beyond any number.
    with np.errstate(over='ignore', invalid='ignore'):
      features = convention(waveform, rate)
  except audio.AudioError as error:
    return Extracted(None, error=f'{path}: {error}')
  if not np.isfinite(features).all():
    return Extracted(
      None,
      error=(
        f'{path}: the {convention.name} features are not finite; the largest '
        f'sample is {np.abs(waveform).max():g} and full scale is 1; normalise '
        'the file.'
      ),
    )
  return Extracted(features, len(waveform) / rate)


def default_workers() -> int:
  """Processor cores that this process may use, at most 16."""
  if hasattr(os, 'sched_getaffinity'):
    return min(len(os.sched_getaffinity(0)), _MOST)
  return min(os.cpu_count() or 1, _MOST)


class Pool:
  """Extracts features with several processes; a context manager.

  Entering it starts the processes and returns at once.
  """

  def __init__(
    self,
    convention: features_lib.Convention,
    num_workers: int | None = None,
    num_files: int | None = None,
  ):
    """Plans a pool.

    Args:
      convention: what to compute.
      num_workers: processes, by default one per core; 1 works in this process.
      num_files: how many files there are, where known: without `num_workers`
        few files get few processes.

    Raises:
      ValueError: if `num_workers` is less than 1.
    """
    if num_workers is None:
      num_workers = default_workers()
      if num_files is not None:
        num_workers = min(num_workers, max(1, num_files // _FILES_PER_WORKER))
    if num_workers < 1:
      raise ValueError(
        f'num_workers is {num_workers}; it must be at least 1 (1 works without '
        'other processes).'
      )
    self.num_workers = num_workers
    self._convention = convention
    self._processes: list[subprocess.Popen] = []
    self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    self._threads: concurrent.futures.ThreadPoolExecutor | None = None

  def __enter__(self) -> 'Pool':
    if self.num_workers > 1:
      try:
        for _ in range(self.num_workers):
          self._start()
      except OSError as error:
        self.__exit__()
        raise WorkerError(
          f'cannot start process {len(self._processes)} of {self.num_workers} '
          f'({error}); use fewer processes (--num_workers).'
        ) from error
      except BaseException:
        self.__exit__()
        raise
      self._threads = concurrent.futures.ThreadPoolExecutor(self.num_workers)
    return self

  def __exit__(self, *error: object) -> None:
    for process in self._processes:
      process.kill()
    if self._threads:
      self._threads.shutdown(cancel_futures=True)
    for process in self._processes:
      process.wait()
      with contextlib.suppress(BrokenPipeError):  # A request not yet sent.
        process.stdin.close()
      process.stdout.close()
    self._processes = []

  def map(self, paths: Iterable[pathlib.Path]) -> Iterator[Extracted]:
    """Results in the order of the paths; only a few are ever held.

    Raises:
      WorkerError: if a process ends, or fails for a reason other than the
        audio.
    """
    if not self._threads:
      for path in paths:
        try:
          yield extract(self._convention, path)
        except Exception as error:
          error.add_note(f'This happened with {path}.')
          raise
      return
    waiting = collections.deque()
    for path in paths:
      waiting.append(self._threads.submit(self._ask, path))
      if len(waiting) > 2 * self.num_workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()

  def _start(self) -> None:
    """Starts one worker and tells it what to compute."""
    root = str(pathlib.Path(__file__).resolve().parents[1])
    others = os.environ.get('PYTHONPATH')
    one_thread = dict.fromkeys(
      ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1'
    )
    process = subprocess.Popen(
      [sys.executable, '-P', '-m', 'data_prep.workers'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={
        **os.environ,
        **one_thread,
        'PYTHONPATH': os.pathsep.join([root, *([others] if others else [])]),
      },
    )
    self._processes.append(process)
    self._idle.put(process)
    order = {
      'features': self._convention.name,
      'parameters': dataclasses.asdict(self._convention),
    }
    _send(process.stdin, json.dumps(order).encode())

  def _ask(self, path: pathlib.Path) -> Extracted:
    """Has an idle worker extract one file; runs in a thread."""
    process = self._idle.get()
    try:
      _send(process.stdin, os.fsencode(path))
      header = json.loads(_receive(process.stdout))
      data = _receive(process.stdout)
    except (EOFError, BrokenPipeError) as error:
      raise WorkerError(
        f'the process that read {path} ended with exit status '
        f'{process.wait()}; if it was killed for want of memory, use fewer '
        'processes (--num_workers).'
      ) from error
    finally:
      self._idle.put(process)
    if 'failure' in header:
      raise WorkerError(f'{path}: {header["failure"]}')
    if header['error']:
      return Extracted(None, error=header['error'])
    features = np.frombuffer(data, np.float32).reshape(header['shape'])
    return Extracted(features, header['seconds'])


def _send(stream: BinaryIO, data: bytes | memoryview) -> None:
  stream.write(_SIZE.pack(len(data)))
  stream.write(data)
  stream.flush()


def _receive(stream: BinaryIO) -> bytes:
  size = stream.read(_SIZE.size)
  if len(size) < _SIZE.size:
    raise EOFError
  (length,) = _SIZE.unpack(size)
  data = stream.read(length)
  if len(data) < length:
    raise EOFError
  return data


def _serve() -> None:
  """The worker: features for every path until the input ends."""
  # Ctrl-C reaches the whole group; the parent decides what becomes of us.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # What a library prints must not end up among the features.
  output = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)
  requests = sys.stdin.buffer
  try:
    order = json.loads(_receive(requests))
    convention = features_lib.by_name(order['features'], **order['parameters'])
    while True:
      path = os.fsdecode(_receive(requests))
      try:
        result = extract(convention, path)
      except Exception:  # Reported with the file's name, and raised there.
        _send(output, json.dumps({'failure': traceback.format_exc()}).encode())
        _send(output, b'')
        continue
      shape = [] if result.features is None else result.features.shape
      header = {
        'shape': shape,
        'seconds': result.seconds,
        'error': result.error,
      }
      _send(output, json.dumps(header).encode())
      _send(output, b'' if result.error else result.features.tobytes())
  except (EOFError, BrokenPipeError):
    return


if __name__ == '__main__':
  _serve()
