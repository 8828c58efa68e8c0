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


def _ccc(targets, predictions):
  """The definition, one dimension at a time."""
  result = []
  for t, p in zip(targets.T, predictions.T, strict=True):
    covariance = np.mean((t - t.mean()) * (p - p.mean()))
    result.append(
      2 * covariance / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
    )
  return np.array(result)


def test_values_equal_scikit_learn():
  targets, predictions = _labels()
  made = metrics.Confusion.empty(5).add(targets, predictions)
  np.testing.assert_array_equal(
    made.counts, reference.confusion_matrix(targets, predictions)
  )
  value = made.value()
  assert value['war'] == pytest.approx(
    reference.accuracy_score(targets, predictions), abs=1e-14
  )
  assert value['uar'] == pytest.approx(
    reference.balanced_accuracy_score(targets, predictions), abs=1e-14
  )
  assert value['f1'] == pytest.approx(
    reference.f1_score(targets, predictions, average='macro'), abs=1e-14
  )
  np.testing.assert_allclose(
    metrics.recalls(made.counts),
    reference.recall_score(targets, predictions, average=None),
    atol=1e-14,
  )


def test_class_without_target_is_left_out_and_named():
  targets = np.array([0, 0, 1, 1, 1, 3])
  predictions = np.array([0, 2, 1, 1, 0, 3])  # Class 2 is recognised, not said.
  counts = metrics.Confusion.empty(4).add(targets, predictions).counts
  present = [0, 1, 3]
  assert metrics.uar(counts) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
  assert metrics.macro_f1(counts) == pytest.approx(
    reference.f1_score(targets, predictions, labels=present, average='macro')
  )
  recalls = metrics.recalls(counts)
  assert np.isnan(recalls[2])
  assert not np.isnan(recalls[present]).any()
  names = ('angry', 'happy', 'neutral', 'sad')
  assert metrics.absent_classes(counts, names) == ('neutral',)


def test_nothing_counted_is_nan_not_zero():
  value = metrics.Confusion.empty(3).value()
  assert all(np.isnan(x) for x in value.values())
  assert np.isnan(metrics.Moments.empty(3).value()).all()


def test_leading_axes_are_independent():
  stack = np.stack(
    [metrics.Confusion.empty(5).add(*_labels(seed)).counts for seed in range(6)]
  ).reshape(2, 3, 5, 5)
  for function in (metrics.war, metrics.uar, metrics.macro_f1):
    together = function(stack)
    assert together.shape == (2, 3)
    assert together[1, 2] == function(stack[1, 2])


def test_batches_and_shards_merge_to_the_whole():
  targets, predictions = _labels()
  whole = metrics.Confusion.empty(5).add(targets, predictions)
  parts = metrics.Confusion.empty(5)
  for rows in np.array_split(np.arange(400), 7):
    shard = metrics.Confusion.empty(5).add(targets[rows], predictions[rows])
    parts = parts.merge(shard)
  np.testing.assert_array_equal(parts.counts, whole.counts)

  targets, predictions = _vad()
  whole = metrics.Moments.empty(3).add(targets, predictions)
  parts = metrics.Moments.empty(3)
  for rows in np.array_split(np.arange(300), 7):
    shard = metrics.Moments.empty(3).add(targets[rows], predictions[rows])
    parts = parts.merge(shard)
  np.testing.assert_allclose(parts.value(), whole.value(), atol=1e-13)
  np.testing.assert_allclose(
    whole.value(), _ccc(targets, predictions), atol=1e-13
  )


@pytest.mark.parametrize('dtype', [bool, np.int32, np.float32])
def test_masked_rows_never_count(dtype):
  targets, predictions = _labels(size=50)
  mask = (np.arange(50) < 37).astype(dtype)
  padded = np.where(mask > 0, targets, -1)  # What a padding row may hold.
  made = metrics.Confusion.empty(5).add(padded, predictions, mask)
  kept = metrics.Confusion.empty(5).add(targets[:37], predictions[:37])
  np.testing.assert_array_equal(made.counts, kept.counts)

  targets, predictions = _vad(size=50)
  padded = np.where(mask[:, None] > 0, targets, np.nan)
  made = metrics.Moments.empty(3).add(padded, predictions, mask)
  kept = metrics.Moments.empty(3).add(targets[:37], predictions[:37])
  assert made.count == 37
  np.testing.assert_array_equal(made.value(), kept.value())
  nothing = kept.add(padded, predictions, np.zeros(50, dtype))
  np.testing.assert_array_equal(nothing.value(), kept.value())


