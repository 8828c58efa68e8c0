"""Metrics of whole sets, against scikit-learn and against their definitions."""

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxser.evaluation import metrics


def _labels(seed=0, size=400, classes=5):
  rng = np.random.default_rng(seed)
  targets = rng.integers(0, classes, size)
  right = rng.random(size) < 0.6
  return targets, np.where(right, targets, rng.integers(0, classes, size))


def test_values_equal_scikit_learn():
  pair = _labels()
  counts = metrics.confusion(*pair, 5)
  np.testing.assert_array_equal(counts, reference.confusion_matrix(*pair))
  assert metrics.values('classification', counts) == pytest.approx(
    [
      reference.balanced_accuracy_score(*pair),
      reference.accuracy_score(*pair),
      reference.f1_score(*pair, average='macro'),
    ],
    abs=1e-14,
  )
  recalls = reference.recall_score(*pair, average=None)
  np.testing.assert_allclose(metrics.recalls(counts), recalls, atol=1e-14)
  # Leading axes are independent.
  stack = np.stack([counts, metrics.confusion(*_labels(1), 5)])[:, None]
  both = metrics.values('classification', stack)
  np.testing.assert_array_equal(
    both[0, 0], metrics.values('classification', counts)
  )


def test_class_without_target_is_left_out_and_named():
  pair = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 2, 1, 1, 0, 3])
  counts = metrics.confusion(*pair, 4)
  assert metrics.uar(counts) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
  f1 = reference.f1_score(*pair, labels=[0, 1, 3], average='macro')
  assert metrics.macro_f1(counts) == pytest.approx(f1)
  assert np.flatnonzero(np.isnan(metrics.recalls(counts))).tolist() == [2]
  names = ('angry', 'happy', 'neutral', 'sad')
  assert metrics.absent_classes(counts, names) == ('neutral',)


def test_no_utterance_is_nan_and_no_class_an_error():
  assert np.isnan(metrics.values('classification', np.zeros((3, 3)))).all()
  assert np.isnan(metrics.concordance(np.zeros((0, 3)), np.zeros((0, 3)))).all()
  with pytest.raises(ValueError, match='negative'):
    metrics.confusion(np.array([0, -1]), np.array([0, 1]), 3)


def test_concordance_is_its_definition():
  rng = np.random.default_rng(0)
  targets = rng.uniform(1, 5, (300, 3))
  predictions = 3 + 0.6 * (targets - 3) + rng.normal(0.1, 0.5, (300, 3))
  expected = [
    2
    * np.cov(t, p, bias=True)[0, 1]
    / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
    for t, p in zip(targets.T, predictions.T, strict=True)
  ]
  found = metrics.concordance(targets, predictions)
  np.testing.assert_allclose(found, expected, atol=1e-13)
  # It keeps its digits far from zero.
  moved = metrics.concordance(targets + 1e7, predictions + 1e7)
  np.testing.assert_allclose(moved, expected, atol=1e-8)

  np.testing.assert_allclose(metrics.concordance(targets, targets), 1)
  mirrored = 2 * targets.mean(0) - targets
  np.testing.assert_allclose(metrics.concordance(targets, mirrored), -1)
  constant = np.full_like(targets, 3.0)
  np.testing.assert_array_equal(metrics.concordance(targets, constant), 0)
  np.testing.assert_array_equal(metrics.concordance(constant, constant + 1), 0)
  assert np.isnan(metrics.concordance(constant, constant)).all()
