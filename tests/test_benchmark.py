"""Timing in turns, what is measured of which recipe, costs, other libraries."""

import dataclasses
import shutil
import sys

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


def small_dsnet(argument=''):
  config = dsnet.get_config(argument)
  config.model.update(channels=(4, 4), embedding=8, max_frames=16)
  config.data.max_length = 16
  return config


def quick(config, size=8, **options):
  experiment = programs.create(config, size)
  return measurements.speed(experiment, QUICK, with_latency=False, **options)


def row(turns, peaks=None, **costs):
  program = Program('some', 'training', 64, len, costs=costs)
  return timing.row(program, turns, peaks)


def table_of(rows, **more):
  about = {'about': 'it', 'environment': machine.environment(), 'rounds': 3}
  return tables.table({**about, 'rows': rows, 'notes': ['a note'], **more})


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
  notes = ' '.join(table_of([row(ours), row(keras)]).notes)
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
  rows = [row(ours, peaks, flop=2e9), row(keras, peaks)]
  rows[1]['jaxser is'] = timing.ratio(ours, keras)
  table = table_of(rows, peaks=peaks)
  header, *cells = table.cells()
  first, second = (dict(zip(header, its, strict=True)) for its in cells)
  assert first['utterances/s'] == '64'
  assert first['% of the measured peak'] == '25'
  assert second['% of the measured peak'] == first['jaxser is'] == '-'
  assert second['jaxser is'] == '3.00 times as fast'
  assert 'GB/s' not in header  # Nothing is known of it.
  assert '| 25 | — |' in table.markdown()
  peaks = 'Peaks measured beside it: 8.0 GFLOP/s float32; 1.0 GB/s.'
  assert {'a note', peaks} <= {*table.notes}


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
  config = small_dsnet('variant=encoder')
  found = quick(config, dtypes=['bfloat16'], works=['prediction'])
  (row,) = found['rows']
  assert row['program'] == 'jaxser prediction bfloat16'


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


def test_what_cannot_be_compared_or_timed_says_so():
  tcn, shape = small(), programs.feature_shape
  tcn.model.ablation = 'tcn'
  for measure, message in (
    (
      lambda: quick(dsnet.get_config(), compare='keras'),
      'TIM-Net only, not DS',
    ),
    (lambda: quick(tcn, compare='keras'), "ablation='tcn' has no Keras model"),
    (lambda: quick(small(), compare='torch'), 'not this TimNet'),
    (lambda: peers.epochs('torch', None), 'has no --compare=torch: give'),
    (lambda: quick(small(), dtypes=['bfloat16']), 'TimNet computes in float32'),
    (
      lambda: quick(dsnet.get_config(), dtypes=['float16']),
      'computes in float32 or bfloat16',
    ),
    (
      lambda: quick(timnet.get_config('augment')),
      'augmentation is not timed',
    ),
    (
      lambda: shape(ConfigDict({'features': {'name': 'mfcc'}})),
      "'mfcc' has no known shape",
    ),
    (
      lambda: measurements.devices(programs.create(small()), [1, 16], QUICK),
      'there are 8 devices, not 16',
    ),
  ):
    with pytest.raises(BenchmarkError, match=message):
      measure()


def test_shapes_and_batches_are_those_of_the_recipes():
  shape, size = programs.feature_shape, programs.usual_batch_size
  assert shape(timnet.get_config('corpus=emodb')) == (188, 128)
  assert shape(timnet.get_config('corpus=iemocap')) == (606, 128)
  assert shape(dsnet.get_config('size=paper')) == (600, 80)
  assert shape(emosphere.get_config('encoder=wavlm')) == (192_000,)
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


def convolve(x, kernel, groups=1):
  options = {'dimension_numbers': ('NWC', 'WIO', 'NWC')}
  options |= {'feature_group_count': groups}
  return jax.lax.conv_general_dilated(x, kernel, (2,), 'VALID', **options)


def scanned(x):
  return jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0]


def branched(x):
  return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)


def remade(x, w):
  return jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ w))(x))


def test_flops_of_convolutions_loops_branches_and_rematerialisation():
  x, w, once = jnp.ones((2, 10, 3)), jnp.ones((8, 8)), 2 * 8**3
  for wanted, function, *arguments in (
    (2 * 2 * 10 * 3 * 7, jnp.matmul, x, jnp.ones((3, 7))),
    # Four outputs of four taps over three channels, five filters, two rows.
    (2 * 2 * 4 * 5 * 4 * 3, convolve, x, jnp.ones((4, 3, 5))),
    (2 * 2 * 4 * 6 * 4, lambda *a: convolve(*a, 3), x, jnp.ones((4, 1, 6))),
    (7 * once, jax.jit(scanned), w),
    (2 * once, branched, w),
    # Forward, again, and one product for the gradient of x.
    (3 * once, jax.grad(remade), w, w),
  ):
    assert costs.count_flops(function, *arguments) == wanted


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


# Networks in PyTorch.


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='PyTorch is in jaxser[parity]')


@pytest.mark.slow
def test_dsnet_takes_turns_with_pytorch(torch, monkeypatch):
  # torch.compile takes half a minute here; that it is left out is said.
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  report = quick(small_dsnet(), compare='torch')
  compared = [r['program'] for r in report['rows'] if 'jaxser is' in r]
  assert compared == [
    'PyTorch eager training float32',
    'PyTorch eager prediction float32',
  ]
  assert report['notes'][1].startswith(
    'torch.compile is left out: it needs g++'
  )


def test_missing_pytorch_is_explained(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  monkeypatch.delitem(sys.modules, 'jaxser.benchmark.peers_torch', False)
  monkeypatch.delattr('jaxser.benchmark.peers_torch', raising=False)
  experiment = programs.create(dsnet.get_config(), 2)
  with pytest.raises(BenchmarkError, match=r"pip install -e '\.\[parity\]'"):
    peers.steps('torch', experiment, ['float32'], ['training'])


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (64, 4)])
def test_pytorch_cuts_batches_as_ours_does(torch, monkeypatch, size, parts):
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  weight, seen = torch.nn.Linear(1, 1), []

  def loss_of(rows):
    seen.append(rows)
    return weight(torch.ones(1)).sum()

  made = weight.parameters(), loss_of, None, weight.train
  monkeypatch.setattr(peers_torch, '_wavlm', lambda *arguments: made)
  experiment = programs.create(config, size)
  calls = peers_torch.build(experiment, 'float32', 'cpu', compiled=False)
  calls['training']()
  assert seen == [slice(part, None, parts) for part in range(parts)]


@pytest.mark.slow
def test_wavlm_of_transformers_trains(torch):
  pytest.importorskip('transformers', reason='transformers: jaxser[parity]')
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=tiny')
  config.update(batch_size=4, accumulate=2)
  config.data.max_length = 16_000
  experiment = programs.create(config, 4)
  system = dataclasses.replace(experiment.system, remat=True)
  experiment = dataclasses.replace(experiment, system=system)
  calls = peers_torch.build(experiment, 'float32', 'cpu', compiled=False)
  before = calls['prediction']().numpy().copy()
  for _ in range(3):
    calls['training']()
  after = calls['prediction']().numpy()
  assert before.shape == (4, 3)
  assert np.all(np.isfinite(after))
  assert np.abs(after - before).max() > 1e-6
