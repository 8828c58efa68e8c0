"""Intervals over speakers, paired comparisons, spread over seeds. NumPy only.

`scipy.stats.bootstrap` draws single observations; a resample of whole speakers
is a weighted sum of their confusions or power sums: one matrix product.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # Coverage that every interval aims at.
FEW_GROUPS = 20  # With fewer speakers an interval is known to be too narrow.
LEAST_GROUPS = 4  # Resampling fewer of them gives no p value worth the name.


def group_confusions(
  targets: np.ndarray,
  predictions: np.ndarray,
  groups: Sequence[str],
  classes: int,
) -> np.ndarray:
  """Counts class numbers [n], [n] -> int64 [groups, K, K], in sorted order."""
  names, index = np.unique(np.asarray(groups, object), return_inverse=True)
  confusions = np.zeros((len(names), classes, classes), np.int64)
  np.add.at(confusions, (index, targets, predictions), 1)
  return confusions


def group_sums(
  targets: np.ndarray, predictions: np.ndarray, groups: Sequence[str]
) -> np.ndarray:
  """Returns power sums [groups, 6, d] of [n, d], [n, d], in sorted order.

  These are the count and sums of p, t, p^2, t^2 and p t, from which the mean
  target was subtracted: CCC does not change, and no digits are lost.
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
  """A statistic with its interval, and the p value of a difference, or NaN."""

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

  Speakers are drawn, as utterances of one are alike (cluster bootstrap, Davison
  and Hinkley 1997, section 3.8). Of two systems the result is first minus second
  on the same draws, with a two-sided p value, NaN below `LEAST_GROUPS` speakers.
  With one speaker the bounds are NaN; with few they are too narrow: in
  simulations with normal speaker effects 95 % covered the truth in 93 % of cases
  at 20 speakers, 90 % at 10, 81 % at 4.
  Resamples in which the statistic is not defined are left out.

  Args:
    statistic: sums over groups [..., *shape] -> [...] or [..., m].
    *systems: one or two, additive sums [groups, *shape] of the same groups.
    resamples: number of bootstrap samples.
    seed: of the resampling; the same seed draws the same speakers.
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
  if not paired or count < LEAST_GROUPS:
    return Interval(value, low, high, unknown)
  side = np.minimum((values <= 0).sum(0), (values >= 0).sum(0))
  p_value = np.minimum(2 * (side + 1) / (resamples + 1), 1)
  return Interval(value, low, high, p_value)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
  """Returns mean and sample standard deviation of the known values, or NaN."""
  known = np.asarray([v for v in values if not np.isnan(v)], np.float64)
  mean = float(known.mean()) if len(known) else float('nan')
  std = float(known.std(ddof=1)) if len(known) > 1 else float('nan')
  return mean, std
