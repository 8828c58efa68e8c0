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
  changes = {'epochs': 3, 'batch_size': 8, **changes}
  experiment = toys.make_experiment(system, changes, bins=16)
  corpus = experiment.source.corpus
  return experiment, protocols.make_folds(corpus, 'speaker_independent')


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
    taken = range(done + 1, done + chunk + 1)
    trace.call(done, chunk, lambda: found.extend(taken if on else ()))
  trace.close()
  assert found == list(traced)
  line = 'The trace is in W/tensorboard/plugins/profile.'
  assert said == bool(steps) * [line]


def test_a_stack_that_ends_early_ends_its_trace_and_says_what_it_lacks(
  tmp_path, capsys
):
  trace = profiling.Trace('2:99', tmp_path)
  trace.call(1, 1, lambda: jax.numpy.ones(3) + 1)
  trace.close()
  trace.call(2, 1, lambda: None)  # Of the next stack.
  assert len(list(tmp_path.glob('plugins/profile/*/*.xplane.pb'))) == 1
  profiling.Trace('98:99', tmp_path).close()
  assert 'steps were not taken, nothing was traced' in capsys.readouterr().out


def test_the_loop_counts_the_steps_of_each_stack(tmp_path, monkeypatch):
  experiment, folds = make(toys.Toy(), runs_at_once=1)
  calls, real = [], profiling.Trace.call

  def call(self, done, steps, function):
    calls.append((done, steps))
    return real(self, done, steps, function)

  monkeypatch.setattr(profiling.Trace, 'call', call)
  runs = [(0, fold) for fold in folds[:2]]
  Recorder(tmp_path).train(experiment, runs, devices=jax.devices()[:1])
  assert calls == 2 * [(0, 2), (2, 2), (4, 2)]


def test_steps_that_no_run_takes_are_refused():
  profiling.check(*make(toys.Toy(), profile='6:9'))
  with pytest.raises(ConfigError, match=r'profile=7:9 .* there are 6\.'):
    profiling.check(*make(toys.Toy(), profile='7:9'))


@pytest.mark.parametrize(
  ('early_epochs', 'text'), [(0, ''), (1, 'frozen in early'), (3, 'frozen')]
)
def test_parameters_and_when_they_are_frozen(early_epochs, text):
  experiment, folds = make(Thawing(early_epochs=early_epochs))
  assert experiment.parameters(folds[0]) == [('weight', (16, 3), text)]
