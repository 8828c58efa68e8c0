"""Timing in turns, what is measured of which recipe, costs of programs."""

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
from jaxser.benchmark.timing import (
  BenchmarkError,
  Counters,
  Program,
  Settings,
  Turn,
)
from jaxser.engine import opening
from tests import fakes

QUICK = Settings(rounds=2, seconds=0, peaks=False)


def small(**changes):
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  config.update(changes)
  return config


def quick(config, size=8, **options):
  experiment = programs.create(config, size)
  return measurements.speed(experiment, QUICK, with_latency=False, **options)


def program(maker, **costs):
  return Program(maker, 'training', 64, len, costs=costs)


def report_of(rows, **more):
  environment = machine.environment()
  return {
    'about': 'it',
    'environment': environment,
    'rounds': 3,
    'rows': rows,
    'notes': ['a note'],
    **more,
  }


def test_turns_beside_other_work_are_repeated_then_left_out(monkeypatch):
  now, own, others = 0.0, 0.0, 0.0
  # Of both programs: a quiet round, one that is quiet at the third try, and one
  # that never is.
  foreign = iter([0, 0, 0.9, 0.5, 0, 0.05, 0, 0.9, 0.9, 0.3])

  def takes(seconds):
    calls_before = iter([True, True])

    def run(calls):
      nonlocal now, own, others
      if not next(calls_before, False):
        now, own = now + seconds * calls, own + 2 * seconds * calls
        others += seconds * calls * next(foreign)

    return Program('some', 'training', 64, run)

  monkeypatch.setattr(
    timing, 'read_counters', lambda: Counters(now, own, own + others)
  )
  made = [takes(1), takes(3)]
  ours, keras = timing.measure(made, Settings(3, 0))
  assert [turn.quiet for turn in ours] == [True, True, True]
  assert [turn.quiet for turn in keras] == [True, True, False]
  assert keras[2].foreign == pytest.approx(0.3, abs=0.02)
  assert timing.ratio(ours, keras) == '3.00 times as fast'
  turns = timing.row(made[1], keras)['turns']
  assert (turns['loud'], turns['quiet'], len(turns['every'])) == (1, True, 3)


def test_too_few_quiet_turns_give_no_ratio():
  ours, keras = [Turn(1, 2)] * 3, [Turn(3, 2), *[Turn(3, 2, 0.9)] * 2]
  assert timing.ratio(ours, keras) == 'not known, 1 quiet rounds'
  rows = [timing.row(program('some'), turns) for turns in (ours, keras)]
  notes = ' '.join(tables.table(report_of(rows)).notes)
  assert '2 of 6 turns ran beside more than 0.1 cores' in notes
  assert 'Too few quiet turns' in notes


def test_short_turns_and_silent_kernels_tell_nothing_of_others():
  start, end = Counters(0, 0, 0), Counters(0.1, 0.1, 0.2)
  assert timing.turn_between(start, end, 1) == Turn(0.1, 0.1, None)
  end = Counters(2, 1, 1.52)
  assert timing.turn_between(start, end, 4) == Turn(0.5, 0.25, 0.25)
  assert timing.turn_between(start, end._replace(machine=None), 1).quiet


def test_a_table_of_medians_shares_and_ratios():
  # The machine was twice as slow in the second round.
  ours = [Turn(1, 2), Turn(2, 2), Turn(1, 2)]
  keras = [Turn(3, 4), Turn(6, 4), Turn(2, 5)]
  peaks = {'flops': {'float32': 8e9}, 'bytes': 1e9}
  rows = [
    {'program': 'jaxser', **timing.row(program('a', flop=2e9), ours, peaks)},
    {'program': 'Keras', **timing.row(program('b'), keras, peaks)},
  ]
  rows[1]['jaxser is'] = timing.ratio(ours, keras)
  table = tables.table(report_of(rows, peaks=peaks))
  header, *cells = table.cells()
  first, second = (dict(zip(header, row, strict=True)) for row in cells)
  assert first['utterances/s'] == '64'
  assert first['% of the measured peak'] == '25'
  assert second['% of the measured peak'] == first['jaxser is'] == '-'
  assert second['jaxser is'] == '3.00 times as fast'
  assert 'GB/s' not in header  # Nothing is known of it.
  assert '| 25 | — |' in table.markdown()
  assert 'a note' in table.notes
  assert (
    'Peaks measured beside it: 8.0 GFLOP/s float32; 1.0 GB/s.' in table.notes
  )


