"""Whether one run is better than another: both on the same utterances.

A difference is taken over the utterances that both runs tested, resampled by
whole speakers, the same ones for both (`intervals.bootstrap`). It covers
the choice of speakers, not the luck of a training seed: for that, give runs of
several seeds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxser.evaluation import intervals, results
from jaxser.evaluation.predictions import Prediction


@dataclasses.dataclass(frozen=True)
class Change:
  """First minus second in one metric; per cent points, or CCC.

  Attributes:
    first, second: the metric of each over the common utterances.
    value: their difference.
    low, high, p_value: its 95 % interval and two-sided p value, None with a
      single speaker.
  """

  first: float | None
  second: float | None
  value: float | None
  low: float | None
  high: float | None
  p_value: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two runs compared.

  Attributes:
    common: utterances that both tested, on which everything is computed.
    only_first, only_second: utterances that only one of them tested.
    speakers: among the common utterances.
    changes: metric -> change; empty where `reason` says why.
    reason: why the two cannot be compared, else empty.
  """

  common: int
  only_first: int
  only_second: int
  speakers: int = 0
  changes: dict[str, Change] = dataclasses.field(default_factory=dict)
  reason: str = ''


def compare(
  first: Sequence[Prediction],
  second: Sequence[Prediction],
  first_classes: Sequence[str] = (),
  second_classes: Sequence[str] = (),
  *,
  resamples: int = 2000,
) -> Comparison:
  """Compares two runs, each given by the predictions of one selection.

  Several seeds of a run count together: its metric is that of all of them.
  Where the runs do not predict the same things of any common utterance, the
  comparison has a `reason` and no changes.

  Args:
    first: predictions of one selection of the first run.
    second: likewise of the second.
    first_classes: classes of the first run in label order.
    second_classes: likewise of the second.
    resamples: number of bootstrap samples.
  """
  truth = [
    {p.id: (p.target, p.speaker) for p in run} for run in (first, second)
  ]
  shared = truth[0].keys() & truth[1].keys()
  found = Comparison(len(shared), *(len(t) - len(shared) for t in truth))
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
    return dataclasses.replace(found, reason=reason)
  task = tasks.pop()
  pair = [
    results.grouped([p for p in run if p.id in shared], task, first_classes)
    for run in (first, second)
  ]
  statistic = results.STATISTICS[task]
  change = intervals.bootstrap(statistic, *pair, resamples=resamples)
  scale = 100.0 if task == 'classification' else 1.0
  columns = [*(statistic(groups.sum(0)) for groups in pair), *change[:3]]
  columns = [*(scale * column for column in columns), change.p_value]
  changes = {
    name: Change(*(None if np.isnan(x) else float(x) for x in row))
    for name, *row in zip(results.METRICS[task], *columns, strict=True)
  }
  return dataclasses.replace(found, speakers=len(pair[0]), changes=changes)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """p values adjusted for being several (Holm 1979); None stays None."""
  known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
  adjusted: list[float | None] = [None] * len(p_values)
  highest = 0.0
  for rank, (p, i) in enumerate(known):
    highest = max(highest, min(1.0, p * (len(known) - rank)))
    adjusted[i] = highest
  return adjusted
