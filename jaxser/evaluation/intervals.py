"""Intervals over speakers, paired comparisons, spread over seeds. NumPy only.

A resample of speakers is a weighted sum of their confusion matrices or power
sums, so two thousand of them cost one matrix product.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxser.evaluation import metrics

FEW_GROUPS = 20
"""Below this many speakers an interval is known to be too narrow."""


def _groups_of(groups: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
  names, index = np.unique(np.asarray(groups, object), return_inverse=True)
  return tuple(names.tolist()), index


def group_confusions(
  targets: np.ndarray,
  predictions: np.ndarray,
  groups: Sequence[str],
  classes: int,
) -> tuple[tuple[str, ...], np.ndarray]:
  """One confusion matrix per group (speaker).

  Args:
    targets: class numbers [n].
    predictions: class numbers [n].
    groups: name of the group of each row, e.g. its speaker.
    classes: number of classes K.

  Returns:
    The sorted names of the groups and int64 [groups, K, K].
  """
  names, index = _groups_of(groups)
  targets, predictions = np.asarray(targets), np.asarray(predictions)
  empty = metrics.Confusion.empty(classes)
  counts = np.zeros((len(names), classes, classes), np.int64)
  for group in range(len(names)):
    rows = index == group
    counts[group] = empty.add(targets[rows], predictions[rows]).counts
  return names, counts


def group_sums(
  targets: np.ndarray, predictions: np.ndarray, groups: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
  """Power sums per group (speaker) for `metrics.concordance_of_sums`.

  Args:
    targets: [n, d].
    predictions: [n, d].
    groups: name of the group of each row.

  Returns:
    The sorted names of the groups and float64 [groups, 6, d]: count and sums of
    p, t, p^2, t^2 and p t, where the mean target was subtracted from both
    (CCC does not change, and no digits are lost).
  """
  names, index = _groups_of(groups)
  t, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
  centre = t.mean(0, keepdims=True)
  t, p = t - centre, p - centre
  terms = np.stack([np.ones_like(p), p, t, p * p, t * t, p * t], 1)
  sums = np.zeros((len(names), *terms.shape[1:]))
  np.add.at(sums, index, terms)
  return names, sums


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


def _draw(groups: int, resamples: int, seed: int) -> np.ndarray:
  """How often each group was drawn, float64 [resamples, groups]."""
  generator = np.random.default_rng(seed)
  even = np.full(groups, 1.0 / groups)
  return generator.multinomial(groups, even, resamples).astype(np.float64)


def _percentiles(
  values: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
  """Interval over axis 0, leaving out resamples without a value."""
  tails = ((1 - level) / 2, (1 + level) / 2)
  columns = values.reshape(len(values), -1).T
  bounds = np.array(
    [
      np.quantile(known, tails) if len(known) else (np.nan, np.nan)
      for known in (column[~np.isnan(column)] for column in columns)
    ]
  )
  low, high = bounds.T.reshape(2, *values.shape[1:])
  return low, high


def _check_groups(groups: np.ndarray, resamples: int, level: float) -> None:
  if not len(groups):
    raise ValueError('no group to resample: there is no prediction')
  if resamples < 1 or not 0 < level < 1:
    raise ValueError(
      f'resamples={resamples} must be positive and level={level} in (0, 1)'
    )


def bootstrap_interval(
  statistic: Callable[[np.ndarray], np.ndarray],
  groups: np.ndarray,
  *,
  resamples: int = 2000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Percentile interval by drawing whole speakers with replacement.

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
    level: coverage aimed at.
    seed: of the resampling; the same seed draws the same speakers.

  Returns:
    The statistic of the whole set with its bounds, scalars or [m].
  """
  groups = np.asarray(groups, np.float64)
  _check_groups(groups, resamples, level)
  value = np.asarray(statistic(groups.sum(0)))
  if len(groups) == 1:
    unknown = np.full(value.shape, np.nan)
    return Interval(value, unknown, unknown)
  draws = _draw(len(groups), resamples, seed)
  values = statistic(np.tensordot(draws, groups, 1))
  return Interval(value, *_percentiles(values, level))


def paired_bootstrap(
  statistic: Callable[[np.ndarray], np.ndarray],
  first: np.ndarray,
  second: np.ndarray,
  *,
  resamples: int = 2000,
  level: float = 0.95,
  seed: int = 0,
) -> Difference:
  """Interval of the difference of two systems on the same utterances.

  The same speakers are drawn for both, so what makes a speaker easy or hard
  for both cancels. The p value is twice the smaller share of resamples on one
  side of zero, at least 2 / (resamples + 1), at most 1. What
  `bootstrap_interval` says of few speakers holds here too.

  Args:
    statistic: as in `bootstrap_interval`.
    first: additive groups of the first system, [groups, *shape].
    second: of the second, in the same order of groups.
    resamples: number of bootstrap samples.
    level: coverage aimed at.
    seed: of the resampling.

  Raises:
    ValueError: the two do not have the same groups.
  """
  pair = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if pair[0].shape != pair[1].shape:
    raise ValueError(
      f'groups of shape {pair[0].shape} and {pair[1].shape} cannot be paired: '
      'both systems must have predicted the same utterances'
    )
  _check_groups(pair[0], resamples, level)
  value = np.asarray(statistic(pair[0].sum(0)) - statistic(pair[1].sum(0)))
  if len(pair[0]) == 1:
    unknown = np.full(value.shape, np.nan)
    return Difference(value, unknown, unknown, unknown)
  draws = _draw(len(pair[0]), resamples, seed)
  values = functools.reduce(
    np.subtract, (statistic(np.tensordot(draws, x, 1)) for x in pair)
  )
  below, above = (values <= 0).sum(0), (values >= 0).sum(0)
  p_value = np.minimum(2 * (np.minimum(below, above) + 1) / (resamples + 1), 1)
  return Difference(value, *_percentiles(values, level), p_value)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
  """Mean and sample standard deviation (n - 1) of the values that are known.

  NaN is left out. The deviation of fewer than two values is NaN.
  """
  known = np.asarray([v for v in values if not np.isnan(v)], np.float64)
  mean = float(known.mean()) if len(known) else float('nan')
  std = float(known.std(ddof=1)) if len(known) > 1 else float('nan')
  return mean, std
