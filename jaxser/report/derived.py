"""What pages show of runs and results.json does not hold."""

import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep import default_data_dir, store
from jaxser.core import config
from jaxser.data import corpus
from jaxser.evaluation import results as results_lib
from jaxser.evaluation import significance
from jaxser.evaluation.metrics import METRICS, NAMES
from jaxser.evaluation.predictions import Prediction
from jaxser.report import figures, text
from jaxser.report.run import Run, View

BINS = 10
OPTIMIZATION = {
  'grad_norm': 'gradient norm',
  'update_ratio': 'update / weights',
  'learning_rate': 'learning rate',
}
"""Metrics of training that share one chart, with their labels."""
MISTAKES = 12
PER_SPEAKER = {'classification': ('uar', 'war'), 'regression': ('ccc_mean',)}
"""Metrics of a speaker, by task; few utterances bear no more."""


class Reliability(NamedTuple):
  """How often predictions are right, by their confidence (the highest score)."""

  # Predictions, mean confidence and accuracy of each bin that holds any; the
  # `BINS` bins are of equal width and closed on the right.
  bins: list[tuple[int, float, float]]
  ece: float  # Expected calibration error (Guo et al. 2017, equation 3).
  excess: float  # Mean confidence minus accuracy; overconfident above 0.


def reliability(predictions: Sequence[Prediction]) -> Reliability:
  """Sorts predictions of classes into bins by confidence."""
  confidence = np.array([max(p.scores) for p in predictions], np.float64)
  right = np.array([p.prediction == p.target for p in predictions], np.float64)
  index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  bins = [
    (int(rows.sum()), float(confidence[rows].mean()), float(right[rows].mean()))
    for rows in (index == i for i in np.unique(index))
  ]
  gaps = [n * (sure - right) / len(predictions) for n, sure, right in bins]
  return Reliability(bins, sum(map(abs, gaps)), sum(gaps))


def mistakes(view: View) -> list[tuple[Prediction, float]]:
  """Returns wrong predictions with their score, the most confident first.

  Of VAD all predictions with their distance to the target, the farthest first.
  """
  if view.task == 'classification':
    sizes = [(p, max(p.scores)) for p in view.predictions]
    sizes = [(p, size) for p, size in sizes if p.prediction != p.target]
  else:
    errors = np.linalg.norm(view.outputs - view.targets, axis=-1)
    sizes = zip(view.predictions, errors.tolist(), strict=True)
  return sorted(sizes, key=lambda pair: (-pair[1], pair[0].id, pair[0].seed))


def audio(
  run: Run, shown: Sequence[tuple[Prediction, float]]
) -> dict[str, str]:
  """Returns {utterance: address of its audio}, where that still lies."""
  stores, files = run.results['environment'].get('stores', {}), {}
  folder = pathlib.Path(run.config.get('data_dir') or default_data_dir())
  features = run.config.get('features', {}).get('name')
  for name, about in stores.items():
    version = f'{features}-{about["fingerprint"]}/{store.VERSION_FOLDER}'
    try:
      opened = corpus.open_store(folder.expanduser() / name / version)
    except (store.StoreError, OSError):  # Or another's folder.
      continue
    root, before = opened.stores[name].get('audio_dir'), f'{name}/'
    for row, utterance in enumerate(opened.table.ids) if root else ():
      found = f'{before * (len(stores) > 1)}{utterance}'
      files[found] = pathlib.Path(root, opened.table.paths[row])
  known = {p.id: files[p.id] for p, _ in shown if p.id in files}
  return {k: p.as_uri() for k, p in known.items() if os.path.isfile(p)}


def scores_by(
  view: View, field: str = 'speaker'
) -> dict[Any, dict[str, float]]:
  """Computes {value of a field: {metric: per cent or CCC, 'utterances': n}}."""
  parts = results_lib.by(view.predictions, field)
  values = results_lib.scores(parts.values(), view.task, view.classes)
  values *= 100 if view.task == 'classification' else 1
  found = {}
  for (key, rows), row in zip(parts.items(), values.tolist(), strict=True):
    scores = zip(METRICS[view.task], row, strict=True)
    scores = {name: value for name, value in scores if np.isfinite(value)}
    scores['utterances'] = len({p.id for p in rows})
    found['unknown' if key == '' else key] = scores
  return found


