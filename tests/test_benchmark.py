import json
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs import dsnet, emosphere, timnet
from jaxser import benchmark, workload
from jaxser.benchmark import BenchmarkError, Program, Turn

# jaxser.benchmark where neither TensorFlow nor Keras can be imported.
_WITHOUT_TENSORFLOW = """
import runpy, sys
for name in ('tensorflow', 'tensorflow_datasets', 'keras', 'librosa'):
  sys.modules[name] = None
runpy.run_module('jaxser.benchmark', run_name='__main__')
"""


def small(**changes):
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  config.update(changes)
  return config


def run_program(*arguments):
  return subprocess.run(
    [sys.executable, '-c', _WITHOUT_TENSORFLOW, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_command_without_tensorflow(tmp_path):
  path = tmp_path / 'speed.json'
  done = run_program(
    '--config=configs/timnet.py',
    '--config.model.num_blocks=1',
    '--batch_size=8',
    '--rounds=3',
    '--seconds=0',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  assert 'timnet, 8 utterances of 188 x 128 per call' in done.stdout
  report = json.loads(path.read_text())
  assert report['feature_shape'] == [188, 128]
  assert report['environment']['platform'] == 'cpu'
  training = report['programs']['jaxser training']
  prediction = report['programs']['jaxser prediction']
  assert training['compile_seconds'] > 0
  assert len(training['seconds_per_call']) == 3
  assert training['gflop_per_call'] > 2 * prediction['gflop_per_call']
  # Stem and two convolutions of width 2 each way, and the cosine transform.
  frames = 8 * 188
  products = 2 * 40 * 40 + 2 * 2 * 2 * 40 * 40
  expected = 2 * frames * (products + 128 * 39) / 1e9
  assert prediction['gflop_per_call'] == pytest.approx(expected, rel=0.05)
  assert training['temporary_mib'] > 0


def test_mistakes_are_explained_in_one_line():
  done = run_program('--config=configs/timnet.py', '--config.model.blocks=1')
  assert done.returncode == 2
  assert 'Did you mean --config.model.num_blocks?' in done.stderr
  done = run_program('--config=configs/timnet.py', '--compare=keras')
  assert done.returncode == 2
  assert "pip install 'jaxser[test]'" in done.stderr
  assert 'Traceback' not in done.stderr


def test_only_timnet_is_compared_with_keras():
  config = dsnet.get_config()
  config.model.channels = (4, 4)
  config.data.max_length = 32
  with pytest.raises(BenchmarkError, match='has TIM-Net only, not DSNet'):
    benchmark.run(config, batch_size=2, compare='keras')


def test_ablations_are_not_compared_with_keras():
  config = small()
  config.model.ablation = 'tcn'
  with pytest.raises(BenchmarkError, match="ablation='tcn' has no Keras model"):
    benchmark.run(config, batch_size=8, compare='keras')


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_padding_for_devices_is_not_counted(parallel):
  report = benchmark.run(
    small(parallel=parallel), batch_size=6, rounds=2, seconds=0
  )
  training = report['programs']['jaxser training']
  middle = training['milliseconds_per_call'] / 1e3
  assert training['utterances_per_second'] == pytest.approx(6 / middle)


def test_programs_take_turns():
  log = []
  programs = [
    Program(name, 1, 0.0, lambda calls, name=name: log.append((name, calls)))
    for name in ('a', 'b')
  ]
  times = benchmark.measure(programs, rounds=3, seconds=0)
  assert [name for name, _ in log[4:]] == ['a', 'b'] * 3
  assert {name: len(turns) for name, turns in times.items()} == {'a': 3, 'b': 3}


def test_ratios_compare_turns_of_one_round():
  programs = [
    Program('jaxser training', 64, 1.0, run=len, flops=2e9),
    Program('Keras training', 64, 1.0, run=len),
  ]
  times = {
    # The machine was twice as slow in the second round.
    'jaxser training': [Turn(1, 2), Turn(2, 2), Turn(1, 2)],
    'Keras training': [Turn(3, 4), Turn(6, 4), Turn(2, 5)],
  }
  report = benchmark.summary(programs, times)
  assert report['ratio_to_keras'] == {
    'training': {'median': 3, 'best': 2, 'processor': 2}
  }
  speeds = report['programs']['jaxser training']
  assert speeds['utterances_per_second'] == 64
  assert speeds['gflop_per_second'] == 2
  assert report['programs']['Keras training']['gflop_per_second'] is None
  table = benchmark.format_table(
    {
      **report,
      'system': 'timnet',
      'batch_size': 64,
      'feature_shape': [188, 128],
      'environment': benchmark.environment(),
    }
  )
  assert '64 utterances of 188 x 128' in table
  assert 'training: 3.00 times as fast as Keras' in table


def test_shapes_are_those_of_the_recipes():
  shape = workload.feature_shape
  assert shape(timnet.get_config('corpus=emodb')) == (188, 128)
  assert shape(timnet.get_config('corpus=iemocap')) == (606, 128)
  assert shape(dsnet.get_config('size=paper')) == (600, 80)
  assert shape(emosphere.get_config('encoder=wavlm')) == (192_000,)
  unknown = ConfigDict({'features': {'name': 'mfcc'}})
  with pytest.raises(workload.WorkloadError, match="'mfcc' has no known shape"):
    shape(unknown)
