"""Trains experiments without the files of a run, and remembers the results."""

import contextlib
import io
import pathlib
import resource
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep import progress
from jaxser.engine import checkpoints, loop
from jaxser.engine.experiment import Experiment
from jaxser.evaluation import curves


class Recorder:
  """Stands where a run's files, progress and signals are.

  Attributes:
    finished: by (seed, fold number).
    stop_at: asks to stop when asked for the `stop_at`-th time; 0 never does.
  """

  def __init__(self, workdir: pathlib.Path, stop_at: int = 0):
    """Writes checkpoints and curves into the folder."""
    self.finished: dict[tuple[int, int], loop.Finished] = {}
    self.stop_at, self._asked = stop_at, 0
    self._workdir = workdir
    workdir.mkdir(exist_ok=True)
    self._curves = curves.Curves(workdir, tensorboard=False)
    self._printed = io.StringIO()

  def asked(self) -> int | None:
    """Returns SIGTERM's number once it is time."""
    self._asked += 1
    return 15 if self._asked == self.stop_at else None

  def train(
    self, experiment: Experiment, runs: list, **options: Any
  ) -> 'Recorder':
    """Trains the runs that are not finished; `options` are those of a plan."""
    left = [run for run in runs if (run[0], run[1].number) not in self.finished]
    bar = progress.Progress(1, self._printed)
    with checkpoints.Checkpoints(self._workdir / 'checkpoints') as store:
      reporting = loop.Reporting(store, self._curves, bar, self)
      for one in loop.train(experiment, runs, left, None, reporting, **options):
        self.finished[one.seed, one.fold.number] = one
    return self

  @property
  def rows(self) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    return self._curves.read()

  @property
  def printed(self) -> str:
    """Lines for people."""
    return self._printed.getvalue()


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
  """Lets files grow to so many bytes only, as on a disk without room."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def check_equal(ours: Recorder, theirs: Recorder, tolerance: float) -> None:
  """Same epochs chosen, same curves, predictions within the tolerance."""
  assert ours.finished.keys() == theirs.finished.keys()
  for name, other in theirs.finished.items():
    found = ours.finished[name]
    assert found.failure == other.failure
    assert found.predictions.keys() == other.predictions.keys()
    assert found.weights.keys() == other.weights.keys()
    for selection, (epoch, values) in other.predictions.items():
      assert found.predictions[selection][0] == epoch, (name, selection)
      np.testing.assert_allclose(
        found.predictions[selection][1],
        values,
        rtol=10 * tolerance,
        atol=tolerance,
        err_msg=f'{name} {selection}',
      )
  assert len(ours.rows) == len(theirs.rows)
  for mine, other in zip(ours.rows, theirs.rows, strict=True):
    assert list(mine) == list(other)
    for field, value in other.items():
      if isinstance(value, float):
        np.testing.assert_allclose(
          mine[field], value, atol=10 * tolerance, err_msg=f'{field} of {other}'
        )
      else:
        assert mine[field] == value
