"""WAR, UAR, macro F1 and CCC of whole sets. NumPy only.

None of these is an average of batches, so each is computed from something that
can be added up: a confusion matrix [target, prediction] or second moments. The
functions on confusion matrices and sums take leading axes, so that thousands of
resamples (`jaxser.evaluation.intervals`) are one call.

A value that is not defined (no utterance; CCC of two equal constants) is NaN.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Quotient in float64, NaN where the denominator is zero."""
  numerator = np.asarray(numerator, np.float64)
  denominator = np.asarray(denominator, np.float64)
  shape = np.broadcast_shapes(numerator.shape, denominator.shape)
  return np.divide(
    numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0
  )


def recalls(confusion: np.ndarray) -> np.ndarray:
  """Recall of each class, [..., K, K] -> [..., K]; NaN where it has no target."""
  diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
  return _ratio(diagonal, np.sum(confusion, -1))


def war(confusion: np.ndarray) -> np.ndarray:
  """Weighted average recall, i.e. accuracy: [..., K, K] -> [...], 0 to 1."""
  right = np.trace(confusion, axis1=-2, axis2=-1)
  return _ratio(right, np.sum(confusion, (-2, -1)))


def uar(confusion: np.ndarray) -> np.ndarray:
  """Unweighted average recall: [..., K, K] -> [...], 0 to 1.

  The mean of the recalls of the classes that occur among the targets;
  `absent_classes` names the others.
  """
  present = np.sum(confusion, -1) > 0
  total = np.sum(np.where(present, recalls(confusion), 0.0), -1)
  return _ratio(total, np.sum(present, -1))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
  """Mean F1 of the classes that occur among the targets: [..., K, K] -> [...].

  F1 of class k is 2 hits / (times said + times recognised). A class that is
  only ever recognised, never said, is left out as in `uar`; its false alarms
  already lower the F1 of the classes that they were taken from.
  """
  diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
  said, recognised = np.sum(confusion, -1), np.sum(confusion, -2)
  present = said > 0
  scores = np.where(present, _ratio(2 * diagonal, said + recognised), 0.0)
  return _ratio(np.sum(scores, -1), np.sum(present, -1))


def absent_classes(
  confusion: np.ndarray, classes: Sequence[str]
) -> tuple[str, ...]:
  """Names of the classes without a target in a confusion matrix [K, K]."""
  said = np.sum(confusion, -1)
  return tuple(name for name, n in zip(classes, said, strict=True) if n == 0)


