"""What pages show of runs and results.json does not hold.

Everything comes from predictions, folds and embeddings; metrics are those of
`jaxser.evaluation`.
"""

import collections
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxser.core import config
from jaxser.evaluation import embeddings as embeddings_lib
from jaxser.evaluation import regions, significance
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import DIMENSIONS, Prediction
from jaxser.evaluation.results import NAMES
from jaxser.report import figures, text
from jaxser.report.run import Run, View

BINS = 10
MISTAKES = 12
PER_SPEAKER = {'classification': ('uar', 'war'), 'regression': ('ccc_mean',)}
"""Metrics of a speaker, by task; few utterances bear no more."""


class Reliability(NamedTuple):
  """Predictions by their confidence, the highest of their scores.

  Attributes:
    counts: predictions per bin, [BINS]; bin i holds confidences in
      (i / BINS, (i + 1) / BINS].
    confidence: mean confidence per bin, NaN where it is empty.
    accuracy: share that is right per bin, NaN where it is empty.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def ece(self) -> float:
    """Expected calibration error, 0 to 1 (Guo et al. 2017, equation 3)."""
    gap = np.abs(self.accuracy - self.confidence)
    return float(np.nansum(self.counts * gap) / self.counts.sum())

  @property
  def excess(self) -> float:
    """Mean confidence minus accuracy: positive where too sure, -1 to 1."""
    gap = self.confidence - self.accuracy
    return float(np.nansum(self.counts * gap) / self.counts.sum())

  def bins(self) -> list[tuple[int, float, float]]:
    """Returns (count, confidence, accuracy) of the bins that hold anything."""
    rows = zip(*(x.tolist() for x in self), strict=True)
    return [row for row in rows if row[0]]

  def summary(self) -> str:
    """Returns 'ECE 8.1 per cent; too sure by 7.9 points.'"""
    excess = 100 * self.excess
    word = 'too sure' if excess > 0 else 'not sure enough'
    return (
      f'ECE {100 * self.ece:.1f} per cent; {word} by {abs(excess):.1f} points.'
    )


def reliability(predictions: Sequence[Prediction]) -> Reliability:
  """Sorts predictions of classes into bins of equal width by confidence."""
  confidence = np.array([max(p.scores) for p in predictions], np.float64)
  right = np.array([p.prediction == p.target for p in predictions], np.float64)
  index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  counts = np.bincount(index, minlength=BINS)
  known = np.where(counts > 0, counts, np.nan)
  return Reliability(
    counts,
    np.bincount(index, confidence, BINS) / known,
    np.bincount(index, right, BINS) / known,
  )


def mistakes(view: View) -> list[tuple[Prediction, float]]:
  """Returns wrong predictions with their score, the most confident first.

  Of valence, arousal and dominance all predictions with their distance to the
  target, the farthest first.
  """
  if view.task == 'classification':
    found = [
      (p, max(p.scores)) for p in view.predictions if p.prediction != p.target
    ]
  else:
    errors = np.linalg.norm(view.outputs - view.targets, axis=-1)
    found = list(zip(view.predictions, errors.tolist(), strict=True))
  return sorted(found, key=lambda pair: (-pair[1], pair[0].id, pair[0].seed))


def speaker_scores(view: View) -> dict[str, dict[str, float]]:
  """Computes {speaker: {metric: per cent or CCC, 'utterances': number}}.

  The metrics are those of `PER_SPEAKER`; one that is not defined is left out.
  Several seeds count together.
  """
  parts: dict[str, list[Prediction]] = {}
  for p in view.predictions:
    parts.setdefault(p.speaker or 'unknown', []).append(p)
  task, classes = view.task, view.run.results['classes']
  scale = 100 if task == 'classification' else 1
  found = {}
  for name, rows in sorted(parts.items()):
    sums = results_lib.grouped(rows, task, classes).sum(0)
    values = results_lib.STATISTICS[task](sums)
    known = dict(zip(results_lib.METRICS[task], values, strict=True))
    found[name] = {
      m: scale * float(known[m])
      for m in PER_SPEAKER[task]
      if np.isfinite(known[m])
    }
    found[name]['utterances'] = len({p.id for p in rows})
  return found


def utterances(columns: Sequence[dict], speaker: str) -> int:
  """Returns how many utterances of a speaker most of the scores are of."""
  return max(scores.get(speaker, {}).get('utterances', 0) for scores in columns)


def extremes(scores: dict[str, dict[str, float]], task: str) -> str:
  """Returns 'UAR from 61.20 (03) to 96.00 (08), standard deviation 9.10.'"""
  metric = PER_SPEAKER[task][0]
  known = sorted((v[metric], name) for name, v in scores.items() if metric in v)
  if len(known) < 2:
    return ''
  (low, worst), (high, best) = known[0], known[-1]
  spread = statistics.stdev(value for value, _ in known)
  return (
    f'{NAMES[metric]} from {text.number(low, task)} ({worst}) to '
    f'{text.number(high, task)} ({best}), standard deviation over speakers '
    f'{text.number(spread, task)}.'
  )


def marks(views: Sequence[View], metric: str) -> list[tuple]:
  """Returns lines of `figures.forest`: a metric of every view, and the paper's."""
  lines = []
  for view in views:
    found = view.entry['pooled'][metric]
    paper = text.paper(view.run.results).get(view.selection, {})
    values = [found[key] for key in ('value', 'low', 'high')]
    lines.append((view.name, *values, paper.get(metric)))
  return lines