def test_mean_of_batch_values_is_another_number():
  """Why batches must be merged: their means are off by far more than rounding."""
  targets, predictions = _vad()
  order = np.argsort(targets[:, 0])  # Batches as unlike as a corpus in order.
  batches = [
    metrics.concordance(targets[rows], predictions[rows])
    for rows in np.array_split(order, 10)
  ]
  whole = metrics.concordance(targets, predictions)
  assert abs(np.mean(batches, 0)[0] - whole[0]) > 0.3

  labels, answers = _labels(size=96)
  merged = metrics.Confusion.empty(5).add(labels, answers).value()['uar']
  means = [
    metrics.Confusion.empty(5).add(labels[rows], answers[rows]).value()['uar']
    for rows in np.array_split(np.arange(96), 12)
  ]
  assert abs(np.mean(means) - merged) > 0.005


def test_concordance_of_constants_and_of_perfect_predictions():
  targets, _ = _vad()
  np.testing.assert_allclose(metrics.concordance(targets, targets), 1)
  mirrored = 2 * targets.mean(0) - targets
  np.testing.assert_allclose(metrics.concordance(targets, mirrored), -1)
  constant = np.full_like(targets, 3.0)
  np.testing.assert_array_equal(metrics.concordance(targets, constant), 0)
  np.testing.assert_array_equal(metrics.concordance(constant, constant + 1), 0)
  assert np.isnan(metrics.concordance(constant, constant)).all()


def test_concordance_keeps_its_digits_far_from_zero():
  targets, predictions = _vad()
  expected = metrics.concordance(targets, predictions)
  moved = metrics.Moments.empty(3)
  for rows in np.array_split(np.arange(300), 9):
    moved = moved.add(targets[rows] + 1e7, predictions[rows] + 1e7)
  np.testing.assert_allclose(moved.value(), expected, atol=1e-8)


def test_confusion_refuses_what_is_no_class_number():
  empty = metrics.Confusion.empty(3)
  with pytest.raises(
    ValueError, match=r'target -1 is no class number: .* 0 to 2'
  ):
    empty.add(np.array([0, -1]), np.array([0, 1]))
  with pytest.raises(ValueError, match=r'prediction 3 is no class number'):
    empty.add(np.array([0, 1]), np.array([0, 3]))
  with pytest.raises(ValueError, match=r'prediction nan is no class number'):
    empty.add(np.array([0, 1]), np.array([0, np.nan]))
  with pytest.raises(ValueError, match=r'of one length, got \(2,\) and \(3,\)'):
    empty.add(np.zeros(2), np.zeros(3))
  with pytest.raises(
    ValueError, match=r'mask has shape \(3,\), expected \(2,\)'
  ):
    empty.add(np.zeros(2), np.zeros(2), np.ones(3))
  with pytest.raises(ValueError, match=r'mask holds values other than 0'):
    empty.add(np.zeros(2), np.zeros(2), np.array([1, 0.5]))
  with pytest.raises(ValueError, match=r'of 3 and 4 classes cannot be merged'):
    empty.merge(metrics.Confusion.empty(4))


def test_moments_refuse_what_is_not_finite():
  empty = metrics.Moments.empty(3)
  unknown = np.array([[1, 2, 3], [1, np.nan, 3]])
  with pytest.raises(ValueError, match=r'target .* is not finite; .* mask 0'):
    empty.add(unknown, np.ones((2, 3)))
  with pytest.raises(ValueError, match=r'prediction .* is not finite'):
    empty.add(np.ones((2, 3)), unknown)
  with pytest.raises(ValueError, match=r'must both be \[batch, 3\]'):
    empty.add(np.ones((2, 2)), np.ones((2, 2)))
  with pytest.raises(ValueError, match=r'of 3 and 2 dimensions'):
    empty.merge(metrics.Moments.empty(2))
