"""Map a function over many files at once, in order, in bounded memory.

A worker is a fresh Python that imports the module of the function and nothing
else, not even the program that started it, so that a program may start it that
runs threads or lacks an `if __name__ == '__main__'`.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from data_prep import audio
from data_prep import features as features_lib
from data_prep.errors import UserError

# With fewer files per worker, starting it takes longer than it saves.
_FILES_PER_WORKER = 32


class WorkerError(UserError):
  """Work on a file failed for a reason other than the file."""


@dataclasses.dataclass(frozen=True)
class Extracted:
  """What became of one file."""

  features: np.ndarray | None  # float32; None if the file is unusable.
  seconds: float = 0.0  # Duration of the audio.
  error: str = ''  # Why the file is unusable, naming it.
  warning: str = ''  # A harmless fault of the file; see `audio.Recording`.


def extract(
  convention: features_lib.Convention, path: os.PathLike[str] | str
) -> Extracted:
  """Decodes one file and computes its features."""
  try:
    waveform, rate, start, samples, warning = recording = audio.read(
      path, part=convention.part
    )
    # A float file may hold values whose power is beyond any number.
    with np.errstate(over='ignore', invalid='ignore'):
      features = convention(waveform, rate, start=start, samples=samples)
    if not np.isfinite(features).all():
      raise audio.AudioError(
        f'the {convention.name} features are not finite; the largest sample is '
        f'{np.abs(waveform).max():g} and full scale is 1; normalise the file.'
      )
  except audio.AudioError as error:
    named = str(error).startswith(str(path))
    return Extracted(None, error=str(error) if named else f'{path}: {error}')
  return Extracted(features, recording.seconds, warning=warning)


def default_workers() -> int:
  """Returns the cores that this process may use, at most 16.

  A larger pool would wait for the process that writes the records.
  """
  if hasattr(os, 'sched_getaffinity'):
    return min(len(os.sched_getaffinity(0)), 16)
  return min(os.cpu_count() or 1, 16)


class Pool:
  """Maps with several processes; a context manager."""

  def __init__(
    self,
    function: Callable[[Any], Any],
    num_workers: int | None = None,
    num_files: int | None = None,
    lost: Callable[[Any, Exception], Any] | None = None,
  ):
    """Plans a pool; processes start with the first file."""
    if num_workers is None:
      num_workers = default_workers()
      if num_files is not None:
        num_workers = min(num_workers, max(1, num_files // _FILES_PER_WORKER))
    self.num_workers = num_workers
    self._function, self._lost = function, lost
    self._executor: concurrent.futures.ProcessPoolExecutor | None = None

  def __enter__(self) -> 'Pool':
    return self

  def __exit__(self, *error: object) -> None:
    if self._executor:
      self._executor.shutdown(cancel_futures=True)
    self._executor = None

  def map(self, paths: Iterable[Any]) -> Iterator[Any]:
    """Yields results in the order of the files; only a few are ever held."""
    if self.num_workers == 1:
      for path in paths:
        yield _work(self._function, path)
      return
    waiting = collections.deque()
    for path in paths:
      waiting.append((path, self._submit(path)))
      if len(waiting) > 2 * self.num_workers:
        yield self._next(waiting)
    while waiting:
      yield self._next(waiting)

  def _submit(self, path, processes: int = 0) -> concurrent.futures.Future:
    try:
      if not self._executor:
        self._executor = concurrent.futures.ProcessPoolExecutor(
          processes or self.num_workers,
          multiprocessing.get_context('spawn'),
          initializer=_start_worker,
        )
      with _without_main():
        return self._executor.submit(_work, self._function, path)
    except concurrent.futures.BrokenExecutor as error:
      # Whatever is waiting has the same error; `_next` finds its cause.
      future = concurrent.futures.Future()
      future.set_exception(error)
      return future
    except OSError as error:
      raise WorkerError(
        f'cannot start {self.num_workers} processes ({error}); use fewer '
        '(--num_workers=1 works without).'
      ) from error

  def _next(self, waiting: collections.deque) -> Any:
    path, future = waiting.popleft()
    try:
      return future.result()
    except concurrent.futures.BrokenExecutor:
      # One process died, which ends all. Alone, each file shows if it was it.
      self.__exit__()
    try:
      result = self._submit(path, processes=1).result()
    except concurrent.futures.BrokenExecutor as error:
      if not self._lost:
        raise WorkerError(
          f'{path}: the process that reads this file dies; if it was killed '
          'for want of memory, use fewer processes (--num_workers).'
        ) from error
      result = self._lost(path, error)
    finally:
      self.__exit__()
    for index, (other, _) in enumerate(waiting):
      waiting[index] = other, self._submit(other)
    return result


def _work(function: Callable[[Any], Any], path: Any) -> Any:
  """Calls the function; an unforeseen failure names the file and shows its cause."""
  try:
    return function(path)
  except Exception as error:
    # The traceback as text, since not every exception survives pickling.
    cause = traceback.format_exc()
    raise WorkerError(f'{path}: {cause}') from error


def _start_worker() -> None:
  # Ctrl-C reaches the whole group; the parent decides what becomes of us.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)  # However the parent ended: nobody will read the results.

  threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
  """Keeps a new process from importing the program that starts it."""
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main
