import json
import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

from configs import dsnet, emosphere, timnet
from jaxser.benchmark import (
  ceilings,
  into,
  modes,
  programs,
  speed,
  tables,
  timing,
  workload,
)
from jaxser.benchmark.timing import BenchmarkError, Program, Turn
from jaxser.systems import registry

# jaxser.benchmark where neither TensorFlow nor Keras nor PyTorch is there.
_WITHOUT_LIBRARIES = """
import runpy, sys
for name in ('tensorflow', 'tensorflow_datasets', 'keras', 'librosa', 'torch'):
  sys.modules[name] = None
runpy.run_module('jaxser.benchmark', run_name='__main__')
"""


def small(**changes):
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  config.update(changes)
  return config


def quick(config, **changes):
  settings = {
    'batch_size': 8,
    'rounds': 2,
    'seconds': 0,
    'with_ceilings': False,
    'with_latency': False,
  }
  return speed.run(config, **{**settings, **changes})


def run_program(*arguments):
  return subprocess.run(
    [sys.executable, '-c', _WITHOUT_LIBRARIES, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_command_without_other_libraries(tmp_path):
  path, page = tmp_path / 'speed.json', tmp_path / 'page.md'
  page.write_text('<!-- t --><!-- /t -->', 'utf-8')
  done = run_program(
    '--config=configs/timnet.py',
    '--config.model.num_blocks=1',
    '--batch_size=8',
    '--rounds=3',
    '--seconds=0',
    '--noceilings',
    '--nolatency',
    f'--json={path}',
    f'--into={page}#t',
  )
  assert done.returncode == 0, done.stderr
  assert '| jaxser training float32 | ' in page.read_text('utf-8')
  assert 'timnet, 8 utterances of 188 x 128 per call in one batch, on' in (
    done.stdout
  )
  assert 'waiting for data: not measured; give --data_dir' in done.stdout
  report = json.loads(path.read_text())
  assert report['feature_shape'] == [188, 128]
  assert report['environment']['platform'] == 'cpu'
  training = report['programs']['jaxser training float32']
  prediction = report['programs']['jaxser prediction float32']
  assert training['compile_seconds'] > 0
  assert len(training['seconds_per_call']) == 3
  # Stem and two convolutions of width 2 each way (channels padded to 40), the
  # cosine transform, the weighted scales and the head.
  frames = 8 * 188
  wide = 2 * frames * (39 * 40 + 2 * 2 * 40 * 40 + 128 * 39)
  assert prediction['flop_per_call'] == pytest.approx(2 * wide, rel=0.5)
  assert training['flop_per_call'] > 2 * prediction['flop_per_call']
  memory = training['memory_bytes']
  assert memory['temporary'] > 0
  # Each of the eight devices holds one utterance.
  assert memory['arguments'] > 188 * 128 * 4
  assert memory['peak'] >= memory['arguments'] + memory['temporary']


def test_shares_of_ceilings_and_latency(monkeypatch):
  monkeypatch.setattr(ceilings, '_SIDE', {'cpu': 64})
  monkeypatch.setattr(ceilings, '_MEBIBYTES', {'cpu': 1})
  report = speed.run(
    small(), batch_size=8, rounds=2, seconds=0, with_ceilings=True
  )
  found = report['ceilings']
  for name in ('float32', 'float32_highest', 'bfloat16'):
    assert found['flops_per_second'][name] > 0
  for row in report['programs'].values():
    assert row['share_of_matrix_peak'] == pytest.approx(
      row['flop_per_second'] / found['flops_per_second']['float32']
    )
    assert row['share_of_bandwidth'] == pytest.approx(
      row['bytes_per_second'] / found['bytes_per_second']
    )
  for work in ('training', 'prediction'):
    delay = report['latency'][f'{work} float32']
    assert delay['first_milliseconds'] > delay['median_milliseconds'] > 0
  text = tables.speed(report)
  assert 'Ceilings measured beside it' in text
  assert 'prediction float32, one utterance' in text


def test_a_missing_library_is_explained_in_one_line():
  done = run_program('--config=configs/timnet.py', '--compare=keras')
  assert done.returncode == 2
  assert "pip install 'jaxser[test]'" in done.stderr
  assert 'Traceback' not in done.stderr


def test_only_networks_that_are_there_are_compared():
  config = dsnet.get_config()
  config.model.channels = (4, 4)
  config.data.max_length = 32
  with pytest.raises(BenchmarkError, match='has TIM-Net only, not DSNet'):
    quick(config, compare='keras')
  config = small()
  with pytest.raises(BenchmarkError, match='not this TimNet'):
    quick(config, compare='torch')
  config.model.ablation = 'tcn'
  with pytest.raises(BenchmarkError, match="ablation='tcn' has no Keras model"):
    quick(config, compare='keras')


def test_types_of_products():
  config = dsnet.get_config('variant=encoder')
  config.model.update(channels=(4,), embedding=4, max_frames=16)
  config.data.max_length = 16
  report = quick(config, dtypes=['bfloat16'])
  assert list(report['programs']) == [
    'jaxser training bfloat16',
    'jaxser prediction bfloat16',
  ]
  with pytest.raises(BenchmarkError, match='TimNet computes in float32'):
    quick(small(), dtypes=['bfloat16'])


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_padding_for_devices_is_not_counted(parallel):
  report = quick(small(parallel=parallel), batch_size=6)
  training = report['programs']['jaxser training float32']
  middle = training['milliseconds_per_call'] / 1e3
  assert training['utterances_per_second'] == pytest.approx(6 / middle)


def test_programs_take_turns():
  log = []
  made = [
    Program(
      name, '', 1, 0.0, lambda calls, name=name: log.append((name, calls))
    )
    for name in ('a', 'b')
  ]
  times = timing.measure(made, rounds=3, seconds=0)
  assert [name for name, _ in log[4:]] == ['a', 'b'] * 3
  assert {name: len(turns) for name, turns in times.items()} == {
    'a float32': 3,
    'b float32': 3,
  }


def test_ratios_compare_turns_of_one_round():
  made = [
    Program('jaxser', 'training', 64, 1.0, run=len, flops=2e9),
    Program('Keras', 'training', 64, 1.0, run=len),
    # Of another type: no ratio.
    Program('PyTorch', 'training', 64, 1.0, run=len, dtype='bfloat16'),
  ]
  times = {
    # The machine was twice as slow in the second round.
    'jaxser training float32': [Turn(1, 2), Turn(2, 2), Turn(1, 2)],
    'Keras training float32': [Turn(3, 4), Turn(6, 4), Turn(2, 5)],
    'PyTorch training bfloat16': [Turn(1, 1)] * 3,
  }
  assert timing.ratios(made, times) == [
    {
      'maker': 'Keras',
      'work': 'training',
      'dtype': 'float32',
      'median': 3,
      'best': 2,
      'processor': 2,
    }
  ]
  row = timing.speed(made[0], times[made[0].name], {'float32': 8e9})
  assert row['utterances_per_second'] == 64
  assert row['flop_per_second'] == 2e9
  assert row['share_of_matrix_peak'] == 0.25
  other = timing.speed(made[1], times[made[1].name], {'float32': 8e9})
  assert other['share_of_matrix_peak'] is None
  report = {
    'system': 'timnet',
    'about': '64 utterances of 188 x 128 per call in one batch',
    'environment': speed.environment(),
    'programs': {'jaxser training float32': row, 'Keras': other},
    'ratios': timing.ratios(made, times),
    'latency': {},
    'ceilings': None,
    'peak_device_bytes': None,
    'notes': ['a note'],
    'rounds': 3,
  }
  text = tables.speed(report)
  assert '64 utterances of 188 x 128' in text
  assert 'training float32: 3.00 times as fast as Keras' in text
  assert text.endswith('a note')
  made = into.render(modes.SPEED, report, []).splitlines()
  assert made[0].endswith('| memory, MiB | jaxser is |')
  assert made[2].endswith('| — |')
  assert made[3].startswith('| Keras | ')
  assert made[3].endswith('| 3.00 times as fast |')


def test_shapes_are_those_of_the_recipes():
  shape = workload.feature_shape
  assert shape(timnet.get_config('corpus=emodb')) == (188, 128)
  assert shape(timnet.get_config('corpus=iemocap')) == (606, 128)
  assert shape(dsnet.get_config('size=paper')) == (600, 80)
  assert shape(emosphere.get_config('encoder=wavlm')) == (192_000,)
  unknown = ConfigDict({'features': {'name': 'mfcc'}})
  with pytest.raises(BenchmarkError, match="'mfcc' has no known shape"):
    shape(unknown)


def test_overrides_of_the_batch_are_listened_to():
  usual = workload.usual_batch
  assert usual(timnet.get_config()) == 64
  config = timnet.get_config()
  config.batch_size = 8
  assert usual(config) == 8
  config = timnet.get_config('corpus=emodb')
  assert usual(config) == 64
  config.batch_size = 16
  assert usual(config) == 16
  assert usual(dsnet.get_config('size=paper')) == 32


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (0, 4), (128, 8), (1, 1)])
def test_micro_batches_of_wavlm_are_the_recipes(size, parts):
  """--batch_size=16 is one batch of 16 x 12 s; nothing of it is computed."""
  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  size = size or workload.usual_batch(config)
  shape = workload.feature_shape(config)
  corpus = workload.made_up_corpus(shape, 3)
  system = registry.create(config, corpus)
  setup = programs.Setup.create(
    config, system, corpus, shape, size, jax.devices()[:1]
  )
  assert setup.accumulate == parts
  assert setup.host['features'].shape == (size, 12 * 16_000)
  assert setup.host['mask'].sum() == size
  cut = 'in one batch' if parts == 1 else f'in {parts} micro-batches of 16'
  assert workload.described(size, shape, parts, 'per call') == (
    f'{size} utterances of 12 s (192000 samples) per call {cut}'
  )


def test_the_table_says_what_was_timed():
  report = quick(small(accumulate=4), batch_size=32)
  assert report['accumulate'] == 2
  text = tables.speed(report)
  assert '32 utterances of 16 x 128 per call in 2 micro-batches of 16' in text


def test_a_phase_that_is_not_all_of_training_is_named():
  for argument, text in (('', ', in phase main'), ('region_weight=off', '')):
    config = emosphere.get_config(argument)
    corpus = workload.made_up_corpus((8, 80), 3)
    assert workload.in_phase(config, registry.create(config, corpus)) == text


def test_one_utterance_needs_no_micro_batches():
  config = small(accumulate=4)
  system_shape = workload.feature_shape(config)
  corpus = workload.made_up_corpus(system_shape, 3)
  system = registry.create(config, corpus)
  setup = programs.Setup.create(
    config, system, corpus, system_shape, 1, jax.devices()[:1]
  )
  assert setup.accumulate == 1
  assert setup.host['features'].shape[0] == 1
