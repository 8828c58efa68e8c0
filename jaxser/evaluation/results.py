"""results.json and the table at the end of a run, from predictions alone.

Percentages have two decimals, CCC four; null stands for what is not defined
(one speaker has no interval, one seed no spread, an absent class no recall).

  {"system", "corpus", "protocol", "task", "classes", "metrics", "seeds",
   "folds", "utterances", "speakers", "speakers_in_several_folds",
   "interval": {"level", "resamples", "speakers", "unknown_speakers"},
   "selections": {NAME: {
      "label",
      "pooled": {METRIC: {"value", "low", "high"}, "utterances",
                 "recall": {CLASS: percent}, "absent_classes", "confusion",
                 "regions": as `jaxser.evaluation.regions.summarise`, for VAD},
      "fold_mean": {METRIC: {"mean", "std"}},
      "over_seeds": {METRIC: {"mean", "std"}},
      "per_fold": [{"seed", "fold", "epoch", "utterances", METRIC: value}]}},
   "sphere": how VAD is cut into regions (`jaxser.evaluation.regions`), null for classes,
   "paper": {NAME: {"source", METRIC: value}},
   "annotators": how far they agree (`data_prep.agreement`), {} if not known,
   "probes": what `jaxser.engine.inspection.inspect` found, {} where nothing was,
   "wall_time_s", "command", "environment", "demo"}

METRIC is uar, war, f1 or, for valence, arousal and dominance, ccc_valence,
ccc_arousal, ccc_dominance, ccc_mean; `recall`, `absent_classes` and `confusion`
(rows said, columns recognised) belong to classes. `pooled` puts all folds and
seeds into one set; `fold_mean` averages over folds (and seeds), `over_seeds`
over the pooled values of the seeds. The three are different numbers. Across
corpora every fold may test the same utterances: `pooled` then counts each once
per fold.
"""

import collections
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.evaluation import intervals, metrics, regions
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  SELECTIONS,
  Prediction,
  PredictionsError,
  check_once,
)

METRICS = {
  'classification': ('uar', 'war', 'f1'),
  'regression': (*(f'ccc_{name}' for name in DIMENSIONS), 'ccc_mean'),
}
NAMES = {
  'uar': 'UAR',
  'war': 'WAR',
  'f1': 'macro F1',
  **{f'ccc_{name}': f'CCC {name}' for name in (*DIMENSIONS, 'mean')},
}
"""How a metric is called where people read it."""

DEMO_WARNING = (
  'DEMO CORPUS: synthesised voices. These figures show that the program works; '
  'they say nothing about recognising emotion in real speech.'
)


def _classification(sums: np.ndarray) -> np.ndarray:
  """UAR, WAR and F1 of confusion matrices, [..., K, K] -> [..., 3]."""
  values = metrics.uar(sums), metrics.war(sums), metrics.macro_f1(sums)
  return np.stack(values, -1)


def _regression(sums: np.ndarray) -> np.ndarray:
  """CCC per dimension and their mean from power sums, -> [..., 4]."""
  values = metrics.concordance_of_sums(sums)
  return np.concatenate([values, values.mean(-1, keepdims=True)], -1)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'classification': _classification,
  'regression': _regression,
}
"""Task -> the values of `METRICS` from what `grouped` gives, summed."""


def _round(value: float, task: str) -> float | None:
  """Per cent with two decimals, or CCC with four; None if not defined."""
  if math.isnan(value):
    return None
  rounded = (
    round(100 * float(value), 2)
    if task == 'classification'
    else round(float(value), 4)
  )
  return rounded + 0.0  # No minus before a zero.


def _spread(rows: Sequence[np.ndarray], task: str) -> dict[str, Any]:
  """{metric: {'mean', 'std'}} over rows of metric values."""
  return {
    name: {
      key: _round(value, task)
      for key, value in zip(
        ('mean', 'std'), intervals.mean_std(column), strict=True
      )
    }
    for name, column in zip(METRICS[task], np.stack(rows, 1), strict=True)
  }


def grouped(
  predictions: Sequence[Prediction], task: str, classes: Sequence[str]
) -> np.ndarray:
  """Additive sums per speaker; an utterance of unknown speaker stands alone.

  Confusion matrices [speakers, K, K] or power sums [speakers, 6, 3], in the
  sorted order of the speakers.
  """
  speakers = [p.speaker or f'utterance {p.id}' for p in predictions]
  targets = [p.target for p in predictions]
  answers = [p.prediction for p in predictions]
  if task == 'regression':
    return intervals.group_sums(targets, answers, speakers)[1]
  number = {name: index for index, name in enumerate(classes)}
  return intervals.group_confusions(
    [number[x] for x in targets],
    [number[x] for x in answers],
    speakers,
    len(classes),
  )[1]


