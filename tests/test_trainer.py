"""Runs at once are as many as fit into memory; some steps are traced."""

import types

import jax
import pytest

from jaxser.core.config import ConfigError
from jaxser.data import protocols
from jaxser.engine import memory, profiling, stack, trainer
from tests import toys
from tests.recorder import Recorder, check_equal

ONE = jax.devices()[:1]
CONFIG = {'epochs': 3, 'batch_size': 8, 'seeds': 2, 'runs_at_once': 4}


class Thawing(toys.Toy):
  """A weight that is frozen at first."""

  def frozen(self, params, phase):
    return {'weight': phase == 'early'}


def make(system=toys.Toy, early_epochs=1, **more):
  """Four runs whose second and third epoch are of another phase."""
  system = system(early_epochs=early_epochs)
  experiment = toys.make_experiment(system, {**CONFIG, **more}, bins=16)
  corpus = experiment.source.corpus
  folds = protocols.make_folds(corpus, 'speaker_independent')[:2]
  return experiment, [(seed, fold) for seed in range(2) for fold in folds]


def plan(devices=ONE, **more):
  notes = []
  found = trainer.plan(*make(**more), notes.append, devices=devices)
  return found, notes[-1]


def exhausted(*unused):
  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return Recorder(tmp_path_factory.mktemp('whole')).train(*make(), devices=ONE)


def test_a_compiler_that_runs_out_halves_the_stack(
  whole, monkeypatch, tmp_path
):
  real = stack.Programs.train

  def train(self, phase):
    def lower(state, *rest):
      if phase == 'early' or state.step.shape[0] <= 2:
        return real(self, phase).lower(state, *rest)
      return types.SimpleNamespace(compile=exhausted)

    return types.SimpleNamespace(lower=lower)

  monkeypatch.setattr(stack.Programs, 'train', train)
  ours = Recorder(tmp_path).train(*make(), devices=ONE)
  assert '2 of 4 runs at once' in ours.printed
  check_equal(ours, whole, 1e-5)


@pytest.mark.parametrize('fails_at', [1, 3])
def test_an_allocation_that_fails_halves_the_stack(
  whole, monkeypatch, tmp_path, fails_at
):
  real, calls = trainer.Trainer.train, []

  def train(self, *arguments):
    calls.append(self.runs)
    if self.runs == 4 and len(calls) == fails_at:
      exhausted()
    return real(self, *arguments)

  monkeypatch.setattr(trainer.Trainer, 'train', train)
  ours = Recorder(tmp_path).train(*make(checkpoint_every=2), devices=ONE)
  assert '4 runs at once do not fit (RESOURCE_EXHAUSTED' in ours.printed
  continued = '2 runs at once: continue after epoch 2' in ours.printed
  assert continued == (fails_at == 3)
  check_equal(ours, whole, 1e-5)


def test_one_run_that_does_not_fit_says_what_to_lower(monkeypatch, tmp_path):
  monkeypatch.setattr(trainer.Trainer, 'train', exhausted)
  with pytest.raises(trainer.OutOfMemoryError, match=r'lower --config\.batch_'):
    Recorder(tmp_path).train(*make(), devices=ONE)


def test_the_phase_that_takes_most_must_fit(monkeypatch):
  needs = iter([100, 500, 100, 200])
  monkeypatch.setattr(memory, 'budget', lambda *_: 300)
  monkeypatch.setattr(memory, 'size', lambda tree: 1)
  monkeypatch.setattr(memory, 'need', lambda compiled: next(needs))
  assert plan()[0].runs == 2


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'memory_gib': 1e-6}, 'one run with the corpus needs'),
    ({'parallel': 'pmap'}, '--config.parallel=pmap'),
    ({'data.buckets': (6,)}, 'batches have 2 lengths'),
    ({'data.cache_gib': 0.0}, 'larger than --config.data.cache_gib=0'),
  ],
)
def test_without_room_for_the_corpus_batches_are_streamed(changes, reason):
  found, note = plan(**changes)
  assert (found.batches.name, found.runs) == ('streamed', 1)
  assert reason in note


def test_a_cpu_trains_one_run_per_device():
  assert plan(jax.devices()[:3], runs_at_once=0)[0].runs == 3
  assert 0 < memory.budget(ONE[0]) < memory.available_host_bytes()


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
  calls, real = [], profiling.Trace.call

  def call(self, done, steps, function):
    calls.append((done, steps))
    return real(self, done, steps, function)

  monkeypatch.setattr(profiling.Trace, 'call', call)
  experiment, runs = make(runs_at_once=1)
  Recorder(tmp_path).train(experiment, runs[:2], devices=ONE)
  assert calls == 2 * [(0, 2), (2, 2), (4, 2)]


def test_steps_that_no_run_takes_are_refused():
  def check(profile):
    experiment, runs = make(profile=profile)
    profiling.check(experiment, [fold for _, fold in runs])

  check('6:9')
  with pytest.raises(ConfigError, match=r'profile=7:9 .* there are 6\.'):
    check('7:9')


@pytest.mark.parametrize(
  ('early_epochs', 'text'), [(0, ''), (1, 'frozen in early'), (3, 'frozen')]
)
def test_parameters_and_when_they_are_frozen(early_epochs, text):
  experiment, [(_, fold), *_] = make(Thawing, early_epochs)
  assert experiment.parameters(fold) == [('weight', (16, 3), text)]
