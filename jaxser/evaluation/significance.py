"""Whether one run is better than another: both on the same utterances.

A difference is taken over the utterances that both runs tested, resampled by
whole speakers, the same ones for both (`intervals.paired_bootstrap`). It covers
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
    low, high: its 95 % interval, None with a single speaker.
    p_value: two-sided, None with a single speaker.
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
  speakers: int
  changes: dict[str, Change]
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

  Args:
    first: predictions of one selection of the first run.
    second: likewise of the second.
    first_classes: classes of the first run in label order.
    second_classes: likewise of the second.
    resamples: number of bootstrap samples.

  Returns:
    The comparison; where the runs do not predict the same things of any common
    utterance, `reason` says so and there are no changes.
  """
  truth = [
    {p.id: (p.target, p.speaker) for p in run} for run in (first, second)
  ]
  shared = truth[0].keys() & truth[1].keys()
  only = len(truth[0]) - len(shared), len(truth[1]) - len(shared)

  def refused(reason: str) -> Comparison:
    return Comparison(len(shared), *only, 0, {}, reason)

  tasks = {p.task for p in (*first, *second)}
  if len(tasks) > 1:
    return refused('one predicts classes, the other valence and arousal')
  if tuple(first_classes) != tuple(second_classes):
    return refused(
      f'they know different classes ({", ".join(first_classes)} and '
      f'{", ".join(second_classes)})'
    )
  if not shared:
    return refused('they tested no common utterance')
  odd = sorted(name for name in shared if truth[0][name] != truth[1][name])
  if odd:
    return refused(
      f'{len(odd)} utterances have one name but another label or speaker, the '
      f'first is {odd[0]!r}: these are different corpora'
    )
  task = tasks.pop()
  pair = [
    results.grouped([p for p in run if p.id in shared], task, first_classes)
    for run in (first, second)
  ]
  statistic = results.STATISTICS[task]
  change = intervals.paired_bootstrap(statistic, *pair, resamples=resamples)
  values = [statistic(groups.sum(0)) for groups in pair]
  scale = 100.0 if task == 'classification' else 1.0
  changes = {
    name: Change(
      *(
        _known(scale * column[i])
        for column in (*values, change.value, change.low, change.high)
      ),
      _known(change.p_value[i]),
    )
    for i, name in enumerate(results.METRICS[task])
  }
  return Comparison(len(shared), *only, len(pair[0]), changes)


def _known(value: float) -> float | None:
  return None if np.isnan(value) else float(value)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """p values adjusted for being several (Holm 1979); None stays None."""
  known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
  adjusted: list[float | None] = [None] * len(p_values)
  highest = 0.0
  for rank, (p, i) in enumerate(known):
    highest = max(highest, min(1.0, p * (len(known) - rank)))
    adjusted[i] = highest
  return adjusted
