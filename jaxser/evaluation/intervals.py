"""Intervals over speakers, paired comparisons, spread over seeds. NumPy only.

The cluster bootstrap is written here because `scipy.stats.bootstrap` draws
single observations: a resample of whole speakers is a weighted sum of their
confusion matrices or power sums, so that two thousand of them cost one matrix
product.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]

LEVEL = 0.95
"""Coverage that every interval aims at."""
FEW_GROUPS = 20
"""Below this many speakers an interval is known to be too narrow."""


def group_confusions(
  targets: np.ndarray,
  predictions: np.ndarray,
  groups: Sequence[str],
  classes: int,
) -> np.ndarray:
  """Returns a confusion matrix for each group (speaker), int64 [groups, K, K].

  Args:
    targets: class numbers [n].
    predictions: class numbers [n].
    groups: group of each utterance; the result is in their sorted order.
    classes: number of classes K.
  """
  count, index = _numbered(groups)
  confusions = np.zeros((count, classes, classes), np.int64)
  np.add.at(confusions, (index, targets, predictions), 1)
  return confusions


def group_sums(
  targets: np.ndarray, predictions: np.ndarray, groups: Sequence[str]
) -> np.ndarray:
  """Returns power sums for each group (speaker), float64 [groups, 6, d].

  Count and sums of p, t, p^2, t^2 and p t for `metrics.concordance_of_sums`,
  where the mean target was subtracted from both (CCC does not change, and no
  digits are lost).

  Args:
    targets: [n, d].
    predictions: [n, d].
    groups: group of each utterance; the result is in their sorted order.
  """
  count, index = _numbered(groups)
  t, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
  centre = t.mean(0, keepdims=True)
  t, p = t - centre, p - centre
  terms = np.stack([np.ones_like(p), p, t, p * p, t * t, p * t], 1)
  sums = np.zeros((count, *terms.shape[1:]))
  np.add.at(sums, index, terms)
  return sums


def _numbered(groups: Sequence[str]) -> tuple[int, np.ndarray]:
  names, index = np.unique(np.asarray(groups, object), return_inverse=True)
  return len(names), index


class Interval(NamedTuple):
  """A statistic of the whole set and its interval; scalars or [m] arrays."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Difference(NamedTuple):
  """First minus second, its interval, and a two-sided bootstrap p value."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray
  p_value: np.ndarray


def bootstrap_interval(
  statistic: Statistic,
  groups: np.ndarray,
  *,
  resamples: int = 2000,
  seed: int = 0,
) -> Interval:
  """Returns a percentile interval by drawing whole speakers with replacement.

  Utterances of one speaker are alike, so speakers are the unit that is drawn
  (cluster bootstrap, Davison and Hinkley 1997, section 3.8). Every resample
  draws as many speakers as there are.

  Few speakers: the interval is what they support and no more. With one speaker
  there is nothing to draw and the bounds are NaN. With fewer than `FEW_GROUPS`
  it is too narrow: in simulations with normal speaker effects a 95 % interval
  covered the truth in 93 % of cases at 20 speakers, 90 % at 10, 81 % at 4.
  Resamples in which the statistic is not defined are left out.

  Args:
    statistic: sums over groups [..., *shape] -> [...] or [..., m].
    groups: what the statistic is computed from, additive, [groups, *shape].
    resamples: number of bootstrap samples.
    seed: of the resampling; the same seed draws the same speakers.
  """
  return Interval(*_bootstrap(statistic, [groups], resamples, seed)[:3])


def paired_bootstrap(
  statistic: Statistic,
  first: np.ndarray,
  second: np.ndarray,
  *,
  resamples: int = 2000,
  seed: int = 0,
) -> Difference:
  """Returns the difference of two systems on the same utterances.

  The same speakers are drawn for both, so what makes a speaker easy or hard
  for both cancels. The p value is twice the smaller share of resamples on one
  side of zero, at least 2 / (resamples + 1), at most 1. Arguments, and what is
  said of few speakers, are as in `bootstrap_interval`; both systems must have
  the same groups in the same order.
  """
  value, low, high, values = _bootstrap(
    statistic, [first, second], resamples, seed
  )
  if not len(values):
    return Difference(value, low, high, low)
  side = np.minimum((values <= 0).sum(0), (values >= 0).sum(0))
  p_value = np.minimum(2 * (side + 1) / (resamples + 1), 1)
  return Difference(value, low, high, p_value)


def _bootstrap(
  statistic: Statistic,
  systems: Sequence[np.ndarray],
  resamples: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns value, bounds and resamples of one system or a difference of two."""
  systems = [np.asarray(groups, np.float64) for groups in systems]
  count = len(systems[0])

  def evaluate(sums: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(functools.reduce(np.subtract, map(statistic, sums)))

  value = evaluate([groups.sum(0) for groups in systems])
  if count == 1:
    unknown = np.full(value.shape, np.nan)
    return value, unknown, unknown, np.zeros(0)
  even = np.full(count, 1.0 / count)
  draws = np.random.default_rng(seed).multinomial(count, even, resamples)
  draws = draws.astype(np.float64)
  values = evaluate([np.tensordot(draws, groups, 1) for groups in systems])
  with warnings.catch_warnings():
    # Without any defined resample the bounds are NaN, as documented.
    warnings.simplefilter('ignore', RuntimeWarning)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.nanquantile(values, tails, axis=0)
  return value, low, high, values


def mean_std(values: Sequence[float]) -> tuple[float, float]:
  """Returns mean and sample standard deviation (n - 1) of the known values.

  NaN is left out. The standard deviation of fewer than two values is NaN.
  """
  known = np.asarray([v for v in values if not np.isnan(v)], np.float64)
  mean = float(known.mean()) if len(known) else float('nan')
  std = float(known.std(ddof=1)) if len(known) > 1 else float('nan')
  return mean, std
