"""Compiling for a TPU slice that is not there."""

import importlib.util

import jax
import pytest

from configs import timnet
from jaxser.benchmark import pages, tables, topology
from jaxser.benchmark.timing import BenchmarkError

with_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu (the extra `tpu`)',
)


def small():
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  return config


@with_libtpu
def test_training_step_only_sums_over_chips():
  report = topology.run(small(), ['v5e:2x2'], per_device=8)
  (row,) = report['rows']
  assert (row['chips'], row['hosts']) == (4, 1)
  assert row['fits']
  assert row['chip_bytes'] == 16 * 2**30
  assert list(row['collectives']) == ['all-reduce']
  # The gradients of 13,000 float32 parameters, channels padded to 40, and
  # BatchNorm's moments: no batch, no feature.
  sent = row['collectives']['all-reduce']['bytes']
  assert 4 * 12_000 < sent < 4 * 20_000
  # Each chip holds its rows of the batch, and all of the state.
  batch = 8 * 16 * 128 * 4
  assert row['memory_bytes']['arguments'] > batch
  assert row['memory_bytes']['peak'] < 64 * 2**20
  assert row['estimated_seconds'] >= row['compiler_seconds'] > 0
  text = tables.topology(report)
  assert 'one training step of 8 utterances of 16 x 128 per chip' in text


@with_libtpu
def test_unknown_topology_is_explained():
  with pytest.raises(BenchmarkError, match=r'v9:2x2.*examples are v5e:2x2'):
    topology.devices_of('v9:2x2')


def test_missing_libtpu_names_the_extra(monkeypatch):
  def refuse(**_):
    raise RuntimeError('JAX TPU support not installed')

  monkeypatch.setattr(topology.topologies, 'get_topology_desc', refuse)
  with pytest.raises(BenchmarkError, match=r"pip install 'jaxser\[tpu\]'"):
    topology.devices_of('v5e:2x2')


def test_programs_that_do_not_fit_are_rows_too(monkeypatch):
  message = (
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of '
    '15.75G hbm.'
  )

  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(message)

  class Function:
    def lower(self, x):
      return Lowered()

    def __call__(self, x):
      return x @ x

  x = jax.ShapeDtypeStruct((4, 4), 'float32')
  row = topology.compile_facts(Function(), [x], jax.devices()[:2], 0.0)
  assert not row['fits']
  assert row['memory_bytes']['peak'] == 20.5 * 2**30
  assert row['flop'] == 4**3


def test_chips_by_their_longest_name():
  class Device:
    def __init__(self, kind):
      self.device_kind = kind

  assert topology.chip_of(Device('TPU v5 lite')).memory == 16 * 2**30
  assert topology.chip_of(Device('TPU v5')).memory == 95 * 2**30
  assert topology.chip_of(Device('TPU7x')) is None


def report(system, chips):
  sent = {'all-reduce': {'instructions': 1, 'runs': 4, 'bytes': 2**20}}
  return {
    'system': system,
    'program': 'step',
    'trainings_per_chip': 0,
    'batch_per_chip': 32,
    'accumulate': 1,
    'dtype': 'float32',
    'feature_shape': [600, 80],
    'rows': [
      {
        'topology': 'v5e:2x2',
        'chips': chips,
        'hosts': 1,
        'fits': True,
        'flop': 2e12,
        'memory_bytes': {'peak': 3 * 2**30, 'temporary': 2**30},
        'collectives': sent,
      }
    ],
  }


def test_page_keeps_other_sections(tmp_path):
  path = tmp_path / 'scaling.md'
  pages.update(path, report('dsnet', 4), 'python -m one')
  pages.update(path, report('timnet', 4), 'python -m two')
  pages.update(path, report('dsnet', 16), 'python -m three')
  text = path.read_text()
  assert text.startswith('# What a TPU slice needs and sends\n')
  assert text.count('\n## ') == 2
  assert 'python -m one' not in text
  assert text.index('python -m three') < text.index('python -m two')
  row = '| v5e:2x2 | 16 | 1 | 3.00 | 1.00 | yes | 2.000 |'
  assert row in text
  assert '4 all-reduce of 1.00 MiB' in text


def test_step_over_devices_that_are_there(monkeypatch):
  """Where libtpu is missing: the same step, compiled for virtual devices."""
  monkeypatch.setattr(topology, 'devices_of', lambda name: jax.devices()[:2])
  (row,) = topology.run(small(), ['here'], per_device=2)['rows']
  assert row['chips'] == 2
  assert list(row['collectives']) == ['all-reduce']
  assert 4 * 12_000 < row['collectives']['all-reduce']['bytes'] < 4 * 20_000
