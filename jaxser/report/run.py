"""Finished runs as pages read them: the files of their folders."""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.evaluation import curves as curves_lib
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import (
  Prediction,
  PredictionsError,
  read_predictions,
)

PREFERRED = ('best_on_dev', 'last', 'ema_last', 'init_from', 'best_on_test')
"""Which selection is shown where one must do, the most honest first."""
PathLike = os.PathLike[str] | str
_KEYS = ('seed', 'fold', 'epoch', 'split')


@dataclasses.dataclass(frozen=True)
class Curve:
  """Values of several runs at the same epochs; NaN where a run has none."""

  name: str  # Of the split, and of its colour.
  epochs: np.ndarray  # [epochs], increasing.
  values: np.ndarray  # [runs, epochs]; every epoch has at least one value.

  def quartiles(self) -> np.ndarray:
    """Returns lower quartile, median and upper quartile, [3, epochs]."""
    return np.nanquantile(self.values, (0.25, 0.5, 0.75), axis=0)


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run left behind."""

  workdir: pathlib.Path
  results: dict[str, Any]  # Content of results.json.
  predictions: list[Prediction]
  curves: dict[str, list[Curve]]  # By metric; {} where nothing was trained.
  config: dict[str, Any]  # Content of config.json, {} if there is none.
  folds: dict[str, Any]  # Likewise of folds.json.
  speed: list[dict[str, Any]]  # Rows of speed.jsonl.

  def tested(self, fold: int) -> list[str]:
    """Returns the names of the speakers that a fold tests."""
    rows = [p for p in self.predictions if p.fold == fold]
    return sorted({p.speaker or 'unknown' for p in rows})


@dataclasses.dataclass(eq=False)
class View:
  """One selection of a run under the name that it has on a page."""

  name: str  # Unique on the page.
  run: Run
  selection: str

  def __post_init__(self):
    results, name = self.run.results, self.selection
    own = [p for p in self.run.predictions if p.selection == name]
    self.task, self.classes = results['task'], results['classes']
    self.entry, self.predictions = results['selections'].get(name), own
    # Of valence, arousal and dominance [n, 3].
    self.targets = np.array([p.target for p in own])
    self.outputs = np.array([p.prediction for p in own])


def read_run(workdir: PathLike) -> Run:
  """Reads the folder of a run; results.json and predictions.jsonl must be there."""
  workdir = pathlib.Path(workdir)
  metadata = [
    files.read_json(path) if path.is_file() else {}
    for path in (workdir / 'config.json', workdir / 'folds.json')
  ]
  results = results_lib.read_results(workdir / 'results.json')
  predictions = read_predictions(workdir / 'predictions.jsonl')
  results_lib.check_results(results, predictions)
  # Absent from results that are older than the option.
  results['trust_init_from'] = any(
    entry.get('trust_init_from') for entry in (results, metadata[0])
  )
  speed = curves_lib.Curves(workdir).read(curves_lib.SPEED)
  curves = read_curves(workdir)
  return Run(workdir, results, predictions, curves, *metadata, speed)


def read_views(workdirs: Sequence[PathLike], selection: str = '') -> list[View]:
  """Reads finished runs in the order given, one selection of each.

  That is `selection`, or for '' the most honest one that all have, else the most
  honest one of each.
  """
  names = names_of(workdirs)
  runs = [read_run(workdir) for workdir in workdirs]
  of_runs = [run.results['selections'] for run in runs]
  for run, found in zip(runs, of_runs, strict=True):
    if selection and selection not in found:
      raise PredictionsError(
        f'{run.workdir} has no selection {selection!r}; it has '
        f'{", ".join(found)}'
      )
  common = [s for s in PREFERRED if all(s in found for found in of_runs)]
  order = [selection] if selection else [*common[:1], *PREFERRED]
  return [
    View(name, run, next(s for s in order if s in found))
    for name, run, found in zip(names, runs, of_runs, strict=True)
  ]


def most_honest(views: Sequence[View]) -> list[View]:
  """Returns one view of every run, that of its most honest selection."""
  chosen: dict[int, View] = {}
  for view in sorted(views, key=lambda v: -PREFERRED.index(v.selection)):
    chosen[id(view.run)] = view
  return [view for view in views if view in chosen.values()]


def names_of(workdirs: Sequence[PathLike]) -> list[str]:
  """Returns the last part of each path, with as many before it as it takes."""
  paths = [pathlib.Path(workdir).absolute() for workdir in workdirs]
  for depth in range(1, max(len(path.parts) for path in paths) + 1):
    names = ['/'.join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  twice = [str(p) for p, n in collections.Counter(paths).items() if n > 1]
  raise PredictionsError(f'the same run is given twice: {", ".join(twice)}')


def read_curves(workdir: PathLike) -> dict[str, list[Curve]]:
  """Reads learning curves from metrics.jsonl; {} if there is no such file.

  UAR, WAR and F1 are fractions in the file and per cent in the curves. Where a
  run was resumed and wrote an epoch again, the later row counts.
  """
  points = collections.defaultdict(dict)
  for row in curves_lib.Curves(workdir).read():
    where = (row['seed'], row['fold']), row['epoch']
    for name, value in row.items():
      if name not in _KEYS and math.isfinite(value):
        scale = 100 if name in ('uar', 'war', 'f1') else 1
        points[name, row['split']][where] = scale * value
  curves = collections.defaultdict(list)
  for split in ('train', 'dev', 'test'):
    for name in [name for name, of in points if of == split]:
      values = points[name, split]
      run_ids, epochs = map(sorted, map(set, zip(*values, strict=True)))
      rows = [[values.get((r, e), math.nan) for e in epochs] for r in run_ids]
      curve = Curve(split, np.array(epochs, np.float64), np.array(rows))
      curves[name].append(curve)
  return dict(curves)
