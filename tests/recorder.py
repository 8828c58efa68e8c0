"""Stands where a run's files, progress and signals are, and remembers."""

import io
import json
import pathlib
from typing import Any

import numpy as np

from jaxser.core import progress
from jaxser.engine import context
from jaxser.engine import stream as fold
from jaxser.engine.folds import engine as engine_lib
from jaxser.engine.folds import run as folds_run
from jaxser.evaluation import curves


class Recorder:
  """Takes what an engine finishes.

  Attributes:
    answers: by (seed, fold), then selection: (epoch, answers).
    weights: by (seed, fold), then selection: (epoch, params, model_state).
  """

  def __init__(self, workdir: pathlib.Path, stop_at: int = 0):
    """Asks to stop when asked for the `stop_at`-th time; 0 never does."""
    self.answers, self.weights = {}, {}
    self.stop_at, self._asked = stop_at, 0
    workdir.mkdir(exist_ok=True)
    self.run = context.Run(
      workdir,
      curves.Curves(workdir, tensorboard=False),
      progress.Progress(1, io.StringIO()),
      self,
      self.finish,
    )

  def asked(self) -> int | None:
    """SIGTERM's number once it is time."""
    self._asked += 1
    return 15 if self._asked == self.stop_at else None

  def finish(self, seed: int, fold: Any, answers: dict, weights: dict) -> None:
    """One training is over."""
    self.answers[seed, fold.number] = answers
    self.weights[seed, fold.number] = weights

  @property
  def rows(self) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    lines = self.run.writer.path.read_text().splitlines()
    return [json.loads(line) for line in lines]


def stream(
  shared: context.Context, trainings: list, workdir: pathlib.Path
) -> Recorder:
  """Trains one after the other."""
  recorder = Recorder(workdir)
  fold.train(shared, trainings, None, recorder.run)
  return recorder


def folds(
  engine: engine_lib.Engine,
  shared: context.Context,
  trainings: list,
  recorder: Recorder,
) -> Recorder:
  """Trains many at once, those excepted that the recorder has already."""
  left = [t for t in trainings if (t[0], t[1].number) not in recorder.answers]
  folds_run.train(engine, shared, trainings, left, None, recorder.run)
  return recorder


def check_equal(ours: Recorder, theirs: Recorder, tolerance: float) -> None:
  """Same epochs chosen, same curves, answers within the tolerance."""
  assert ours.answers.keys() == theirs.answers.keys()
  for training, selections in theirs.answers.items():
    assert ours.answers[training].keys() == selections.keys()
    assert ours.weights[training].keys() == selections.keys()
    for selection, (epoch, values) in selections.items():
      found = ours.answers[training][selection]
      assert found[0] == epoch, (training, selection)
      np.testing.assert_allclose(
        found[1],
        values,
        rtol=10 * tolerance,
        atol=tolerance,
        err_msg=f'{training} {selection}',
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