def _check_classes(
  predictions: Sequence[Prediction], classes: Sequence[str]
) -> None:
  for p in predictions:
    where = f'utterance {p.id!r} (seed {p.seed}, fold {p.fold})'
    for value in (p.target, p.prediction):
      if value not in classes:
        raise PredictionsError(
          f'{where}: {value!r} is no class of {", ".join(classes)}'
        )
    if len(p.scores) != len(classes):
      raise PredictionsError(
        f'{where}: {len(p.scores)} scores for {len(classes)} classes'
      )
    if p.scores[classes.index(p.prediction)] < max(p.scores):
      best = classes[p.scores.index(max(p.scores))]
      raise PredictionsError(
        f'{where}: the prediction is {p.prediction!r} but {best!r} has the '
        'highest score; were the classes ordered differently?'
      )


def _per_fold(
  predictions: Sequence[Prediction], task: str, classes: Sequence[str]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
  """Rows for the table of folds, and the unrounded metrics of each."""
  parts = collections.defaultdict(list)
  for p in predictions:
    parts[p.seed, p.fold].append(p)
  rows, values = [], []
  for (seed, fold), part in sorted(parts.items()):
    epochs = {p.epoch for p in part}
    if len(epochs) > 1:
      raise PredictionsError(
        f'seed {seed}, fold {fold}, selection {part[0].selection}: predictions '
        f'of several epochs {sorted(map(str, epochs))}, expected one'
      )
    value = STATISTICS[task](grouped(part, task, classes).sum(0))
    row = {'seed': seed, 'fold': fold, 'epoch': part[0].epoch}
    row['utterances'] = len(part)
    for name, x in zip(METRICS[task], value, strict=True):
      row[name] = _round(x, task)
    rows.append(row)
    values.append(value)
  return rows, values


def _summarise_selection(
  predictions: Sequence[Prediction],
  task: str,
  classes: Sequence[str],
  resamples: int,
  sphere: Mapping[str, Any] | None,
) -> dict[str, Any]:
  """The entry of one selection in results.json."""
  groups = grouped(predictions, task, classes)
  interval = intervals.bootstrap_interval(
    STATISTICS[task], groups, resamples=resamples
  )
  pooled: dict[str, Any] = {
    name: {
      'value': _round(interval.value[i], task),
      'low': _round(interval.low[i], task),
      'high': _round(interval.high[i], task),
    }
    for i, name in enumerate(METRICS[task])
  }
  pooled['utterances'] = len({p.id for p in predictions})
  if task == 'classification':
    confusion = groups.sum(0)
    recall = metrics.recalls(confusion)
    pooled['recall'] = {
      name: _round(x, task) for name, x in zip(classes, recall, strict=True)
    }
    pooled['absent_classes'] = list(metrics.absent_classes(confusion, classes))
    pooled['confusion'] = confusion.tolist()
  elif sphere:
    pooled['regions'] = regions.summarise(predictions, sphere, resamples)
  per_fold, fold_values = _per_fold(predictions, task, classes)
  seeds = sorted({p.seed for p in predictions})
  by_seed = [[p for p in predictions if p.seed == seed] for seed in seeds]
  seed_values = [
    STATISTICS[task](grouped(part, task, classes).sum(0)) for part in by_seed
  ]
  return {
    'label': SELECTIONS[predictions[0].selection],
    'pooled': pooled,
    'fold_mean': _spread(fold_values, task),
    'over_seeds': _spread(seed_values, task),
    'per_fold': per_fold,
  }


def _check_paper(paper: Mapping[str, Any], task: str) -> None:
  for selection, row in paper.items():
    if selection not in SELECTIONS:
      raise ValueError(
        f'paper: {selection!r} is no selection; choose from '
        f'{", ".join(SELECTIONS)}'
      )
    unknown = set(row) - {'source', *METRICS[task]}
    if unknown:
      raise ValueError(
        f'paper[{selection!r}]: unknown {sorted(unknown)}; expected "source" '
        f'and {", ".join(METRICS[task])}'
      )


def summarise(
  predictions: Iterable[Prediction],
  *,
  system: str,
  corpus: str,
  protocol: str,
  classes: Sequence[str] = (),
  ids: Iterable[str] | None = None,
  paper: Mapping[str, Mapping[str, Any]] | None = None,
  wall_time_s: float | None = None,
  command: str = '',
  environment: Mapping[str, Any] | None = None,
  demo: bool = False,
  probes: Mapping[str, Any] | None = None,
  sphere: Mapping[str, Any] | None = None,
  annotators: Mapping[str, Any] | None = None,
  resamples: int = 2000,
) -> dict[str, Any]:
  """Computes the content of results.json (schema above) from predictions.

  Args:
    predictions: of all seeds, selections and folds of a run.
    system: name, for the record; so are the next two.
    corpus: name.
    protocol: name.
    classes: names in label order; empty for valence, arousal, dominance.
    ids: every utterance that the protocol tests; they are then checked.
    paper: published figures to show beside, {selection: {'source': text,
      metric: per cent or CCC}}.
    wall_time_s: seconds that the run took.
    command: that runs it again.
    environment: versions and devices.
    demo: whether the corpus is the synthesised one.
    probes: of the embeddings, see `jaxser.engine.inspection`.
    sphere: how valence, arousal and dominance are cut into regions.
    annotators: how far the corpus' annotators agree, see
      `data_prep.manifest.Manifest`.
    resamples: of speakers, for the intervals.

  Raises:
    PredictionsError: an utterance is missing or was predicted twice, or a
      prediction does not fit the classes.
  """
  predictions = list(predictions)
  if not predictions:
    raise PredictionsError('there is no prediction to summarise')
  classes = list(classes)
  task = predictions[0].task
  odd = [p.id for p in predictions if p.task != task]
  if odd:
    raise PredictionsError(
      f'utterance {odd[0]!r} is not a {task} prediction as the first one is'
    )
  if task == 'classification':
    _check_classes(predictions, classes)
  elif classes:
    raise PredictionsError(
      f'predictions of valence, arousal, dominance have no classes, got '
      f'{", ".join(classes)}'
    )
  check_once(predictions, ids)
  paper = paper or {}
  _check_paper(paper, task)
  speakers = {p.speaker for p in predictions if p.speaker}
  folds_of = collections.Counter(
    speaker for speaker, _ in {(p.speaker, p.fold) for p in predictions}
  )
  by_selection = {
    name: [p for p in predictions if p.selection == name] for name in SELECTIONS
  }
  return {
    'system': system,
    'corpus': corpus,
    'protocol': protocol,
    'task': task,
    'classes': classes,
    'metrics': list(METRICS[task]),
    'seeds': sorted({p.seed for p in predictions}),
    'folds': sorted({p.fold for p in predictions}),
    'utterances': len({p.id for p in predictions}),
    'speakers': len(speakers),
    'speakers_in_several_folds': sum(folds_of[s] > 1 for s in speakers),
    'interval': {
      'level': 0.95,
      'resamples': resamples,
      'speakers': len(speakers),
      'unknown_speakers': len({p.id for p in predictions if not p.speaker}),
    },
    'selections': {
      name: _summarise_selection(part, task, classes, resamples, sphere)
      for name, part in by_selection.items()
      if part
    },
    'sphere': dict(sphere) if sphere else None,
    'paper': {name: dict(row) for name, row in paper.items()},
    'annotators': dict(annotators or {}),
    'probes': dict(probes or {}),
    'wall_time_s': wall_time_s,
    'command': command,
    'environment': dict(environment or {}),
    'demo': demo,
  }


def write_results(
  path: os.PathLike[str] | str, results: Mapping[str, Any]
) -> None:
  """Writes results.json whole or not at all."""
  files.write_json(path, results)


def read_results(path: os.PathLike[str] | str) -> dict[str, Any]:
  """Reads results.json.

  Raises:
    PredictionsError: the file is missing, is not JSON, or lacks a field.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise PredictionsError(
      f'{path}: no such file; the run that makes it has not finished, start its '
      'command again to continue it'
    )
  try:
    results = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise PredictionsError(f'{path}: not JSON ({error})') from error
  needed = {'system', 'corpus', 'task', 'classes', 'metrics', 'selections'}
  missing = needed - set(results if isinstance(results, dict) else ())
  if missing:
    raise PredictionsError(f'{path}: no results of a run, lacks {missing}')
  return results


def check_results(
  results: Mapping[str, Any], predictions: Iterable[Prediction]
) -> None:
  """Checks that results were computed from exactly these predictions.

  Raises:
    PredictionsError: naming the first selection that differs.
  """
  again = summarise(
    predictions,
    system=results['system'],
    corpus=results['corpus'],
    protocol=results['protocol'],
    classes=results['classes'],
    resamples=1,
  )['selections']
  if list(again) != list(results['selections']):
    raise PredictionsError(
      f'results.json has selections {list(results["selections"])}, '
      f'predictions.jsonl {list(again)}; start the command of the run again'
    )
  for name, entry in again.items():
    if entry['per_fold'] != results['selections'][name]['per_fold']:
      raise PredictionsError(
        f'results.json and predictions.jsonl disagree on selection {name!r}; '
        'one of them is from another run, start the command of the run again'
      )
