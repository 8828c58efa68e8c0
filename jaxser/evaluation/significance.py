"""Whether one run is better than another, on the utterances that both tested.

The interval covers the choice of speakers, not the luck of a training seed: for
that, give runs of several seeds.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxser.evaluation import intervals, metrics, results
from jaxser.evaluation.predictions import Prediction


@dataclasses.dataclass
class Change:
  """First minus second in one metric, in per cent points or CCC."""

  first: float | None  # The metric of each over the common utterances.
  second: float | None
  value: float | None
  low: float | None
  high: float | None
  p_value: float | None
  p_holm: float | None = None  # Set by `adjust`.


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two runs compared; `reason` says why they cannot be."""

  common: int  # Utterances that both tested, on which all is computed.
  only_first: int
  only_second: int
  speakers: int = 0  # Among the common utterances.
  changes: dict[str, Change] = dataclasses.field(default_factory=dict)
  reason: str = ''


def compare(
  first: Sequence[Prediction],
  second: Sequence[Prediction],
  first_classes: Sequence[str] = (),
  second_classes: Sequence[str] = (),
) -> Comparison:
  """Compares two runs by the predictions of one selection of each.

  Several seeds of a run count together: its metric is that of all of them.
  """
  truth = [
    {p.id: (p.target, p.speaker) for p in run} for run in (first, second)
  ]
  shared = truth[0].keys() & truth[1].keys()
  common = len(shared)
  sizes = (common, len(truth[0]) - common, len(truth[1]) - common)
  odd = sorted(name for name in shared if truth[0][name] != truth[1][name])
  tasks = {p.task for p in (*first, *second)}
  known = [', '.join(classes) for classes in (first_classes, second_classes)]
  reason = ''
  if len(tasks) > 1:
    reason = 'one predicts classes, the other valence and arousal'
  elif known[0] != known[1]:
    reason = f'they know different classes ({" and ".join(known)})'
  elif not shared:
    reason = 'they tested no common utterance'
  elif odd:
    reason = (
      f'{len(odd)} utterances have one name but another label or speaker, the '
      f'first is {odd[0]!r}: these are different corpora'
    )
  if reason:
    return Comparison(*sizes, reason=reason)
  task = tasks.pop()
  pair = [
    results.grouped([p for p in run if p.id in shared], task, first_classes)
    for run in (first, second)
  ]
  statistic = functools.partial(metrics.values, task)
  change = intervals.bootstrap(statistic, *pair)
  scale = 100.0 if task == 'classification' else 1.0
  columns = [*(statistic(groups.sum(0)) for groups in pair), *change[:3]]
  columns = [*(scale * column for column in columns), change.p_value]
  changes = {
    name: Change(*(None if np.isnan(x) else float(x) for x in row))
    for name, *row in zip(metrics.METRICS[task], *columns, strict=True)
  }
  return Comparison(*sizes, len(pair[0]), changes)


def adjust(comparisons: Sequence[Comparison]) -> None:
  """Sets the p values adjusted for the number of comparisons (Holm 1979)."""
  for metric in dict.fromkeys(m for c in comparisons for m in c.changes):
    changes = [c.changes[metric] for c in comparisons if metric in c.changes]
    known = [(c.p_value, c) for c in changes if c.p_value is not None]
    known.sort(key=lambda pair: pair[0])
    highest = 0.0
    for rank, (p_value, change) in enumerate(known):
      adjusted = min(1.0, p_value * (len(known) - rank))
      change.p_holm = highest = max(highest, adjusted)
