"""results.json, computed from predictions alone.

Percentages have two decimals, CCC four; null stands for what is not defined
(one speaker has no interval, one seed no spread, an absent class no recall).

  {"system", "corpus", "protocol", "task", "classes", "metrics", "seeds",
   "folds", "utterances", "speakers", "speakers_in_several_folds",
   "interval": {"level", "resamples", "speakers", "unknown_speakers"},
   "selections": {NAME: {
      "label",
      "pooled": {METRIC: {"value", "low", "high"}, "utterances",
                 "recall": {CLASS: percent}, "absent_classes", "confusion",
                 "regions": {"accuracy": {"value", "low", "high"}, "macro_f1":
                 likewise, "confusion"}, for VAD with a sphere},
      "clipped": {DIMENSION: per cent of the predictions that lie exactly on a
                  bound of the scale}, for VAD with a sphere,
      "constant": {DIMENSION: the value, where all predictions are the same
                   number, else null}, for VAD,
      "fold_mean": {METRIC: {"mean", "std"}},
      "over_seeds": {METRIC: {"mean", "std"}},
      "per_fold": [{"seed", "fold", "epoch", "utterances", METRIC: value}]}},
   "sphere": how VAD is cut into regions (`jaxser.evaluation.regions`), null for
             classes,
   "paper": {NAME: {"source", METRIC: value, "comparable": false and "reason"
             where the figure must not be compared with}},
   "annotators": how far they agree (`data_prep.agreement`), {} if not known,
   "probes": what `jaxser.engine.inspection.inspect` found, {} where nothing was,
   "wall_time_s", "command", "environment", "demo"}

METRIC is uar, war, f1 or ccc_valence, ccc_arousal, ccc_dominance, ccc_mean;
`recall`, `absent_classes` and `confusion` (rows targets, columns predicted)
belong to classes. `regions` scores the regions in which predicted and target
points lie, not a region head. `pooled` puts all folds and seeds into one set;
`fold_mean` averages over folds (and seeds), `over_seeds` over the pooled values
of the seeds: three different numbers. Across corpora every fold may test the
same utterances: `pooled` then counts each once per fold.
"""

import collections
import functools
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.evaluation import intervals, metrics, regions
from jaxser.evaluation.metrics import METRICS
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  SELECTIONS,
  Prediction,
  PredictionsError,
  check_once,
  read_finished,
)

DEMO_WARNING = (
  'DEMO CORPUS: synthesised voices. These figures show that the program works; '
  'they say nothing about recognising emotion in real speech.'
)

FITTED = 'fitted'
"""Label of selection 'last' where a system was fitted, not trained by epochs."""


def rounded(value: Any, task: str = 'classification') -> float | None:
  """Rounds to per cent with two decimals or CCC with four; None for NaN."""
  if np.isnan(value):
    return None
  scale, digits = (100, 2) if task == 'classification' else (1, 4)
  return round(scale * float(value), digits) + 0.0  # No minus before a zero.


def by(
  predictions: Iterable[Prediction], *fields: str
) -> dict[Any, list[Prediction]]:
  """Returns the predictions by their values of some fields, sorted."""
  parts = collections.defaultdict(list)
  key = operator.attrgetter(*fields)
  for p in predictions:
    parts[key(p)].append(p)
  return dict(sorted(parts.items()))


def _speakers(predictions: Sequence[Prediction]) -> list[str]:
  """Returns the speakers; an utterance of unknown speaker stands alone."""
  return [p.speaker or f'utterance {p.id}' for p in predictions]


def grouped(
  predictions: Sequence[Prediction], task: str, classes: Sequence[str]
) -> np.ndarray:
  """Returns additive sums per speaker, in the sorted order of the speakers.

  Confusion matrices [speakers, K, K] or power sums [speakers, 6, 3]; an
  utterance of unknown speaker stands alone.
  """
  speakers = _speakers(predictions)
  targets: Any = [p.target for p in predictions]
  answers: Any = [p.prediction for p in predictions]
  if task == 'regression':
    return intervals.group_sums(targets, answers, speakers)
  number = {name: index for index, name in enumerate(classes)}
  targets, answers = (
    [number[n] for n in names] for names in (targets, answers)
  )
  return intervals.group_confusions(targets, answers, speakers, len(classes))