class Differences:
  """Every other run against the first, on the utterances that both tested.

  Attributes:
    rows: (view, comparison) of the runs that can be compared.
    notes: what a reader must know about the utterances that were compared.
  """

  def __init__(self, views: Sequence[View]):
    """Compares the selections of the views."""
    first, others = views[0], views[1:]
    self.rows, self.notes = [], []
    for view in others:
      found = significance.compare(
        view.predictions,
        first.predictions,
        view.run.results['classes'],
        first.run.results['classes'],
      )
      self.notes += _comparison_notes(view, first, found)
      if not found.reason:
        self.rows.append((view, found))

  def adjusted(self, metric: str) -> list[float | None]:
    """Returns Holm's p value of each row in one metric."""
    return significance.holm(
      [found.changes[metric].p_value for _, found in self.rows]
    )

  def marks(self, metric: str) -> list[tuple]:
    """Returns the lines of a chart of one metric."""
    changes = [(v.name, found.changes[metric]) for v, found in self.rows]
    return [(name, c.value, c.low, c.high, None) for name, c in changes]


def _comparison_notes(
  view: View, first: View, found: significance.Comparison
) -> list[str]:
  if found.reason:
    return [f'{view.name} is not compared with {first.name}: {found.reason}.']
  notes = []
  if found.only_first or found.only_second:
    notes.append(
      f'The test sets differ: {view.name} and {first.name} have '
      f'{text.count(found.common, "utterance")} in common and are compared on '
      f'these; {found.only_first:,} only {view.name} tested, '
      f'{found.only_second:,} only {first.name}.'
    )
  if found.speakers == 1:
    notes.append(f'{view.name}: one speaker only, no interval can be given.')
  protocols = [v.run.results['protocol'] for v in (view, first)]
  if protocols[0] != protocols[1]:
    notes.append(
      f'{view.name} and {first.name} have different protocols '
      f'({protocols[0]}, {protocols[1]}): the difference is one of the task as '
      'well as of the system.'
    )
  return notes


def region_rows(view: View) -> list[tuple[int, str, int, int, float | None]]:
  """Returns number, name, true, predicted and recall of occurring regions."""
  names = regions.names(view.run.results['sphere']['regions'])
  counts = np.array(view.entry['pooled']['regions']['confusion'])
  rows = []
  for i, (name, row) in enumerate(zip(names, counts, strict=True)):
    true, predicted = int(row.sum()), int(counts[:, i].sum())
    if true or predicted:
      share = 100 * float(row[i]) / true if true else None
      rows.append((i, name, true, predicted, share))
  return rows


def limits(views: Sequence[View]) -> tuple[float, float]:
  """Returns the lowest and the highest true or predicted value."""
  values = np.concatenate([x for v in views for x in (v.targets, v.outputs)])
  return float(values.min()), float(values.max())


def scatters(
  view: View, limits: tuple[float, float]
) -> Iterator[tuple[Any, str]]:
  """Draws predicted against true values of each dimension, with its CCC."""
  pairs = zip(DIMENSIONS, view.targets.T, view.outputs.T, strict=True)
  for name, targets, outputs in pairs:
    ccc = view.entry['pooled'][f'ccc_{name}']['value']
    words = f'CCC {text.number(ccc, "regression")}'
    title = f'{text.headline(name)}: predicted against true'
    about = f'{view.name}, {words}'
    yield figures.scatter(title, targets, outputs, limits, about), words


def region_legend(view: View) -> list[tuple[str, str]]:
  """Returns name and colour of the regions; nothing where colours repeat."""
  rows = region_rows(view)
  if max(row[0] for row in rows) >= figures.KINDS:
    return []
  return [(name, f'k{i}') for i, name, true, *_ in rows if true]