def _valid_rows(mask: np.ndarray | None, rows: int) -> np.ndarray:
  """Mask [rows] of 0 and 1 as booleans; all True without a mask."""
  if mask is None:
    return np.ones(rows, bool)
  mask = np.asarray(mask)
  if mask.shape != (rows,):
    raise ValueError(
      f'mask has shape {mask.shape}, expected ({rows},): one value per row'
    )
  if not np.isin(mask, (0, 1)).all():
    raise ValueError(
      'mask holds values other than 0 (padding row) and 1 (utterance)'
    )
  return mask == 1


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
  """Confusion matrix that batches and shards are added to.

  Attributes:
    counts: int64 [K, K], rows are targets, columns predictions.
  """

  counts: np.ndarray

  @classmethod
  def empty(cls, classes: int) -> Self:
    """Nothing counted yet, for `classes` classes."""
    return cls(np.zeros((classes, classes), np.int64))

  def add(
    self,
    targets: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None = None,
  ) -> Self:
    """Counts a batch of class numbers [batch]; rows with mask 0 do not count.

    Raises:
      ValueError: shapes differ, or a counted row holds no class number.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
      raise ValueError(
        'targets and predictions must be class numbers [batch] of one length, '
        f'got {targets.shape} and {predictions.shape}'
      )
    valid = _valid_rows(mask, len(targets))
    size = len(self.counts)
    pairs = np.stack([targets[valid], predictions[valid]])
    for name, values in zip(('target', 'prediction'), pairs, strict=True):
      wrong = ~np.isin(values, np.arange(size))
      if wrong.any():
        raise ValueError(
          f'{name} {values[wrong][0]} is no class number: expected 0 to '
          f'{size - 1} in every row that the mask counts'
        )
    cells = pairs[0].astype(np.int64) * size + pairs[1].astype(np.int64)
    added = np.bincount(cells, minlength=size * size).reshape(size, size)
    return type(self)(self.counts + added)

  def merge(self, other: Self) -> Self:
    """The matrix of both sets of utterances."""
    if self.counts.shape != other.counts.shape:
      raise ValueError(
        f'confusion matrices of {len(self.counts)} and {len(other.counts)} '
        'classes cannot be merged'
      )
    return type(self)(self.counts + other.counts)

  def value(self) -> dict[str, float]:
    """{'uar', 'war', 'f1'} as fractions, over everything counted."""
    return {
      'uar': float(uar(self.counts)),
      'war': float(war(self.counts)),
      'f1': float(macro_f1(self.counts)),
    }


def _concordance(shift, covariance, variance_p, variance_t) -> np.ndarray:
  """Lin's formula; `shift` is the difference of the means."""
  return _ratio(2 * covariance, variance_p + variance_t + shift**2)


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
  """First and second moments of predictions and targets, per dimension.

  Kept about their own means (Chan, Golub and LeVeque 1983), so that merging
  loses no digits however large the values are against their spread.

  Attributes:
    count: utterances counted.
    mean: float64 [2, d], means of predictions and of targets.
    scatter: float64 [3, d], sums of squared deviations of the predictions, of
      the targets, and of the products of both.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def empty(cls, dimensions: int) -> Self:
    """Nothing counted yet."""
    return cls(0, np.zeros((2, dimensions)), np.zeros((3, dimensions)))

  def add(
    self,
    targets: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None = None,
  ) -> Self:
    """Counts a batch [batch, d]; rows with mask 0 do not count.

    Raises:
      ValueError: shapes differ, or a counted row is not finite.
    """
    pair = [np.asarray(x, np.float64) for x in (predictions, targets)]
    dimensions = self.mean.shape[1]
    if any(x.ndim != 2 or x.shape[1] != dimensions for x in pair) or (
      pair[0].shape != pair[1].shape
    ):
      raise ValueError(
        f'targets and predictions must both be [batch, {dimensions}], got '
        f'{pair[1].shape} and {pair[0].shape}'
      )
    valid = _valid_rows(mask, len(pair[0]))
    p, t = (x[valid] for x in pair)
    for name, values in (('prediction', p), ('target', t)):
      wrong = ~np.isfinite(values).all(1)
      if wrong.any():
        raise ValueError(
          f'{name} {values[wrong][0].tolist()} is not finite; give rows '
          'without known values mask 0'
        )
    if not len(p):
      return self
    mean = np.stack([p.mean(0), t.mean(0)])
    p, t = p - mean[0], t - mean[1]
    scatter = np.stack([(p * p).sum(0), (t * t).sum(0), (p * t).sum(0)])
    return self.merge(type(self)(len(p), mean, scatter))

  def merge(self, other: Self) -> Self:
    """The moments of both sets of utterances."""
    if self.mean.shape != other.mean.shape:
      raise ValueError(
        f'moments of {self.mean.shape[1]} and {other.mean.shape[1]} '
        'dimensions cannot be merged'
      )
    count = self.count + other.count
    if not count:
      return self
    gap = other.mean - self.mean
    products = np.stack([gap[0] * gap[0], gap[1] * gap[1], gap[0] * gap[1]])
    return type(self)(
      count,
      self.mean + gap * (other.count / count),
      self.scatter
      + other.scatter
      + products * (self.count * other.count / count),
    )

  def value(self) -> np.ndarray:
    """CCC [d] with biased moments over everything counted."""
    if not self.count:
      return np.full(self.mean.shape[1], np.nan)
    variance_p, variance_t, covariance = self.scatter / self.count
    shift = self.mean[0] - self.mean[1]
    return _concordance(shift, covariance, variance_p, variance_t)


def concordance(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
  """CCC of whole sets, [n, d] and [n, d] -> [d], -1 to 1.

  2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2) with biased moments
  (Lin 1989). Constant predictions score 0.
  """
  targets = np.asarray(targets)
  return Moments.empty(targets.shape[-1]).add(targets, predictions).value()


def concordance_of_sums(sums: np.ndarray) -> np.ndarray:
  """CCC from power sums, [..., 6, d] -> [..., d]; see `intervals.group_sums`."""
  count = sums[..., :1, :]
  mean_p, mean_t, square_p, square_t, product = np.moveaxis(
    _ratio(sums[..., 1:, :], count), -2, 0
  )
  return _concordance(
    mean_p - mean_t,
    product - mean_p * mean_t,
    np.maximum(square_p - mean_p**2, 0.0),
    np.maximum(square_t - mean_t**2, 0.0),
  )
