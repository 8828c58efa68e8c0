"""Some steps are traced, and the parameters are listed, as they are asked for."""

import jax
import pytest

from jaxser.core.config import ConfigError
from jaxser.data import protocols
from jaxser.engine import profiling
from tests import toys
from tests.recorder import Recorder


class Thawing(toys.Toy):
  """A weight that is frozen at first."""

  def frozen(self, params, phase):
    return {'weight': phase == 'early'}


def make(system, **changes):
  experiment = toys.make_experiment(
    system, {'epochs': 3, 'batch_size': 8, **changes}, bins=16
  )
  return experiment, protocols.make_folds(
    experiment.source.corpus, 'speaker_independent'
  )


@pytest.mark.parametrize(
  ('steps', 'chunk', 'traced'),
  [('10:20', 1, range(10, 21)), ('10:20', 6, range(7, 25)), ('', 1, [])],
)
def test_the_calls_with_these_steps_are_traced(
  steps, chunk, traced, monkeypatch
):
  found, on, said = [], [], []
  monkeypatch.setattr(jax.profiler, 'start_trace', on.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', on.clear)
  trace = profiling.Trace(steps, 'W/tensorboard', said.append)
  for done in range(0, 30, chunk):
    trace.call(
      done,
      chunk,
      lambda: found.extend(range(done + 1, done + chunk + 1) if on else ()),
    )
  trace.close()
  assert found == list(traced)
  assert said == bool(steps) * [
    'The trace is in W/tensorboard/plugins/profile.'
  ]


def test_a_stack_that_ends_early_ends_its_trace_and_says_what_it_lacks(
  tmp_path, capsys
):
  trace = profiling.Trace('2:99', tmp_path)
  trace.call(1, 1, lambda: jax.numpy.ones(3) + 1)
  trace.close()
  assert list(tmp_path.glob('plugins/profile/*/*.xplane.pb'))
  trace.call(2, 1, lambda: None)  # Of the next stack.
  assert len(list(tmp_path.glob('plugins/profile/*'))) == 1
  profiling.Trace('98:99', tmp_path).close()
  assert 'steps were not taken, nothing was traced' in capsys.readouterr().out


def test_the_loop_counts_the_steps_of_the_first_stack(tmp_path, monkeypatch):
  experiment, folds = make(toys.Toy(), **{'runs_at_once': 1})
  calls, real = [], profiling.Trace.call

  def call(self, done, steps, function):
    calls.append((done, steps))
    return real(self, done, steps, function)

  monkeypatch.setattr(profiling.Trace, 'call', call)
  runs = [(0, fold) for fold in folds[:2]]
  Recorder(tmp_path).train(experiment, runs, devices=jax.devices()[:1])
  steps = -(-len(folds[0].train) // 8)
  assert calls == 2 * [(epoch * steps, steps) for epoch in range(3)]


def test_steps_that_no_run_takes_are_refused():
  for steps, wrong in (('6:9', False), ('7:9', True)):
    experiment, folds = make(toys.Toy(), profile=steps)
    assert -(-len(folds[0].train) // 8) == 2
    if not wrong:
      profiling.check(experiment, folds)
      continue
    with pytest.raises(
      ConfigError, match=r'profile=7:9 names steps .*; there are 6\.'
    ):
      profiling.check(experiment, folds)


@pytest.mark.parametrize(
  ('early_epochs', 'text'), [(0, ''), (1, 'frozen in early'), (3, 'frozen')]
)
def test_parameters_and_when_they_are_frozen(early_epochs, text):
  experiment, folds = make(Thawing(early_epochs=early_epochs))
  assert experiment.parameters(folds[0]) == [('weight', (16, 3), text)]
