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


def _vad(seed=0, size=300):
  rng = np.random.default_rng(seed)
  targets = rng.uniform(1, 5, (size, 3))
  return targets, 3 + 0.6 * (targets - 3) + rng.normal(0.1, 0.5, (size, 3))


def test_values_equal_scikit_learn():
  targets, predictions = _labels()
  made = metrics.Confusion.empty(5).add(targets, predictions)
  np.testing.assert_array_equal(
    made.counts, reference.confusion_matrix(targets, predictions)
  )
  assert made.value() == pytest.approx(
    {
      'war': reference.accuracy_score(targets, predictions),
      'uar': reference.balanced_accuracy_score(targets, predictions),
      'f1': reference.f1_score(targets, predictions, average='macro'),
    },
    abs=1e-14,
  )
  np.testing.assert_allclose(
    metrics.recalls(made.counts),
    reference.recall_score(targets, predictions, average=None),
    atol=1e-14,
  )


def test_class_without_target_is_left_out_and_named():
  targets = np.array([0, 0, 1, 1, 1, 3])
  predictions = np.array([0, 2, 1, 1, 0, 3])  # Class 2 is never a target.
  counts = metrics.Confusion.empty(4).add(targets, predictions).counts
  present = [0, 1, 3]
  assert metrics.uar(counts) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
  assert metrics.macro_f1(counts) == pytest.approx(
    reference.f1_score(targets, predictions, labels=present, average='macro')
  )
  assert np.isnan(metrics.recalls(counts)).tolist() == [False] * 2 + [
    True,
    False,
  ]
  names = ('angry', 'happy', 'neutral', 'sad')
  assert metrics.absent_classes(counts, names) == ('neutral',)


def test_no_utterance_is_nan_not_zero():
  assert np.isnan([*metrics.Confusion.empty(3).value().values()]).all()
  assert np.isnan(metrics.concordance(np.zeros((0, 3)), np.zeros((0, 3)))).all()


def test_an_utterance_without_a_class_is_never_counted_as_another():
  with pytest.raises(ValueError, match='negative'):
    metrics.Confusion.empty(3).add(np.array([0, -1]), np.array([0, 1]))


def test_leading_axes_are_independent_and_batches_add_up():
  parts = [_labels(seed) for seed in range(6)]
  stack = np.stack(
    [metrics.Confusion.empty(5).add(*part).counts for part in parts]
  ).reshape(2, 3, 5, 5)
  for function in (metrics.war, metrics.uar, metrics.macro_f1):
    together = function(stack)
    assert together.shape == (2, 3)
    assert together[1, 2] == function(stack[1, 2])
  whole = metrics.Confusion.empty(5)
  for part in parts:
    whole = whole.add(*part)
  np.testing.assert_array_equal(whole.counts, stack.sum((0, 1)))


def test_concordance_is_its_definition():
  targets, predictions = _vad()
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
  # The mean over batches is another number, by far more than rounding.
  batches = np.array_split(np.argsort(targets[:, 0]), 10)
  means = np.mean(
    [metrics.concordance(targets[b], predictions[b]) for b in batches], 0
  )
  assert abs(means[0] - found[0]) > 0.3


def test_concordance_of_constants_and_of_perfect_predictions():
  targets, _ = _vad()
  np.testing.assert_allclose(metrics.concordance(targets, targets), 1)
  mirrored = 2 * targets.mean(0) - targets
  np.testing.assert_allclose(metrics.concordance(targets, mirrored), -1)
  constant = np.full_like(targets, 3.0)
  np.testing.assert_array_equal(metrics.concordance(targets, constant), 0)
  np.testing.assert_array_equal(metrics.concordance(constant, constant + 1), 0)
  assert np.isnan(metrics.concordance(constant, constant)).all()
