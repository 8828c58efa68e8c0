"""Metrics of whole sets and their intervals over speakers.

Against scikit-learn, definitions, and a bootstrap that copies utterances.
"""

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxser.evaluation import intervals, metrics

CLASSES = 4


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


def _run(seed=0, speakers=12, each=30, skill=0.7):
  rng = np.random.default_rng(seed)
  names = np.repeat([f's{i:02d}' for i in range(speakers)], each)
  targets = rng.integers(0, CLASSES, len(names))
  easy = np.repeat(rng.normal(skill, 0.1, speakers), each)
  right = rng.random(len(names)) < easy
  other = (targets + rng.integers(1, CLASSES, len(names))) % CLASSES
  return targets, np.where(right, targets, other), names


def _groups(targets, predictions, names):
  return intervals.group_confusions(targets, predictions, names, CLASSES)


def _brute_force(statistic, names, resamples, seed):
  """The documented draw, utterance by utterance."""
  own = [np.flatnonzero(names == name) for name in np.unique(names)]
  counts = np.random.default_rng(seed).multinomial(
    len(own), np.full(len(own), 1 / len(own)), resamples
  )
  drawn = (np.repeat(np.arange(len(own)), row) for row in counts)
  values = [statistic(np.concatenate([own[i] for i in row])) for row in drawn]
  return np.percentile(values, [2.5, 97.5], axis=0)


def test_uar_interval_equals_copying_the_utterances_of_speakers():
  targets, predictions, names = _run()

  def slow(rows):
    hits = targets[rows] == predictions[rows]
    return np.mean([hits[targets[rows] == k].mean() for k in range(CLASSES)])

  groups = _groups(targets, predictions, names)
  made = intervals.bootstrap(metrics.uar, groups, resamples=300, seed=4)
  bounds = _brute_force(slow, names, 300, 4)
  assert made.value == pytest.approx(slow(np.arange(len(names))), abs=1e-12)
  np.testing.assert_allclose([made.low, made.high], bounds, atol=1e-12)
  assert made.low < made.value < made.high


def test_ccc_interval_equals_copying_the_utterances_of_speakers():
  rng = np.random.default_rng(1)
  counts = [10, 40, 25, 5, 20]
  names = np.repeat(['a', 'b', 'c', 'd', 'e'], counts)
  targets = rng.uniform(1, 7, (100, 3))
  predictions = 0.5 * targets + rng.normal(2, 0.6, (100, 3))
  sums = intervals.group_sums(targets, predictions, names)
  np.testing.assert_array_equal(sums[:, 0, 0], counts)
  made = intervals.bootstrap(
    metrics.concordance_of_sums, sums, resamples=200, seed=2
  )

  def slow(rows):
    return metrics.concordance(targets[rows], predictions[rows])

  np.testing.assert_allclose(made.value, slow(np.arange(100)), atol=1e-12)
  bounds = _brute_force(slow, names, 200, 2)
  np.testing.assert_allclose([made.low, made.high], bounds, atol=1e-12)


def test_resamples_without_a_value_are_left_out():
  # Two speakers; only one of them has spoken at all.
  groups = np.zeros((2, 2, 2))
  groups[0] = [[3, 1], [0, 2]]
  made = intervals.bootstrap(metrics.war, groups)
  assert made.value == made.low == made.high == pytest.approx(5 / 6)
  nothing = intervals.bootstrap(metrics.war, np.zeros((2, 2, 2)))
  assert np.isnan(nothing).all()


def test_pairing_finds_what_two_intervals_cannot():
  targets, predictions, names = _run(speakers=20, each=40)
  better = predictions.copy()
  wrong = np.flatnonzero(predictions != targets)
  better[wrong[::4]] = targets[wrong[::4]]
  pair = [_groups(targets, x, names) for x in (better, predictions)]
  made = intervals.bootstrap(metrics.war, *pair)
  gain = np.mean(better == targets) - np.mean(predictions == targets)
  assert made.value == pytest.approx(gain, abs=1e-12)
  assert made.low > 0
  assert made.p_value == pytest.approx(2 / 2001)
  apart = [intervals.bootstrap(metrics.war, groups) for groups in pair]
  assert apart[0].low < apart[1].high  # Unpaired, they overlap.


def test_p_value_is_even_when_nothing_differs():
  """Two systems of equal skill: about one in twenty p values is below 0.05."""
  below = 0
  for seed in range(200):
    hits = np.random.default_rng(seed).binomial(50, 0.7, (2, 30))
    pair = np.zeros((2, 30, 2, 2))
    pair[..., 0, 0], pair[..., 0, 1] = hits, 50 - hits
    made = intervals.bootstrap(metrics.war, *pair, resamples=400, seed=seed)
    below += made.p_value < 0.05
  assert 3 <= below <= 22


def test_mean_and_standard_deviation_over_seeds():
  values = [0.8, 0.9, 1.0, float('nan')]
  assert intervals.mean_std(values) == pytest.approx((0.9, 0.1))
  assert intervals.mean_std([0.8]) == pytest.approx((0.8, np.nan), nan_ok=True)
  assert np.isnan(intervals.mean_std([])).all()
