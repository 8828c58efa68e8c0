"""Paired differences: on the common utterances, with the right sign."""

import dataclasses

import numpy as np
import pytest

from jaxser.evaluation import significance
from jaxser.evaluation.predictions import Prediction
from tests import runs


def predicted(rate, seeds=(0,), speakers=20):
  """Predictions right with this rate; the same utterances each time."""
  rng = np.random.default_rng(int(100 * rate))
  made = []
  for seed, i in np.ndindex(len(seeds), 12 * speakers):
    name, target = f's{i // 12:02d}-{i % 12}', i % 4
    label = target if rng.random() < rate else (target + 1) % 4
    scores = np.where(np.arange(4) == label, 0.7, 0.1)
    classes = runs.CLASSES[target], runs.CLASSES[label]
    about = (seeds[seed], 0, 'last', 1, name, name[:3])
    made.append(Prediction(*about, *classes, scores))
  return made


def compare(first, second, *classes):
  classes = classes or (runs.CLASSES, runs.CLASSES)
  return significance.compare(first, second, *classes)


def percent(run):
  return 100 * np.mean([p.target == p.prediction for p in run])


def test_a_better_run_is_better_and_the_other_way_round():
  good, poor = predicted(0.9), predicted(0.6)
  found, back = compare(good, poor), compare(poor, good)
  war = found.changes['war']
  assert war.first == pytest.approx(percent(good))
  assert war.second == pytest.approx(percent(poor))
  assert war.value == pytest.approx(percent(good) - percent(poor))
  assert 0 < war.low < war.value < war.high
  assert war.p_value < 0.01
  for metric in ('uar', 'war', 'f1'):
    a, b = found.changes[metric], back.changes[metric]
    assert (a.value, a.low, a.high, a.p_value) == pytest.approx(
      (-b.value, -b.high, -b.low, b.p_value)
    )
  same = compare(poor, poor)
  assert (same.common, same.only_first, same.only_second) == (240, 0, 0)
  assert same.speakers == 20
  for change in same.changes.values():
    assert (change.value, change.low, change.high) == (0, 0, 0)
    assert change.p_value == 1


def test_few_speakers_tell_nothing_of_chance_and_one_has_no_interval():
  three = [p for p in predicted(0.9) if p.speaker in ('s00', 's01', 's02')]
  (uar, *_) = compare(three, predicted(0.5)).changes.values()
  assert uar.low < uar.value
  assert uar.p_value is None
  found = compare(predicted(0.9, speakers=1), predicted(0.5, speakers=1))
  war = found.changes['war']
  assert (war.low, war.high, war.p_value) == (None, None, None)
  assert war.value is not None


def test_only_common_utterances_count_and_several_seeds_together():
  three = predicted(0.8, seeds=(0, 1, 2))
  left_out = {'s03-1', 's04-2', 's04-3'}
  part = [p for p in predicted(0.6) if p.id not in left_out]
  found = compare(three, part)
  assert (found.common, found.only_first, found.only_second) == (237, 3, 0)
  shared = [p for p in three if p.id not in left_out]
  assert found.changes['war'].first == pytest.approx(percent(shared))


def test_vad_is_compared_by_ccc():
  good = runs.vad_predictions()
  poor = [
    dataclasses.replace(p, prediction=0.2 * np.array(p.prediction) + 2)
    for p in good
  ]
  change = significance.compare(good, poor).changes['ccc_mean']
  assert 0 < change.low < change.value < change.high < 1


def test_runs_of_different_things_are_not_compared():
  vad, classes = runs.vad_predictions(), predicted(0.8)
  assert 'one predicts classes' in compare(vad, classes).reason
  other = compare(classes, classes, runs.CLASSES, (*runs.CLASSES, 'calm'))
  assert 'different classes' in other.reason
  renamed = [dataclasses.replace(p, id=f'x{p.id}') for p in classes]
  assert 'no common utterance' in compare(classes, renamed).reason
  odd = [dataclasses.replace(p, speaker='z') for p in classes]
  assert "the first is 's00-0'" in compare(classes, odd).reason
  assert not compare(classes, odd).changes


@pytest.mark.parametrize(
  ('given', 'adjusted'),
  [
    # The example of Holm's procedure in R: p.adjust(c(.01,.02,.03,.04)).
    ([0.01, 0.04, None, 0.03, 0.02], [0.04, 0.06, None, 0.06, 0.06]),
    ([0.6, 0.7], [1.0, 1.0]),
    ([], []),
  ],
)
def test_holm_adjusts_in_order_of_size(given, adjusted):
  changes = [significance.Change(*[0.0] * 5, p) for p in given]
  made = [significance.Comparison(1, 0, 0, 2, {'uar': c}) for c in changes]
  unlike = significance.Comparison(1, 0, 0, reason='other classes')
  significance.adjust([*made, unlike])
  assert [change.p_holm for change in changes] == pytest.approx(adjusted)