def scores(
  parts: Iterable[Sequence[Prediction]], task: str, classes: Sequence[str]
) -> np.ndarray:
  """Returns the `METRICS` of each part as fractions, [parts, metrics]."""
  sums = [grouped(part, task, classes).sum(0) for part in parts]
  return metrics.values(task, np.stack(sums))


def _by_metric(task: str, **columns: Any) -> dict[str, Any]:
  """Returns {metric: {column: rounded}} of columns [metrics]."""
  return {
    name: {key: rounded(x[i], task) for key, x in columns.items()}
    for i, name in enumerate(METRICS[task])
  }


def _spread(values: np.ndarray, task: str) -> dict[str, Any]:
  """Returns {metric: {'mean', 'std'}} over values [n, metrics]."""
  mean, std = zip(*map(intervals.mean_std, values.T), strict=True)
  return _by_metric(task, mean=mean, std=std)


def _pooled(groups: np.ndarray, task: str, resamples: int) -> dict[str, Any]:
  """Returns {metric: {'value', 'low', 'high'}} of all groups together."""
  statistic = functools.partial(metrics.values, task)
  found = intervals.bootstrap(statistic, groups, resamples=resamples)
  return _by_metric(task, value=found.value, low=found.low, high=found.high)


def _regions(
  predictions: Sequence[Prediction], sphere: Mapping[str, Any], resamples: int
) -> dict[str, Any]:
  """Returns the agreement of target and predicted regions, in per cent."""
  confusions = intervals.group_confusions(
    regions.region_of([p.target for p in predictions], sphere),
    regions.region_of([p.prediction for p in predictions], sphere),
    _speakers(predictions),
    len(regions.names(sphere['regions'])),
  )
  pooled = _pooled(confusions, 'classification', resamples)
  return {
    'accuracy': pooled['war'],
    'macro_f1': pooled['f1'],
    'confusion': confusions.sum(0).tolist(),
  }


