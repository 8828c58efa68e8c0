import types

import numpy as np
import pytest

from jaxser.engine import schedule


@pytest.mark.parametrize(
  ('scores', 'patience', 'stop_patience', 'expected', 'stopped'),
  [
    # An equal score is no improvement: five of them end the training.
    (
      [0.5] + [0.4] * 3 + [0.6] * 6,
      *(3, 5),
      [1] * 3 + [0.1] * 4 + [0.01] * 3,
      9,
    ),
    ([0.1] * 50, 0, 0, [1] * 50, None),
    # The published rule of DSNet.
    ([0.9] + [0.1] * 19, 15, 19, [1] * 15 + [0.1] * 5, 19),
  ],
)
def test_drop_after_patience_and_stop_after_stop_patience(
  scores, patience, stop_patience, expected, stopped
):
  rule = types.SimpleNamespace(
    factor=0.1, patience=patience, stop_patience=stop_patience
  )
  plateau, scales, stops = schedule.Plateau(), [], []
  for score in scores:
    plateau.update(score, rule)
    scales.append(plateau.scale)
    stops.append(plateau.stopped)
  np.testing.assert_allclose(scales, expected, rtol=1e-6)
  assert stops == [number == stopped for number in range(len(scores))]
