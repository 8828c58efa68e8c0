"""Compiling for a TPU slice that is not there."""

import importlib.util

import jax
import pytest

from configs import dsnet, emosphere, timnet
from jaxser.benchmark import collectives, pages, tables, topology
from jaxser.benchmark.timing import BenchmarkError

pytestmark = pytest.mark.slow
with_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu (the extra `tpu`)',
)


def small():
  config = timnet.get_config()
  config.model.num_blocks = 1
  config.data.max_length = 16
  return config


def small_dsnet():
  config = dsnet.get_config()
  config.model.update(channels=(4,), embedding=4, max_frames=8)
  return config


def small_emosphere():
  config = emosphere.get_config('region_weight=constant')
  config.model.width = 8
  config.data.max_length = 16
  return config


def small_wavlm():
  config = emosphere.get_config(
    'encoder=wavlm,weights=random,size=tiny,region_weight=constant'
  )
  config.data.max_length = 1_000
  return config


SYSTEMS = (small, small_dsnet, small_emosphere, small_wavlm)


@with_libtpu
@pytest.mark.parametrize('recipe', SYSTEMS[1:])
def test_every_system_only_sums_over_chips(recipe):
  (row,) = topology.run(recipe(), ['v5e:2x2'], per_device=2)['rows']
  assert set(row['collectives']) == {'all-reduce'}


@with_libtpu
def test_trainings_of_different_chips_are_silent():
  report = topology.run(
    small(), ['v5e:2x2'], per_device=2, trainings=1, utterances=20
  )
  assert report['rows'][0]['collectives'] == {}


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
  assert 'training step of 8 utterances of 16 x 128 per chip in one' in text


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
  # Another table, that --into writes.
  measured = '## Measured\n\n<!-- devices -->\n\n| 1 |\n\n<!-- /devices -->\n'
  with path.open('a') as file:
    file.write(f'\n{measured}')
  pages.update(path, report('dsnet', 16), 'python -m three')
  text = path.read_text()
  assert text.startswith('# What a TPU slice needs and sends\n')
  assert text.count('\n## ') == 3
  assert text.endswith(measured)
  assert 'python -m one' not in text
  assert text.index('python -m three') < text.index('python -m two')
  row = '| v5e:2x2 | 16 | 1 | 3.00 | 1.00 | yes | 2.000 |'
  assert row in text
  assert '4 all-reduce of 1.00 MiB' in text


@pytest.fixture
def two_devices(monkeypatch):
  """Where libtpu is missing: the same programs, for virtual devices."""
  monkeypatch.setattr(topology, 'devices_of', lambda name: jax.devices()[:2])


@pytest.mark.parametrize('recipe', SYSTEMS)
def test_step_over_devices_that_are_there(two_devices, recipe):
  """Data parallelism sums; no batch and no feature travels."""
  (row,) = topology.run(recipe(), ['here'], per_device=2)['rows']
  assert row['chips'] == 2
  # The CPU's compiler gathers a convolution by groups, which libtpu's does not.
  others = [
    collectives.origin(item['source'])
    for item in row['collective_list']
    if item['kind'] != 'all-reduce'
  ]
  assert all('position/conv_general' in origin for origin in others)
  assert bool(others) <= (recipe is small_wavlm)
  sums = row['collectives']['all-reduce']
  if recipe is small:
    assert 4 * 12_000 < sums['bytes'] < 4 * 20_000
  assert sums['bytes'] == sum(
    item['bytes_per_step']
    for item in row['collective_list']
    if item['kind'] == 'all-reduce'
  )


def test_devices_with_their_own_trainings_say_nothing(two_devices):
  report = topology.run(
    small(), ['here'], per_device=2, trainings=1, utterances=20
  )
  assert report['rows'][0]['collectives'] == {}
  assert report['rows'][0]['collective_list'] == []


@pytest.mark.parametrize('trainings', [0, 1])
def test_the_phase_that_needs_the_most_memory_is_reported(
  two_devices, monkeypatch, trainings
):
  config = emosphere.get_config()
  config.data.max_length = 16
  config.model.width = 8
  seen = []

  def facts(function, arguments, devices, effort):
    seen.append(function)
    item = {
      'kind': 'all-reduce',
      'source': 'jit(f)/jvp(N)/fc/dot',
      'times': 2,
      'arrays': 1,
      'bytes_per_step': 2**20,
    }
    return {
      'memory_bytes': {'peak': (3 - len(seen)) * 2**30},
      'fits': True,
      'flop': 1e12,
      'collective_list': [item],
    }

  monkeypatch.setattr(topology, 'compile_facts', facts)
  report = topology.run(config, ['here'], per_device=2, trainings=trainings)
  assert len(seen) == 2
  (row,) = report['rows']
  assert row['phase'] == 'regions'
  assert row['phase_peak_bytes'] == {'regions': 2 * 2**30, 'main': 2**30}
  for text in (
    tables.topology(report),
    tables.topology_markdown(report, 'command'),
  ):
    assert 'here is of phase regions' in text
    assert 'regions 2.00 GiB, main 1.00 GiB' in text
    assert 'Collectives of here' in text
    assert 'forward: fc/dot' in text
