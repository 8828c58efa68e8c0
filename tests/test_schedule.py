import jax
import jax.numpy as jnp
import numpy as np

from jaxser.engine import schedule


def follow(scores, **rule):
  state = schedule.Plateau.create()
  scales, stops = [], []
  for score in scores:
    state = state.update(jnp.float32(score), **rule)
    scales.append(float(state.scale))
    stops.append(bool(state.stopped))
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


def test_same_rule_inside_a_scan():
  scores = jnp.array([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5], jnp.float32)
  rule = {'factor': 0.5, 'patience': 2, 'stop_patience': 3}

  def body(state, score):
    state = state.update(score, **rule)
    return state, (state.scale, state.stopped)

  _, (scales, stops) = jax.jit(
    lambda s: jax.lax.scan(body, schedule.Plateau.create(), s)
  )(scores)
  expected_scales, expected_stops = follow(scores, **rule)
  np.testing.assert_array_equal(scales, expected_scales)
  np.testing.assert_array_equal(stops, expected_stops)