def spheres(view: View) -> Iterator[Any]:
  """Draws the true and the predicted points from every direction."""
  cut = view.run.results['sphere']
  kinds = regions.region_of(view.targets, cut) % figures.KINDS
  curves = figures.borders(cut['regions'])
  for title, points in (('True', view.targets), ('Predicted', view.outputs)):
    cube = regions.cube_of(points, cut)
    length = np.linalg.norm(cube, axis=-1).mean()
    words = (
      f'{len(cube)} points, on average {length:.2f} from neutral, where the '
      'sphere has radius 1.'
    )
    for name, axes in figures.directions().items():
      yield figures.sphere(f'{title}, {name}', axes, cube, kinds, curves, words)


def embedding_maps(runs: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
  """Draws the embeddings of each run that has them in two dimensions.

  Yields:
    {'name': of the run, 'about': of embeddings.npz, 'fold', 'utterances',
    'charts': [(legend, charts)]}, by emotion and by speaker.
  """
  for name, run in runs.items():
    found = embeddings_lib.read(run.workdir)
    if found is not None and found.mapped().sum() >= 4:
      yield {'name': name, **_maps_of(run, found)}


def _maps_of(run: Run, found: embeddings_lib.Embeddings) -> dict[str, Any]:
  rows = found.mapped()
  held_out, charts = found.side[rows] == 'test', []
  for kind, values in (('emotion', found.label), ('speaker', found.speaker)):
    counts = collections.Counter(values[rows].tolist())
    unknown = counts.pop('', 0)
    if not counts:
      continue
    most = figures.KINDS - (len(counts) > figures.KINDS)
    names = sorted(name for name, _ in counts.most_common(most))
    legend = [(name, f'k{i}') for i, name in enumerate(names)]
    if unknown or len(counts) > most:
      legend.append(('others', f'k{figures.KINDS}'))
    kinds = np.array(
      [names.index(v) if v in names else figures.KINDS for v in values[rows]]
    )
    drawn = [
      figures.embedding_map(
        f'{text.headline(space)}, by {kind}',
        found.maps[space][rows],
        kinds,
        held_out,
        _map_in_words(run, space, kind, held_out),
      )
      for space in found.about['names']
    ]
    charts.append((legend, drawn))
  return {
    'about': found.about,
    'fold': int(found.fold[rows][0]),
    'utterances': len(held_out),
    'charts': charts,
  }


def _map_in_words(run: Run, space: str, kind: str, held_out: np.ndarray) -> str:
  """The figure in words, with the probe that measures what it shows."""
  words = f'{len(held_out)} utterances, {int(held_out.sum())} of them tested.'
  probe = run.results['probes'].get(kind)
  if probe and space in probe['spaces']:
    mean, chance = probe['spaces'][space]['mean'], probe['chance']
    words += (
      f' A linear probe for the {kind} reaches '
      f'{text.number(mean, "classification")} per cent, chance is '
      f'{text.number(chance, "classification")}.'
    )
  return words


def learning_curves(runs: Mapping[str, Run]) -> Iterator[tuple[Any, str]]:
  """Draws the curves of every metric with the name of the run.

  Charts of several runs share their scale; the parts of a loss are drawn for a
  single run only.
  """
  known = dict.fromkeys(name for run in runs.values() for name in run.curves)
  main = ['loss', *(m for run in runs.values() for m in run.results['metrics'])]
  order = [m for m in dict.fromkeys(main) if m in known]
  if len(runs) == 1:
    order += sorted(known.keys() - set(order))
  for metric in order:
    having = {name: run for name, run in runs.items() if metric in run.curves}
    values = [c.values for run in having.values() for c in run.curves[metric]]
    limits = min(map(np.nanmin, values)), max(map(np.nanmax, values))
    title = NAMES.get(metric) or text.headline(metric.replace('_', ' '))
    unit = ', per cent' if metric in ('uar', 'war', 'f1') else ''
    for name, run in having.items():
      paper = {
        f'paper, {text.short(selection)}': row[metric]
        for selection, row in text.paper(run.results).items()
        if metric in row and selection != 'init_from'
      }
      drawn = figures.learning_curves(
        f'{title}{unit}, by epoch',
        run.curves[metric],
        paper,
        limits if len(runs) > 1 else None,
      )
      yield drawn, name


def flattened(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns nested settings as ('optimizer.learning_rate', '0.001') pairs."""
  return [
    (
      name,
      ', '.join(map(str, value)) if isinstance(value, list) else str(value),
    )
    for name, value in config.flatten(tree).items()
  ]


def compared_fields(
  trees: Sequence[Any],
) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
  """Returns (field, value) of what is the same, (field, values) of the rest."""
  flat = [dict(flattened(tree)) for tree in trees]
  rows = [
    (name, [fields.get(name, text.MISSING) for fields in flat])
    for name in dict.fromkeys(name for fields in flat for name in fields)
  ]
  same = [(name, values[0]) for name, values in rows if len(set(values)) == 1]
  return same, [row for row in rows if len(set(row[1])) > 1]
