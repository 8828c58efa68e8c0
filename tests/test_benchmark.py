"""Timing in turns, what is measured of which workload, costs of programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import dsnet, emosphere, timnet
from jaxser.benchmark import (
  costs,
  machine,
  measurements,
  peers,
  programs,
  tables,
  timing,
)
from jaxser.benchmark import workload as workload_lib
from jaxser.benchmark.timing import (
  BenchmarkError,
  Counters,
  Program,
  Settings,
  Turn,
)
from jaxser.benchmark.workload import Workload
from jaxser.engine import opening
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import SIZES
from tests import fakes

QUICK = Settings(rounds=2, seconds=0, peaks=False)


def small(**changes):
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  config.update(changes)
  return config


def quick(config, size=8, **options):
  workload = Workload.create(config, size)
  return measurements.speed(workload, QUICK, with_latency=False, **options)


class Computer:
  """Counters of a machine whose other processes use given cores, turn by turn."""

  def __init__(self, monkeypatch, *foreign):
    self.now, self.own, self.others = 0.0, 0.0, 0.0
    self.foreign = iter(foreign)
    monkeypatch.setattr(timing, 'read_counters', self.read)

  def read(self):
    return Counters(self.now, self.own, self.own + self.others)

  def program(self, name, seconds):
    def run(calls):
      if run.warm < 2:  # Before the first turn.
        run.warm += 1
        return
      self.now += seconds * calls
      self.own += 2 * seconds * calls
      self.others += seconds * calls * next(self.foreign)

    run.warm = 0
    return Program(name, 'training', 64, 1.0, run=run)


def test_turns_beside_other_work_are_repeated_then_left_out(monkeypatch):
  computer = Computer(
    monkeypatch,
    *(0, 0),  # A quiet round,
    *(0.9, 0.5, 0, 0.05),  # one that is quiet at the third try,
    *(0, 0.9, 0.9, 0.3),  # and one that never is.
  )
  made = [computer.program('jaxser', 1), computer.program('Keras', 3)]
  turns = timing.measure(made, Settings(3, 0))
  ours, keras = (turns[program.name] for program in made)
  assert [turn.quiet for turn in ours] == [True, True, True]
  assert [turn.quiet for turn in keras] == [True, True, False]
  assert keras[2].foreign == pytest.approx(0.3, abs=0.02)
  assert timing.ratio(ours, keras) == {'median': 3, 'quiet_rounds': 2}
  row = timing.speed(made[1], keras)
  assert (row['quiet_turns'], row['quiet']) == (2, True)
  assert len(row['seconds_per_call']) == 3


def test_too_few_quiet_turns_give_no_ratio():
  made = [Program(n, 'training', 64, 1.0, run=len) for n in ('jaxser', 'Keras')]
  ours, keras = [Turn(1, 2)] * 3, [Turn(3, 2), *[Turn(3, 2, 0.9)] * 2]
  assert timing.ratio(ours, keras) == {'median': None, 'quiet_rounds': 1}
  table = tables.speed(report(made, [ours, keras]))
  assert table.rows[1][-1] == 'not known, 1 quiet rounds'
  assert '2 of 6 turns ran beside more than 0.1 cores' in ' '.join(table.notes)
  assert 'Too few quiet turns' in ' '.join(table.notes)


def test_short_turns_and_silent_kernels_tell_nothing_of_others():
  start, end = Counters(0, 0, 0), Counters(0.1, 0.1, 0.2)
  assert timing.turn_between(start, end, 1) == Turn(0.1, 0.1, None)
  end = Counters(2, 1, 1.52)
  assert timing.turn_between(start, end, 4) == Turn(0.5, 0.25, 0.25)
  assert timing.turn_between(start, end._replace(machine=None), 1).quiet


def report(made, turns, peaks=None):
  rows = {
    program.name: timing.speed(program, its, peaks)
    for program, its in zip(made, turns, strict=True)
  }
  for name in [*rows][1:]:
    rows[name]['ratio'] = timing.ratio(turns[0], turns[1])
  return {
    'system': 'timnet',
    'about': '64 utterances of 188 x 128 per call in one batch',
    'environment': machine.environment(),
    'programs': rows,
    'latency': {},
    'peak_device_bytes': None,
    'notes': ['a note'],
    'rounds': 3,
  }


def test_ratios_compare_turns_of_one_round():
  made = [
    Program('jaxser', 'training', 64, 1.0, run=len, flops=2e9),
    Program('Keras', 'training', 64, 1.0, run=len),
  ]
  # The machine was twice as slow in the second round.
  ours = [Turn(1, 2), Turn(2, 2), Turn(1, 2)]
  keras = [Turn(3, 4), Turn(6, 4), Turn(2, 5)]
  peaks = {'flops_per_second': {'float32': 8e9}, 'bytes_per_second': 1}
  found = report(made, [ours, keras], peaks)
  row, other = found['programs'].values()
  assert row['utterances_per_second'] == 64
  assert row['share_of_matrix_peak'] == 0.25
  assert other['share_of_matrix_peak'] is None
  table = tables.speed(found)
  assert table.header[-1] == 'jaxser is'
  assert [row[-1] for row in table.rows] == ['-', '3.00 times as fast']
  assert '| — |' in table.markdown()
  assert 'a note' in table.notes


@pytest.mark.slow
def test_measuring_one_work_with_peaks_and_latency(monkeypatch):
  monkeypatch.setattr(machine, 'SIZES', {'cpu': (64, 1, 1)})
  found = measurements.speed(
    Workload.create(small(), 8),
    QUICK._replace(peaks=True),
    works=['prediction'],
  )
  assert list(found['programs']) == ['jaxser prediction float32']
  peaks = found['ceilings']
  assert all(value > 0 for value in peaks['flops_per_second'].values())
  row = found['programs']['jaxser prediction float32']
  assert row['share_of_bandwidth'] == pytest.approx(
    row['bytes_per_second'] / peaks['bytes_per_second']
  )
  delay = found['latency']['prediction float32']
  assert delay['first_milliseconds'] > delay['median_milliseconds'] > 0
  notes = ' '.join(tables.speed(found).notes)
  assert 'Peaks measured beside it' in notes
  assert 'One utterance, prediction float32' in notes


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_padding_for_devices_is_not_counted(parallel):
  found = quick(small(parallel=parallel, accumulate=4), 6, works=['training'])
  row = found['programs']['jaxser training float32']
  seconds = row['milliseconds_per_call'] / 1e3
  assert row['utterances_per_second'] == pytest.approx(6 / seconds)
  assert found['accumulate'] == 1  # A quarter of 64 is 16.
  assert found['about'] == '6 utterances of 16 x 128 per call in one batch'


@pytest.mark.slow
def test_types_of_matmuls():
  config = dsnet.get_config('variant=encoder')
  config.model.update(channels=(4,), embedding=4, max_frames=16)
  config.data.max_length = 16
  found = quick(config, dtypes=['bfloat16'], works=['prediction'])
  assert list(found['programs']) == ['jaxser prediction bfloat16']
  with pytest.raises(BenchmarkError, match='TimNet computes in float32'):
    quick(small(), dtypes=['bfloat16'])
  with pytest.raises(BenchmarkError, match='computes in float32 or bfloat16'):
    quick(config, dtypes=['float16'])


@pytest.mark.slow
def test_each_device_brings_its_own_work():
  workload = Workload.create(small(), 4)
  found = measurements.devices(workload, [1, 2], QUICK)
  one, two = found['rows']
  assert two['flop_per_call'] == pytest.approx(2 * one['flop_per_call'])
  assert one['efficiency'] == 1
  speeds = two['utterances_per_second'] / one['utterances_per_second']
  assert two['efficiency'] == pytest.approx(speeds)
  table = tables.scaling(found)
  assert 'steps of 4 utterances of 16 x 128 per device in one' in table.about
  assert 'share the same cores' in table.notes[0]
  with pytest.raises(BenchmarkError, match='there are 8 devices, not 16'):
    measurements.devices(workload, [1, 16], QUICK)


class FakeKeras:
  """Records what it is to train on."""

  def __init__(self):
    self.calls = []

  def fit(self, x, y, *, batch_size, epochs, validation_data, verbose):
    sizes = len(x), len(y), len(validation_data[0]), len(validation_data[1])
    self.calls.append((*sizes, batch_size, epochs))


@pytest.mark.slow
def test_runs_in_one_program_beside_a_fold_in_keras(monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: jax.local_devices()[:1])
  model = FakeKeras()
  monkeypatch.setattr(peers, 'keras_timnet', lambda system, frames: model)
  workload = Workload.create(small())
  found = measurements.folds(workload, [1, 2], QUICK, 25, compare='keras')
  # To compile, to warm up, to be timed, and the two rounds.
  assert model.calls == [(23, 23, 2, 2, 64, 1)] * 5
  one, two = found['rows']
  assert two['flop_per_call'] == pytest.approx(2 * one['flop_per_call'])
  (keras,) = found['others']
  # All epochs of both runs, which Keras trains one after the other.
  epochs = found['epochs']
  assert found['extrapolation'] == {
    'trainings': 2,
    'epochs': epochs,
    'seconds': {
      'jaxser': pytest.approx(epochs * two['milliseconds_per_call'] / 1e3),
      'Keras': pytest.approx(2 * epochs * keras['milliseconds_per_call'] / 1e3),
    },
  }
  assert two['ratio']['quiet_rounds'] == 2
  table = tables.scaling(found)
  assert 'one epoch of 25 utterances' in table.about
  assert table.header[-1] == 'against Keras'
  names = [row[0] for row in table.rows]
  assert names == ['jaxser, 1', 'jaxser, 2', 'Keras, 1']
  assert table.rows[2][-1] == '-'
  assert f'2 runs of {epochs} epochs take' in ' '.join(table.notes)


@pytest.mark.slow
def test_waiting_for_a_corpus(monkeypatch, tmp_path):
  asked = []

  def opened(config):
    asked.append(config.data_dir)
    return fakes.corpus()

  monkeypatch.setattr(opening, 'open_corpus', opened)
  found = programs.waiting(small(batch_size=4), str(tmp_path), steps=3)
  assert asked == [str(tmp_path)]
  assert (found['corpus'], found['steps']) == ('fake', 3)
  assert 0 <= found['share_waiting'] < 1
  assert found['pipeline_milliseconds'] > 0


def test_only_networks_that_are_there_are_compared():
  with pytest.raises(BenchmarkError, match='has TIM-Net only, not DSNet'):
    quick(dsnet.get_config(), compare='keras')
  with pytest.raises(BenchmarkError, match='not this TimNet'):
    quick(small(), compare='torch')
  workload = Workload.create(small())
  with pytest.raises(BenchmarkError, match='has no --compare=torch: give'):
    measurements.folds(workload, [1], QUICK, compare='torch')


def test_shapes_and_batches_are_those_of_the_recipes():
  shape, size = workload_lib.feature_shape, workload_lib.usual_batch_size
  assert shape(timnet.get_config('corpus=emodb')) == (188, 128)
  assert shape(timnet.get_config('corpus=iemocap')) == (606, 128)
  assert shape(dsnet.get_config('size=paper')) == (600, 80)
  assert shape(emosphere.get_config('encoder=wavlm')) == (192_000,)
  with pytest.raises(BenchmarkError, match='augmentation is not timed'):
    Workload.create(timnet.get_config('augment'))
  with pytest.raises(BenchmarkError, match="'mfcc' has no known shape"):
    shape(ConfigDict({'features': {'name': 'mfcc'}}))
  assert size(timnet.get_config()) == 64
  assert size(small(batch_size=8)) == 8
  assert size(dsnet.get_config('size=paper')) == 32
  config = timnet.get_config('corpus=emodb')
  config.batch_size = 16
  assert size(config) == 16


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (0, 4), (128, 8), (1, 1)])
def test_micro_batches_of_wavlm_are_the_recipes(size, parts):
  """--batch_size=16 is one batch of 16 x 12 s; nothing of it is computed."""
  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  workload = Workload.create(config, size, 3)
  stack = programs.Stack(workload, jax.devices()[:1])
  size = size or 64
  assert (stack.parts, stack.rows) == (parts, size)
  # Each of two devices has as many micro-batches, and as large.
  both = programs.Stack(workload, jax.devices()[:2], size=2 * size)
  assert (both.parts, both.rows) == (parts, 2 * size)
  cut = 'one batch' if parts == 1 else f'{parts} micro-batches of 16'
  assert workload.describe('per call') == (
    f'{size} utterances of 12 s (192000 samples) per call in {cut}'
  )


def test_a_phase_that_is_not_all_of_training_is_named():
  for argument, text in (('', ', in phase main'), ('region_weight=off', '')):
    workload = Workload.create(emosphere.get_config(argument), 1, 3)
    assert workload.in_phase() == text


def test_flops_of_matmuls_and_convolutions():
  x, kernel = jnp.ones((2, 10, 3)), jnp.ones((4, 3, 5))
  found = costs.count_flops(lambda a: a @ jnp.ones((3, 7)), x)
  assert found == 2 * 2 * 10 * 3 * 7

  def convolve(x, kernel, groups=1):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2,),
      'VALID',
      dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=groups,
    )

  # Four outputs of four taps over three channels, five filters, two rows.
  assert costs.count_flops(convolve, x, kernel) == 2 * 2 * 4 * 5 * 4 * 3
  grouped = jnp.ones((4, 1, 6))
  found = costs.count_flops(lambda x, k: convolve(x, k, 3), x, grouped)
  assert found == 2 * 2 * 4 * 6 * 4


def test_flops_of_loops_branches_and_rematerialisation():
  w = jnp.ones((8, 8))
  once = 2 * 8**3

  def scanned(x):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)[0]

  def branched(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

  def loss(x, w):
    return jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ w))(x))

  assert costs.count_flops(jax.jit(scanned), w) == 7 * once
  assert costs.count_flops(branched, w) == 2 * once
  # Forward, again, and one product for the gradient of x.
  assert costs.count_flops(jax.grad(loss), w, w) == 3 * once


@pytest.mark.parametrize('size', ['tiny', 'large'])
def test_flops_of_wavlm_agree_with_its_formula(size):
  config = SIZES[size]
  model = WavLM(config)
  samples = jax.ShapeDtypeStruct((1, 16_000), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), samples)
  found = costs.count_flops(model.apply, variables, samples)
  assert found == pytest.approx(sum(config.flops(16_000).values()), rel=0.01)


@pytest.mark.slow
def test_memory_and_flops_of_a_step():
  stack = programs.Stack(Workload.create(small(), 8), jax.devices()[:1])
  train, predict = (stack.program([w]) for w in measurements.WORKS)
  # Stem and two convolutions of width 2 each way (channels padded to 40), the
  # cosine transform, the weighted scales and the head.
  wide = 2 * 8 * 16 * (39 * 40 + 2 * 2 * 40 * 40 + 128 * 39)
  assert predict.flops == pytest.approx(2 * wide, rel=0.5)
  assert train.flops > 2 * predict.flops
  memory = train.memory
  assert memory['arguments'] > 8 * 16 * 128 * 4
  assert memory['peak'] >= memory['arguments'] + memory['temporary']
  assert np.isfinite(train.bytes_accessed)
