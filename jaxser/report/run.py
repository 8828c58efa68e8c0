"""A finished run as the report reads it: the files of its folder."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import (
  Prediction,
  PredictionsError,
  read_predictions,
)
from jaxser.report.charts import Curve

SPLITS = ('train', 'dev', 'test')
_KEYS = ('seed', 'fold', 'epoch', 'split')
_PERCENT = ('uar', 'war', 'f1')


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run left behind.

  Attributes:
    workdir: its folder.
    results: content of results.json.
    predictions: of predictions.jsonl.
    curves: {metric: curves of its splits}, empty where nothing was trained.
    config: content of config.json, empty if there is none.
    folds: content of folds.json, empty if there is none.
  """

  workdir: pathlib.Path
  results: dict[str, Any]
  predictions: list[Prediction]
  curves: dict[str, list[Curve]]
  config: dict[str, Any]
  folds: dict[str, Any]


def read_run(workdir: os.PathLike[str] | str) -> Run:
  """Reads the folder of a run.

  results.json and predictions.jsonl must be there and agree; metrics.jsonl is
  absent where checkpoints were only evaluated, config.json and folds.json where
  the predictions were made elsewhere.

  Raises:
    PredictionsError: a file is missing or wrong, or the two disagree.
  """
  workdir = pathlib.Path(workdir)
  results = results_lib.read_results(workdir / 'results.json')
  predictions = read_predictions(workdir / 'predictions.jsonl')
  results_lib.check_results(results, predictions)
  return Run(
    workdir,
    results,
    predictions,
    read_curves(workdir / 'metrics.jsonl'),
    _read_object(workdir / 'config.json'),
    _read_object(workdir / 'folds.json'),
  )


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object, empty if there is no such file."""
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise PredictionsError(f'{path}: not JSON ({error})') from error
  if not isinstance(content, dict):
    raise PredictionsError(f'{path}: expected a JSON object')
  return content


def _read_row(line: str) -> dict[str, Any]:
  row = json.loads(line)
  if not isinstance(row, dict):
    raise ValueError(f'expected an object, got {type(row).__name__}')
  missing = [key for key in _KEYS if key not in row]
  if missing:
    raise ValueError(f'lacks {", ".join(missing)}')
  if row['split'] not in SPLITS:
    raise ValueError(
      f'split is {row["split"]!r}, expected one of {", ".join(SPLITS)}'
    )
  return row


def read_curves(path: os.PathLike[str] | str) -> dict[str, list[Curve]]:
  """Reads learning curves from metrics.jsonl; empty if there is no such file.

  Rows are {"seed", "fold", "epoch", "split": "train|dev|test", METRIC: value};
  UAR, WAR and F1 are fractions in the file and per cent in the curves. Where a
  run was resumed and wrote an epoch again, the later row counts.

  Raises:
    PredictionsError: a row is wrong; the message has file and line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    return {}
  found: dict[tuple[str, str], dict[tuple[int, int, int], float]] = {}
  with path.open(encoding='utf-8') as file:
    for number, line in enumerate(file, 1):
      try:
        row = _read_row(line)
      except ValueError as error:
        raise PredictionsError(f'{path}:{number}: {error}') from error
      where = row['seed'], row['fold'], row['epoch']
      for name, value in row.items():
        if name in _KEYS or isinstance(value, bool):
          continue
        if isinstance(value, int | float) and math.isfinite(value):
          scale = 100 if name in _PERCENT else 1
          found.setdefault((name, row['split']), {})[where] = scale * value
  curves: dict[str, list[Curve]] = {}
  for name, split in sorted(found, key=lambda key: SPLITS.index(key[1])):
    curves.setdefault(name, []).append(_curve(split, found[name, split]))
  return curves


def _curve(split: str, points: dict[tuple[int, int, int], float]) -> Curve:
  """One line per (seed, fold), on the epochs of all."""
  runs = {key: i for i, key in enumerate(sorted({p[:2] for p in points}))}
  epochs = sorted({p[2] for p in points})
  column = {epoch: i for i, epoch in enumerate(epochs)}
  values = np.full((len(runs), len(epochs)), np.nan)
  for (seed, fold, epoch), value in points.items():
    values[runs[seed, fold], column[epoch]] = value
  return Curve(split, np.asarray(epochs, np.float64), values)
