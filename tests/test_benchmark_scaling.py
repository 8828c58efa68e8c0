"""Scaling over devices and folds, and time waiting for data."""

import jax
import pytest

from configs import dsnet, timnet
from jaxser.benchmark import (
  into,
  keras_network,
  modes,
  scaling,
  tables,
  waiting,
)
from jaxser.benchmark.timing import BenchmarkError
from jaxser.data import opening
from tests import fakes

pytestmark = pytest.mark.slow


def small():
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 12
  return config


def test_each_device_brings_its_own_work():
  report = scaling.devices(
    small(), [1, 2], batch_size=4, rounds=2, seconds=0, with_ceilings=False
  )
  one, two = report['rows']
  assert (one['devices'], two['devices']) == (1, 2)
  assert two['flop_per_call'] == pytest.approx(2 * one['flop_per_call'])
  assert one['efficiency'] == 1
  assert two['efficiency'] == pytest.approx(
    two['utterances_per_second'] / one['utterances_per_second']
  )
  text = tables.scaling(report)
  assert 'steps of 4 utterances of 12 x 128 per device in one batch' in text
  assert 'share the same cores' in text


def test_more_devices_than_there_are():
  with pytest.raises(BenchmarkError, match='there are 8 devices, not 16'):
    scaling.devices(small(), [1, 16])


@pytest.fixture
def one_device(monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: jax.local_devices()[:1])
  monkeypatch.setattr(jax, 'device_count', lambda: 1)


def test_folds_in_one_program(one_device):
  report = scaling.folds(
    small(), [1, 2], rounds=2, seconds=0, utterances=20, with_ceilings=False
  )
  one, two = report['rows']
  # Twice the trainings: twice the utterances of an epoch, the corpus once.
  ratio = two['utterances_per_second'] * two['milliseconds_per_call']
  ratio /= one['utterances_per_second'] * one['milliseconds_per_call']
  assert ratio == pytest.approx(2)
  text = tables.scaling(report)
  assert 'one epoch of 20 utterances' in text
  assert two['flop_per_call'] == pytest.approx(2 * one['flop_per_call'])
  seconds = report['epochs'] * two['milliseconds_per_call'] / 1e3
  assert (
    f'2 trainings of {report["epochs"]} epochs take {seconds:.0f} s in jaxser'
    in text
  )
  assert ('Ceilings measured' in text) == bool(report['ceilings'])


class FakeKeras:
  """Notes what it is to train on."""

  def __init__(self):
    self.calls = []

  def fit(self, x, y, *, batch_size, epochs, validation_data, verbose):
    sizes = len(x), len(y), len(validation_data[0]), len(validation_data[1])
    self.calls.append((*sizes, batch_size, epochs))


def test_an_epoch_of_a_fold_in_keras_takes_turns(one_device, monkeypatch):
  model = FakeKeras()
  monkeypatch.setattr(keras_network, 'build', lambda system, frames: model)
  report = scaling.folds(
    small(),
    [1, 2],
    rounds=3,
    seconds=0,
    with_ceilings=False,
    utterances=25,
    compare='keras',
  )
  # To compile, to warm up, to be timed, and the three rounds.
  assert model.calls == [(23, 23, 2, 2, 64, 1)] * 6
  (keras,) = report['others']
  assert len(keras['seconds_per_call']) == 3
  # Both by the same rule: all epochs of both trainings, which Keras trains one
  # after the other.
  epochs = report['epochs']
  found = report['extrapolation']
  assert (found['trainings'], found['epochs']) == (2, epochs)
  seconds = {
    'jaxser': epochs * report['rows'][-1]['milliseconds_per_call'] / 1e3,
    'Keras': 2 * epochs * keras['milliseconds_per_call'] / 1e3,
  }
  assert found['seconds'] == pytest.approx(seconds)
  two = report['ratios'][-1]
  assert two['folds'] == 2
  assert two['best'] == pytest.approx(
    2
    * min(keras['seconds_per_call'])
    / min(report['rows'][-1]['seconds_per_call'])
  )
  text = tables.scaling(report)
  take = (
    f'2 trainings of {epochs} epochs take {seconds["Keras"]:.0f} s in Keras'
  )
  assert take in text
  assert f'2 at once: {two["median"]:.2f} times as fast as' in text
  made = into.render(modes.FOLDS, report, ['--compare=keras']).splitlines()
  rows = [line.strip('| ').split(' | ') for line in made if line[:1] == '|']
  assert rows[0][-1] == 'against Keras'
  assert [row[0] for row in rows[2:]] == ['jaxser, 1', 'jaxser, 2', 'Keras, 1']
  assert rows[3][-1] == f'{two["median"]:.2f} times as fast'
  assert rows[4][-1] == '—'
  assert f'{seconds["Keras"] / 3600:.2f} h in Keras' in '\n'.join(made)


def test_keras_itself_trains_a_fold(one_device):
  pytest.importorskip('keras', reason='Keras is in jaxser[test]')
  report = scaling.folds(
    small(),
    [1],
    rounds=1,
    seconds=0,
    with_ceilings=False,
    utterances=20,
    compare='keras',
  )
  assert report['extrapolation']['seconds']['Keras'] > 0


def test_folds_are_compared_with_timnet_in_keras_only():
  with pytest.raises(BenchmarkError, match='has no --compare=torch: give'):
    scaling.folds(small(), [1], compare='torch')
  with pytest.raises(BenchmarkError, match='has TIM-Net only, not DSNet'):
    scaling.folds(dsnet.get_config(), [1], compare='keras')


def test_waiting_for_a_corpus(monkeypatch, tmp_path):
  asked = []

  def opened(config):
    asked.append(config.data_dir)
    return fakes.corpus()

  monkeypatch.setattr(opening, 'open_corpus', opened)
  config = small()
  config.batch_size = 4
  found = waiting.run(config, str(tmp_path), steps=5)
  assert asked == [str(tmp_path)]
  assert found['steps'] == 5
  assert 0 <= found['share_waiting'] < 1
  assert found['pipeline_milliseconds'] > 0
  text = tables.waiting(found)
  assert text.startswith('Time waiting for data (fake, 5 steps)')