@pytest.mark.slow
def test_measuring_one_work_with_peaks_and_latency(monkeypatch):
  monkeypatch.setattr(machine, 'SIZES', {'cpu': (64, 1, 1)})
  found = measurements.speed(
    programs.create(small(), 8),
    QUICK._replace(peaks=True),
    works=['prediction'],
  )
  (row,), peaks = found['rows'], found['peaks']
  assert row['program'] == 'jaxser prediction float32'
  assert all(value > 0 for value in peaks['flops'].values())
  assert row['% of the measured bandwidth'] == pytest.approx(
    1e11 * row['GB/s'] / peaks['bytes']
  )
  assert 'One utterance, prediction float32' in found['notes'][0]


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_padding_for_devices_is_not_counted(parallel):
  found = quick(small(parallel=parallel, accumulate=4), 6, works=['training'])
  (row,) = found['rows']
  assert row['utterances/s'] == pytest.approx(6e3 / row['ms per call'])
  # A quarter of 64 is 16.
  about = 'timnet, 6 utterances of 16 x 128 per call in one batch'
  assert found['about'] == about


@pytest.mark.slow
def test_types_of_matmuls():
  config = dsnet.get_config('variant=encoder')
  config.model.update(channels=(4,), embedding=4, max_frames=16)
  config.data.max_length = 16
  found = quick(config, dtypes=['bfloat16'], works=['prediction'])
  (row,) = found['rows']
  assert row['program'] == 'jaxser prediction bfloat16'
  with pytest.raises(BenchmarkError, match='TimNet computes in float32'):
    quick(small(), dtypes=['bfloat16'])
  with pytest.raises(BenchmarkError, match='computes in float32 or bfloat16'):
    quick(config, dtypes=['float16'])


@pytest.mark.slow
def test_each_device_brings_its_own_work():
  experiment = programs.create(small(), 4)
  found = measurements.devices(experiment, [1, 2], QUICK)
  one, two = found['rows']
  assert two['costs']['flop'] == pytest.approx(2 * one['costs']['flop'])
  assert (one['devices'], one['efficiency, %']) == ('1', 100.0)
  speeds = two['utterances/s'] / one['utterances/s']
  assert two['efficiency, %'] == pytest.approx(100 * speeds)
  assert 'steps of 4 utterances of 16 x 128 per device in one' in found['about']
  assert 'share the same cores' in found['notes'][0]
  with pytest.raises(BenchmarkError, match='there are 8 devices, not 16'):
    measurements.devices(experiment, [1, 16], QUICK)


@pytest.mark.slow
def test_runs_in_one_program_beside_a_fold_in_keras(monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: jax.local_devices()[:1])
  fitted = []

  class Keras:
    def fit(self, x, y, *, batch_size, epochs, validation_data, verbose):
      sizes = map(len, (x, y, *validation_data))
      fitted.append((*sizes, batch_size, epochs))

  monkeypatch.setattr(peers, 'keras_timnet', lambda system, frames: Keras())
  experiment = programs.create(small(), 8, utterances=25)
  found = measurements.folds(experiment, [1, 2], QUICK, 'keras')
  # To compile, to warm up, to be timed, and the two rounds.
  assert fitted == [(21, 21, 4, 4, 8, 1)] * 5
  one, two, keras = found['rows']
  assert two['costs']['flop'] == pytest.approx(2 * one['costs']['flop'])
  names = [row['folds'] for row in found['rows']]
  assert names == ['jaxser, 1', 'jaxser, 2', 'Keras, 1']
  # All epochs of both runs, which Keras trains one after the other.
  epochs = experiment.config.epochs / 3.6e6
  assert found['hours'] == {
    'jaxser': pytest.approx(epochs * two['ms per call']),
    'Keras': pytest.approx(2 * epochs * keras['ms per call']),
  }
  assert two['against Keras'].endswith(' times as fast')
  assert 'against Keras' not in keras
  assert 'one epoch of 25 utterances of 16 x 128' in found['about']
  assert (
    f'2 runs of {experiment.config.epochs} epochs take' in found['notes'][1]
  )