def extremes(scores: Mapping[str, Mapping[str, float]], task: str) -> str:
  """Returns 'UAR from 61.20 (03) to 96.00 (08), standard deviation 9.10.'"""
  metric = PER_SPEAKER[task][0]
  known = sorted((v[metric], name) for name, v in scores.items() if metric in v)
  if len(known) < 2:
    return ''
  (low, worst), (high, best) = known[0], known[-1]
  std = statistics.stdev(value for value, _ in known)
  low, high, std = (text.number(value, task) for value in (low, high, std))
  return (
    f'{NAMES[metric]} from {low} ({worst}) to {high} ({best}), standard '
    f'deviation over speakers {std}.'
  )


def marks(views: Sequence[View], metric: str) -> list[tuple]:
  """Returns lines of `figures.forest`: a metric of every view, and the paper's."""
  lines = []
  for view in views:
    paper = text.paper(view.run.results).get(view.selection, {})
    values = view.entry['pooled'][metric].values()
    lines.append((view.name, *values, paper.get(metric)))
  return lines


def compare_with_first(
  views: Sequence[View],
) -> list[tuple[View, significance.Comparison]]:
  """Compares each of the other runs with the first one."""
  first, *others = views
  compared = []
  for view in others:
    pair = view.predictions, first.predictions
    found = significance.compare(*pair, view.classes, first.classes)
    compared.append((view, found))
  significance.adjust([found for _, found in compared])
  return compared


def not_alike(view: View, other: View) -> str:
  """Returns why figures of two runs cannot stand in one chart, or ''."""
  ((_, found),) = compare_with_first([other, view])
  protocols = [v.run.results['protocol'] for v in (view, other)]
  if not found.reason and protocols[0] != protocols[1]:
    return f'their protocols are {" and ".join(protocols)}'
  if not found.reason and (found.only_first or found.only_second):
    return f'they have only {text.count(found.common, "utterance")} in common'
  return found.reason


def limits(views: Sequence[View]) -> tuple[float, float]:
  """Returns the lowest and the highest true or predicted value."""
  values = np.concatenate([x for v in views for x in (v.targets, v.outputs)])
  return float(values.min()), float(values.max())


def curve_legend(runs: Mapping[str, Run]) -> list[tuple[str, str]]:
  """Returns the splits that have a learning curve, and their colours."""
  curves = [
    c for run in runs.values() for some in run.curves.values() for c in some
  ]
  found = {curve.name for curve in curves}
  return [(name, name) for name in ('train', 'dev', 'test') if name in found]


def learning_curves(runs: Mapping[str, Run]) -> Iterator[tuple[Any, str]]:
  """Draws the curves of every metric, on one scale, with the name of the run."""
  known = {name for run in runs.values() for name in run.curves}
  main = ['loss', *(m for run in runs.values() for m in run.results['metrics'])]
  others = sorted(known.difference(main, OPTIMIZATION))
  others *= len(runs) == 1
  for metric in dict.fromkeys([*main, *others]):
    having = {name: run for name, run in runs.items() if metric in run.curves}
    if not having:
      continue
    values = [c.values for run in having.values() for c in run.curves[metric]]
    papers = {
      name: {  # Published figures that belong to an epoch.
        f'paper, {text.short(selection)}': row[metric]
        for selection, row in text.paper(run.results).items()
        if metric in row and selection != 'init_from'
      }
      for name, run in having.items()
    }
    values += [np.array(list(p.values())) for p in papers.values() if p]
    scale = min(map(np.nanmin, values)), max(map(np.nanmax, values))
    title = NAMES.get(metric) or text.head(metric.replace('_', ' '))
    unit = ', per cent' if metric in ('uar', 'war', 'f1') else ''
    for name, run in having.items():
      chart = figures.learning_curves(
        f'{title}{unit}, by epoch', run.curves[metric], papers[name], scale
      )
      yield chart, name
  if len(runs) == 1 and known & OPTIMIZATION.keys():
    ((name, run),) = runs.items()
    moves = {
      label: run.curves[metric][0]
      for metric, label in OPTIMIZATION.items()
      if metric in run.curves
    }
    yield figures.optimization('Optimization, by epoch', moves), name


def flattened(tree: Mapping[str, Any]) -> dict[str, str]:
  """Returns nested settings as {'optimizer.learning_rate': '0.001'}."""
  return {
    name: ', '.join(map(str, x)) if isinstance(x, list) else str(x)
    for name, x in config.flatten(tree).items()
  }


def compared_fields(
  trees: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, list[str]]]:
  """Returns the nested settings that are the same, and the others of all."""
  flat, same, differing = [flattened(tree) for tree in trees], {}, {}
  for name in dict.fromkeys(name for fields in flat for name in fields):
    row = [fields.get(name, text.MISSING) for fields in flat]
    if len(set(row)) == 1:
      same[name] = row[0]
    else:
      differing[name] = row
  return same, differing
