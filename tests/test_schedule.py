import types

import numpy as np

from jaxser.engine import schedule


def follow(scores, **rule):
  plateau, scales, stops = schedule.Plateau(), [], []
  for score in scores:
    plateau.update(score, types.SimpleNamespace(**rule))
    scales.append(plateau.scale)
    stops.append(plateau.stopped)
  return scales, stops


def test_drop_after_patience_and_stop_after_stop_patience():
  scores = [0.5] + [0.4] * 3 + [0.6] + [0.6] * 5
  scales, stops = follow(scores, factor=0.1, patience=3, stop_patience=5)
  np.testing.assert_allclose(
    scales, [1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01], rtol=1e-6
  )
  # An equal score is no improvement: five of them end the training.
  assert stops == [False] * 9 + [True]


def test_zero_patience_never_drops_and_never_stops():
  scales, stops = follow([0.1] * 50, factor=0.1, patience=0, stop_patience=0)
  assert scales == [1.0] * 50
  assert not any(stops)


def test_published_dsnet_rule():
  scales, stops = follow(
    [0.9] + [0.1] * 19, factor=0.1, patience=15, stop_patience=19
  )
  assert scales[14] == 1.0
  np.testing.assert_allclose(scales[15], 0.1)
  assert stops.index(True) == 19