@pytest.mark.slow
def test_waiting_for_a_corpus(monkeypatch, tmp_path):
  asked = []

  def opened(config):
    asked.append(config.data_dir)
    return fakes.corpus()

  monkeypatch.setattr(opening, 'open_corpus', opened)
  found = programs.waiting(small(batch_size=4), str(tmp_path), steps=3)
  assert asked == [str(tmp_path)]
  assert 'waiting for data (fake, 3 steps): ' in found
  assert ' ms with the pipeline, which alone takes ' in found


def test_only_networks_that_are_there_are_compared():
  with pytest.raises(BenchmarkError, match='has TIM-Net only, not DSNet'):
    quick(dsnet.get_config(), compare='keras')
  with pytest.raises(BenchmarkError, match='not this TimNet'):
    quick(small(), compare='torch')
  with pytest.raises(BenchmarkError, match='has no --compare=torch: give'):
    peers.epochs('torch', programs.create(small()))


def test_shapes_and_batches_are_those_of_the_recipes():
  shape, size = programs.feature_shape, programs.usual_batch_size
  assert shape(timnet.get_config('corpus=emodb')) == (188, 128)
  assert shape(timnet.get_config('corpus=iemocap')) == (606, 128)
  assert shape(dsnet.get_config('size=paper')) == (600, 80)
  assert shape(emosphere.get_config('encoder=wavlm')) == (192_000,)
  with pytest.raises(BenchmarkError, match='augmentation is not timed'):
    programs.create(timnet.get_config('augment'))
  with pytest.raises(BenchmarkError, match="'mfcc' has no known shape"):
    shape(ConfigDict({'features': {'name': 'mfcc'}}))
  assert size(timnet.get_config()) == 64
  assert size(small(batch_size=8)) == 8
  config = timnet.get_config('corpus=emodb')
  config.batch_size = 16
  assert size(config) == 16


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (0, 4), (128, 8), (1, 1)])
def test_micro_batches_of_wavlm_are_the_recipes(size, parts):
  """--batch_size=16 is one batch of 16 x 12 s; nothing of it is computed."""
  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  experiment = programs.create(config, size, 3)
  size = size or 64
  for count in (1, 2):
    # Each of two devices has as many micro-batches, and as large.
    both = programs.changed(experiment, batch_size=count * size)
    trainer = programs.Case(both, jax.devices()[:count]).trainer
    assert trainer.programs.accumulate == parts
    assert trainer.rows == count * size
  cut = 'one batch' if parts == 1 else f'{parts} micro-batches of 16'
  assert programs.describe(experiment, 'per call') == (
    f'{size} utterances of 12 s (192000 samples) per call in {cut}'
  )


@pytest.mark.parametrize('work', programs.WORKS)
def test_batches_larger_than_the_corpus_are_full(work):
  experiment = programs.create(small(), 70, utterances=50)
  batch = programs.Case(experiment)._batch(work)
  assert batch['mask'].shape[-1] == 72  # For eight devices.
  assert batch['mask'].sum() == 70


@pytest.mark.parametrize(
  ('argument', 'text'), [('', ', in phase main'), ('region_weight=off', '')]
)
def test_a_phase_that_is_not_all_of_training_is_named(argument, text):
  experiment = programs.create(emosphere.get_config(argument), 1, 3)
  assert programs.in_phase(experiment) == text


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


@pytest.mark.slow
def test_memory_and_flops_of_a_step():
  case = programs.Case(programs.create(small(), 8), jax.devices()[:1])
  train, predict = (case.program(work).costs for work in programs.WORKS)
  # Stem and two convolutions of width 2 each way (channels padded to 40), the
  # cosine transform, the weighted scales and the head.
  wide = 2 * 8 * 16 * (39 * 40 + 2 * 2 * 40 * 40 + 128 * 39)
  assert predict['flop'] == pytest.approx(2 * wide, rel=0.5)
  assert train['flop'] > 2 * predict['flop']
  memory = train['memory_bytes']
  assert memory['arguments'] > 8 * 16 * 128 * 4
  assert memory['peak'] >= memory['arguments'] + memory['temporary']
  assert np.isfinite(train['bytes'])
