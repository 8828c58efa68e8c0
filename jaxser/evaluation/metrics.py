"""WAR, UAR, macro F1 and CCC of whole sets. NumPy only.

None of these is an average over batches, so each is computed from something
that adds up: a confusion matrix [target, predicted] or power sums. The functions
take leading axes, so that thousands of resamples (`jaxser.evaluation.intervals`)
are one call. A value that is not defined (no utterance; CCC of two equal
constants) is NaN.
"""

from collections.abc import Sequence

import numpy as np

from jaxser.evaluation.predictions import DIMENSIONS

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


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Returns the quotient in float64, NaN where the denominator is not > 0."""
  numerator = np.asarray(numerator, np.float64)
  denominator = np.asarray(denominator, np.float64)
  shape = np.broadcast_shapes(numerator.shape, denominator.shape)
  return np.divide(
    numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0
  )


def confusion(
  targets: np.ndarray, predictions: np.ndarray, classes: int
) -> np.ndarray:
  """Counts class numbers [n], [n] -> int64 [K, K]; rows are targets."""
  cells = np.asarray(targets, np.int64) * classes + np.asarray(predictions)
  return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def recalls(confusion: np.ndarray) -> np.ndarray:
  """Returns each class's recall, [..., K, K] -> [..., K]; NaN without target."""
  hits = np.diagonal(confusion, axis1=-2, axis2=-1)
  return _ratio(hits, np.sum(confusion, -1))


def war(confusion: np.ndarray) -> np.ndarray:
  """Returns weighted average recall (accuracy): [..., K, K] -> [...], 0 to 1."""
  hits = np.trace(confusion, axis1=-2, axis2=-1)
  return _ratio(hits, np.sum(confusion, (-2, -1)))


def uar(confusion: np.ndarray) -> np.ndarray:
  """Returns the mean recall of the classes among the targets, 0 to 1.

  [..., K, K] -> [...]; `absent_classes` names the other classes.
  """
  return _mean_over_targets(recalls(confusion), confusion)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
  """Returns the mean F1 of the classes among the targets: [..., K, K] -> [...].

  F1 of a class is 2 hits / (targets + predictions). A class that is predicted
  but never a target is left out as in `uar`; its false alarms already lower the
  F1 of the classes that they were taken from.
  """
  hits = np.diagonal(confusion, axis1=-2, axis2=-1)
  both = np.sum(confusion, -1) + np.sum(confusion, -2)
  return _mean_over_targets(_ratio(2 * hits, both), confusion)


def _mean_over_targets(values: np.ndarray, confusion: np.ndarray) -> np.ndarray:
  present = np.sum(confusion, -1) > 0
  return _ratio(np.sum(np.where(present, values, 0.0), -1), present.sum(-1))


def absent_classes(
  confusion: np.ndarray, classes: Sequence[str]
) -> tuple[str, ...]:
  """Returns the classes without a target in a confusion matrix [K, K]."""
  targets = np.sum(confusion, -1)
  return tuple(name for name, n in zip(classes, targets, strict=True) if n == 0)


def _ccc(shift, covariance, variance_p, variance_t) -> np.ndarray:
  """Lin's formula; `shift` is the difference of the means."""
  return _ratio(2 * covariance, variance_p + variance_t + shift**2)


def concordance(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
  """Returns the CCC of whole sets, [n, d] and [n, d] -> [d], -1 to 1.

  2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2) with biased moments
  (Lin 1989). Constant predictions score exactly 0, which power sums do not give.
  """
  t, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
  if not len(t):
    return np.full(t.shape[1:], np.nan)
  shift = p.mean(0) - t.mean(0)
  t, p = t - t.mean(0, keepdims=True), p - p.mean(0, keepdims=True)
  return _ccc(shift, (p * t).mean(0), (p * p).mean(0), (t * t).mean(0))


def concordance_of_sums(sums: np.ndarray) -> np.ndarray:
  """Returns the CCC of `intervals.group_sums`, [..., 6, d] -> [..., d]."""
  mean_p, mean_t, square_p, square_t, product = np.moveaxis(
    _ratio(sums[..., 1:, :], sums[..., :1, :]), -2, 0
  )
  return _ccc(
    mean_p - mean_t,
    product - mean_p * mean_t,
    np.maximum(square_p - mean_p**2, 0.0),
    np.maximum(square_t - mean_t**2, 0.0),
  )


def values(task: str, sums: np.ndarray) -> np.ndarray:
  """Returns the `METRICS` of a task: of confusion matrices or power sums.

  [..., K, K] -> [..., 3] or [..., 6, 3] -> [..., 4].
  """
  if task == 'classification':
    return np.stack([uar(sums), war(sums), macro_f1(sums)], -1)
  ccc = concordance_of_sums(sums)
  return np.concatenate([ccc, ccc.mean(-1, keepdims=True)], -1)
