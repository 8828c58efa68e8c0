"""Intervals over speakers, paired comparisons, spread over seeds. NumPy only.

The cluster bootstrap is written here because `scipy.stats.bootstrap` draws
single observations: a resample of whole speakers is a weighted sum of their
confusion matrices or power sums, so that two thousand of them cost one matrix
product.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

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
  """Counts class numbers [n], [n] for each group (speaker), in sorted order.

  int64 [groups, K, K]; rows are targets.
  """
  names, index = np.unique(np.asarray(groups, object), return_inverse=True)
  confusions = np.zeros((len(names), classes, classes), np.int64)
  np.add.at(confusions, (index, targets, predictions), 1)
  return confusions


def group_sums(
  targets: np.ndarray, predictions: np.ndarray, groups: Sequence[str]
) -> np.ndarray:
  """Returns power sums of [n, d], [n, d] for each group, in sorted order.

  float64 [groups, 6, d]: count and sums of p, t, p^2, t^2 and p t for
  `metrics.concordance_of_sums`, where the mean target was subtracted from both
  (CCC does not change, and no digits are lost).
  """
  names, index = np.unique(np.asarray(groups, object), return_inverse=True)
  t, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
  centre = t.mean(0, keepdims=True)
  t, p = t - centre, p - centre
  terms = np.stack([np.ones_like(p), p, t, p * p, t * t, p * t], 1)
  sums = np.zeros((len(names), *terms.shape[1:]))
  np.add.at(sums, index, terms)
  return sums


class Interval(NamedTuple):
  """A statistic and its interval; the p value is that of a difference, or NaN.

  Scalars or [m] arrays.
  """

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray
  p_value: np.ndarray


def bootstrap(
  statistic: Callable[[np.ndarray], np.ndarray],
  *systems: np.ndarray,
  resamples: int = 2000,
  seed: int = 0,
) -> Interval:
  """Returns a percentile interval by drawing whole speakers with replacement.

  Utterances of one speaker are alike, so speakers are the unit that is drawn
  (cluster bootstrap, Davison and Hinkley 1997, section 3.8). Every resample
  draws as many speakers as there are.

  Given two systems, the result is about first minus second. The same speakers
  are drawn for both, so what makes a speaker easy or hard for both cancels. The
  p value is twice the smaller share of resamples on one side of zero, at least
  2 / (resamples + 1), at most 1.

  Few speakers: the interval is what they support and no more. With one speaker
  there is nothing to draw and the bounds are NaN. With fewer than `FEW_GROUPS`
  it is too narrow: in simulations with normal speaker effects a 95 % interval
  covered the truth in 93 % of cases at 20 speakers, 90 % at 10, 81 % at 4.
  Resamples in which the statistic is not defined are left out.
  """
  count, paired = len(systems[0]), len(systems) == 2

  def evaluate(totals: Sequence[np.ndarray]) -> np.ndarray:
    values = [np.asarray(statistic(total)) for total in totals]
    return values[0] - values[1] if paired else values[0]

  value = evaluate([groups.sum(0) for groups in systems])
  unknown = np.full(value.shape, np.nan)
  if count == 1:
    return Interval(value, unknown, unknown, unknown)
  even = np.full(count, 1.0 / count)
  draws = np.random.default_rng(seed).multinomial(count, even, resamples)
  draws = draws.astype(np.float64)
  values = evaluate([np.tensordot(draws, groups, 1) for groups in systems])
  with warnings.catch_warnings():
    # Without any defined resample the bounds are NaN, as documented.
    warnings.simplefilter('ignore', RuntimeWarning)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.nanquantile(values, tails, axis=0)
  if not paired:
    return Interval(value, low, high, unknown)
  side = np.minimum((values <= 0).sum(0), (values >= 0).sum(0))
  p_value = np.minimum(2 * (side + 1) / (resamples + 1), 1)
  return Interval(value, low, high, p_value)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
  """Returns mean and sample standard deviation (n - 1) of the known values.

  NaN is left out. The standard deviation of fewer than two values is NaN.
  """
  known = np.asarray([v for v in values if not np.isnan(v)], np.float64)
  mean = float(known.mean()) if len(known) else float('nan')
  std = float(known.std(ddof=1)) if len(known) > 1 else float('nan')
  return mean, std