def _degenerate(
  predictions: Sequence[Prediction], sphere: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Returns 'clipped' and 'constant', which explain a CCC of 0.0000."""
  columns = zip(*(p.prediction for p in predictions), strict=True)
  clipped, constant = {}, {}
  for name, values in zip(DIMENSIONS, columns, strict=True):
    constant[name] = values[0] if len(set(values)) == 1 else None
    if sphere:
      clipped[name] = rounded(np.mean(np.isin(values, sphere['vad_range'])))
  return {'clipped': clipped, 'constant': constant}


def _selection(
  predictions: Sequence[Prediction],
  task: str,
  classes: Sequence[str],
  resamples: int,
  sphere: Mapping[str, Any] | None,
) -> dict[str, Any]:
  """Returns the entry of one selection in results.json."""
  groups = grouped(predictions, task, classes)
  pooled = _pooled(groups, task, resamples)
  pooled['utterances'] = len({p.id for p in predictions})
  label = SELECTIONS[predictions[0].selection]
  found: dict[str, Any] = {'label': label, 'pooled': pooled}
  if task == 'classification':
    confusion = groups.sum(0)
    recalls = map(rounded, metrics.recalls(confusion))
    pooled['recall'] = dict(zip(classes, recalls, strict=True))
    pooled['absent_classes'] = [*metrics.absent_classes(confusion, classes)]
    pooled['confusion'] = confusion.tolist()
  else:
    found |= _degenerate(predictions, sphere)
    if sphere:
      pooled['regions'] = _regions(predictions, sphere, resamples)
  folds = by(predictions, 'seed', 'fold')
  values = scores(folds.values(), task, classes)
  found['fold_mean'] = _spread(values, task)
  by_seed = by(predictions, 'seed').values()
  found['over_seeds'] = _spread(scores(by_seed, task, classes), task)
  found['per_fold'] = [
    {
      'seed': seed,
      'fold': fold,
      'epoch': part[0].epoch,
      'utterances': len(part),
      **{n: rounded(x, task) for n, x in zip(METRICS[task], row, strict=True)},
    }
    for ((seed, fold), part), row in zip(folds.items(), values, strict=True)
  ]
  return found


def _check(
  predictions: Sequence[Prediction],
  classes: Sequence[str],
  paper: Mapping[str, Mapping[str, Any]],
) -> None:
  """Raises PredictionsError for what does not fit together."""
  tasks = {p.task for p in predictions}
  if len(tasks) > 1 or ('classification' in tasks) != bool(classes):
    raise PredictionsError(
      f'predictions of {" and ".join(sorted(tasks))} do not go with classes '
      f'{[*classes]}'
    )
  epochs: dict[str, int | None] = {}
  for p in predictions:
    where = f'seed {p.seed}, fold {p.fold}, selection {p.selection}'
    if epochs.setdefault(where, p.epoch) != p.epoch:
      raise PredictionsError(f'{where}: predictions of several epochs')
    if classes and (
      not {p.target, p.prediction} <= set(classes)
      or p.scores is None
      or len(p.scores) != len(classes)
      or p.scores[classes.index(str(p.prediction))] < max(p.scores)
    ):
      raise PredictionsError(
        f'{where}: target {p.target!r}, prediction {p.prediction!r} and scores '
        f'{p.scores} of {p.id!r} do not go with classes {", ".join(classes)}; '
        'were they ordered differently?'
      )
  valid = {'source', 'comparable', 'reason', *METRICS[tasks.pop()]}
  for selection, row in paper.items():
    unexplained = not row.get('comparable', True) and not row.get('reason')
    if selection not in SELECTIONS or not set(row) <= valid or unexplained:
      raise PredictionsError(
        f'paper[{selection!r}] is {dict(row)}; expected one of '
        f'{", ".join(SELECTIONS)} with {", ".join(sorted(valid))}, and a reason '
        'where comparable is False'
      )


def summarise(
  predictions: Iterable[Prediction],
  *,
  classes: Sequence[str] = (),
  paper: Mapping[str, Mapping[str, Any]] | None = None,
  sphere: Mapping[str, Any] | None = None,
  resamples: int = 2000,
  **about: Any,
) -> dict[str, Any]:
  """Returns the content of results.json (schema above) from predictions."""
  predictions, paper = list(predictions), paper or {}
  if not predictions:
    raise PredictionsError('there is no prediction to summarise')
  classes, task = list(classes), predictions[0].task
  _check(predictions, classes, paper)
  check_once(predictions)
  folds_of = collections.Counter(
    speaker for speaker, _ in {(p.speaker, p.fold) for p in predictions}
  )
  speakers = folds_of.keys() - {''}
  parts = by(predictions, 'selection')
  return {
    'system': about['system'],
    'corpus': about['corpus'],
    'protocol': about['protocol'],
    'task': task,
    'classes': classes,
    'metrics': list(METRICS[task]),
    'seeds': sorted({p.seed for p in predictions}),
    'folds': sorted({p.fold for p in predictions}),
    'utterances': len({p.id for p in predictions}),
    'speakers': len(speakers),
    'speakers_in_several_folds': sum(folds_of[s] > 1 for s in speakers),
    'interval': {
      'level': intervals.LEVEL,
      'resamples': resamples,
      'speakers': len(speakers),
      'unknown_speakers': len({p.id for p in predictions if not p.speaker}),
    },
    'selections': {
      name: _selection(parts[name], task, classes, resamples, sphere)
      for name in SELECTIONS
      if name in parts
    },
    'sphere': dict(sphere) if sphere else None,
    'paper': {name: dict(row) for name, row in paper.items()},
    'annotators': dict(about.get('annotators') or {}),
    'probes': dict(about.get('probes') or {}),
    'wall_time_s': about.get('wall_time_s'),
    'command': about.get('command', ''),
    'environment': dict(about.get('environment') or {}),
    'demo': about.get('demo', False),
  }


def read_results(path: os.PathLike[str] | str) -> dict[str, Any]:
  """Reads results.json."""
  text = read_finished(path)
  try:
    results = json.loads(text)
  except ValueError as error:
    raise PredictionsError(f'{path}: not JSON ({error})') from error
  needed = {'system', 'corpus', 'task', 'classes', 'metrics', 'selections'}
  if not isinstance(results, dict) or not needed <= results.keys():
    raise PredictionsError(f'{path}: no results of a run; those have {needed}')
  return results


def check_results(
  results: Mapping[str, Any], predictions: Iterable[Prediction]
) -> None:
  """Raises PredictionsError if results are not those of these predictions."""
  there = results['selections']
  about = {n: results[n] for n in ('system', 'corpus', 'protocol', 'classes')}
  again = summarise(predictions, **about, resamples=1)['selections']
  for name in {**there, **again}:
    first, second = (x.get(name, {}).get('per_fold') for x in (there, again))
    if first != second:
      raise PredictionsError(
        'results.json and predictions.jsonl disagree on selection '
        f'{name!r}; one of them is from another run, start the command of the '
        'run again'
      )
