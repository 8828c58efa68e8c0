"""Scaling over devices and folds, and time waiting for data."""

import jax
import pytest

from configs import timnet
from jaxser.benchmark import scaling, tables, waiting
from jaxser.benchmark.timing import BenchmarkError
from jaxser.data import opening
from tests import fakes


def small():
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 12
  return config


def test_each_device_brings_its_own_work():
  report = scaling.devices(small(), [1, 2], batch_size=4, rounds=2, seconds=0)
  one, two = report['rows']
  assert (one['devices'], two['devices']) == (1, 2)
  assert two['flop_per_call'] == pytest.approx(2 * one['flop_per_call'])
  assert one['efficiency'] == 1
  assert two['efficiency'] == pytest.approx(
    two['utterances_per_second'] / one['utterances_per_second']
  )
  text = tables.scaling(report)
  assert '4 utterances of 12 x 128 per device and step' in text
  assert 'share the same cores' in text


def test_more_devices_than_there_are():
  with pytest.raises(BenchmarkError, match='there are 8 devices, not 16'):
    scaling.devices(small(), [1, 16])


def test_folds_in_one_program(monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: jax.local_devices()[:1])
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
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
    f'2 trainings of {report["epochs"]} epochs take {seconds:.0f} s' in text
  )
  assert ('Ceilings measured' in text) == bool(report['ceilings'])


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
