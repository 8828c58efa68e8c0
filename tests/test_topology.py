"""Compiling for a TPU slice that is not there, and its collectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import dsnet, emosphere, timnet
from jaxser.benchmark import collectives, programs, tables, topology
from jaxser.benchmark.tables import Table
from jaxser.benchmark.timing import BenchmarkError


def recipe(name):
  """A small one."""
  if name == 'wavlm':
    name = 'encoder=wavlm,weights=random,size=tiny'
    config = emosphere.get_config(f'{name},region_weight=constant')
    config.data.max_length = 1_000
    return config
  arguments = 'region_weight=constant' if name == 'emosphere' else ''
  module = {'timnet': timnet, 'dsnet': dsnet, 'emosphere': emosphere}[name]
  config = module.get_config(arguments)
  config.data.max_length = 16
  if name == 'timnet':
    config.model.num_blocks = 1
  if name == 'dsnet':
    config.model.update(channels=(4,), embedding=4, max_frames=8)
  return config


@pytest.fixture(params=['here', 'v5e:2x2'])
def place(request, monkeypatch):
  """A topology of libtpu; where it is missing, virtual devices."""
  if request.param == 'here':
    monkeypatch.setattr(topology, 'devices_of', lambda name: jax.devices()[:4])
  else:
    pytest.importorskip('libtpu', reason='needs libtpu (the extra `tpu`)')
  return request.param


@pytest.mark.slow
@pytest.mark.parametrize('name', ['timnet', 'dsnet', 'emosphere', 'wavlm'])
def test_training_steps_only_sum(place, name):
  experiment = programs.create(recipe(name), 4)
  report, (table, shown) = topology.run(experiment, [place])
  (row,) = report['rows']
  assert (row['chips'], row['hosts'], row['fits']) == (4, 1, True)
  assert {one['kind'] for one in row['sent']} == {'all-reduce'}
  sums = sum(one['bytes_per_step'] for one in row['sent'])
  assert row['collectives'].endswith(f' all-reduce of {sums / 2**20:.2f} MiB')
  total = sum(group['MiB per step'] for group in shown.rows)
  assert total == pytest.approx(sums / 2**20)
  if name == 'timnet':
    # The gradients of 13,000 float32 parameters, channels padded to 40, and
    # BatchNorm's moments: no batch, no feature.
    assert 48_000 < sums < 80_000
    # Each chip holds its rows of the batch, and all of the state.
    assert row['costs']['memory_bytes']['arguments'] > 4 * 16 * 128 * 4
    about = 'training step of 4 utterances of 16 x 128 per chip in one batch'
    assert about in table.about
  if place != 'here':
    traffic = row['GB accessed'] / 819  # Of a v5e, GB per second.
    assert row['estimate s'] >= max(row['compiler s'] or 0, traffic) > 0


@pytest.mark.slow
def test_runs_of_different_chips_send_nothing(place):
  experiment = programs.create(recipe('timnet'), 2, utterances=20)
  report, shown = topology.run(experiment, [place], 1)
  assert len(shown) == 1
  assert report['rows'][0]['collectives'] == 'none'


@pytest.mark.slow
def test_unknown_topology_is_explained():
  pytest.importorskip('libtpu', reason='needs libtpu (the extra `tpu`)')
  with pytest.raises(BenchmarkError, match=r'v9:2x2.*examples are v5e:2x2'):
    topology.devices_of('v9:2x2')


def test_missing_libtpu_names_the_extra(monkeypatch):
  def refuse(**_):
    raise RuntimeError('JAX TPU support not installed')

  monkeypatch.setattr(topology.topologies, 'get_topology_desc', refuse)
  with pytest.raises(BenchmarkError, match=r"pip install -e '\.\[tpu\]'"):
    topology.devices_of('v5e:2x2')


def test_programs_that_do_not_fit_are_rows_too():
  class Function:
    def lower(self, x):
      return self

    def compile(self):
      raise jax.errors.JaxRuntimeError(
        'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G '
        'of 15.75G hbm.'
      )

    def __call__(self, x):
      return x @ x

  x = jax.ShapeDtypeStruct((4, 4), 'float32')
  found = topology.describe(Function(), [x], jax.devices()[:2])
  assert found == {'memory GiB': 20.5, 'fits': False, 'TFLOP': 64e-12}


@pytest.mark.parametrize(
  ('kind', 'gib'), [('TPU v5 lite', 16), ('TPU v5', 95), ('TPU7x', None)]
)
def test_chips_by_their_longest_name(kind, gib):
  class Device:
    device_kind = kind

  chip = topology.chip_of(Device())
  assert (chip and chip.memory / 2**30) == gib


def test_page_keeps_other_sections(tmp_path):
  path = tmp_path / 'scaling.md'

  def write(system, chips, word):
    row = {'topology': 'v5e:2x2', 'chips': chips, 'fits': True, 'TFLOP': None}
    sent = Table('Collectives of v5e:2x2', [{'from': 'here', 'kind': 'x'}])
    made = [Table(f'{system}: one step', [row], ['A note.']), sent]
    tables.write_section(path, made, [word])

  write('dsnet', 4, 'one')
  write('timnet', 4, 'two')
  # Another table, that --into writes.
  measured = '## Measured\n\n<!-- devices -->\n\n| 1 |\n\n<!-- /devices -->\n'
  with path.open('a') as file:
    file.write(f'\n{measured}')
  write('dsnet', 16, 'three')
  text = path.read_text()
  assert text.startswith('# ')
  assert text.count('\n## ') == 3
  assert text.endswith(measured)
  assert 'benchmark one' not in text
  three, two = (
    f'\n\n    python -m jaxser.benchmark {n}\n' for n in ('three', 'two')
  )
  assert text.index(three) < text.index(two)
  assert '| v5e:2x2 | 16 | yes |\n\nA note.\n\nCollectives of v5e:2x2' in text


@pytest.mark.parametrize('runs', [0, 1])
def test_the_phase_that_needs_the_most_memory_is_reported(monkeypatch, runs):
  config = emosphere.get_config()
  config.data.max_length, config.model.width = 16, 8
  peaks = iter((2, 1))
  origin = {'kind': 'all-reduce', 'origin': 'forward: fc/dot'}
  item = {**origin, 'times': 2, 'arrays': 1, 'bytes_per_step': 2**20}

  def describe(function, arguments, devices):
    return {'memory GiB': next(peaks), 'sent': [item]}

  monkeypatch.setattr(topology, 'devices_of', lambda name: jax.devices()[:2])
  monkeypatch.setattr(topology, 'describe', describe)
  made = topology.run(programs.create(config, 2), ['a'], runs)
  report, (first, sent) = made
  (row,) = report['rows']
  assert list(row['phases']) == ['regions', 'main']
  assert row['memory GiB'] == 2
  assert 'a is of phase regions' in first.notes[0]
  assert 'regions 2.00 GiB, main 1.00 GiB' in first.notes[0]
  assert sent.about == 'Collectives of a'
  cells = ['forward: fc/dot', 'all-reduce', '1', '2', '1', '1']
  assert sent.cells()[1] == cells


def test_collectives_of_programs_that_sum_and_that_gather():
  mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
  everywhere = NamedSharding(mesh, PartitionSpec())
  rows = NamedSharding(mesh, PartitionSpec('data'))
  x = jax.ShapeDtypeStruct((12, 8), jnp.float32, sharding=rows)
  w = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=everywhere)

  def found(function):
    jitted = jax.jit(function, out_shardings=everywhere)
    return collectives.find(jitted.lower(w, x).compile().as_text())

  def gradient(w, x):
    return jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)

  def steps(w, x):
    return jax.lax.scan(lambda w, _: (w - gradient(w, x), None), w, length=5)[0]

  for function, times in ((gradient, 1), (steps, 5)):
    (one,) = found(function)
    assert (one['kind'], one['times']) == ('all-reduce', times)
    assert one['bytes_per_step'] == times * 512
    assert 'dot_general' in one['source']
  sent = found(lambda w, x: x[::-1] * 2)
  assert 'all-reduce' not in {one['kind'] for one in sent}
  assert sum(one['bytes_per_step'] for one in sent) >= 12 * 8 * 4 / 4


# As TPUs' programs are written: layouts, several arrays at once, asynchronous
# pairs, a loop whose count only its condition tells, a branch.
_TPU = """
HloModule step, num_partitions=4

%cond (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %p = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%dropped (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0:T(256)} parameter(0)
}

%kept (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(256)} parameter(0)
  ROOT %all-reduce.1 = (f32[8,16]{1,0:T(8,128)}, bf16[4]{0:T(256)}) all-reduce(%p, %p), channel_id=1, to_apply=%add
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0:T(256)}) parameter(0)
  ROOT %c = f32[8]{0:T(256)} conditional(%p, %p), branch_computations={%dropped, %kept}
}

ENTRY %main (p: f32[8]) -> f32[] {
  %p = f32[8]{0:T(256)} parameter(0)
  %while.1 = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(256)}) while(%p), condition=%cond, body=%body
  %start = (f32[8]{0:T(256)}, f32[32]{0:T(256)}) all-gather-start(%p), channel_id=2, dimensions={0}
  %done = f32[32]{0:T(256)} all-gather-done(%start)
  ROOT %sum = f32[]{:T(128)} all-reduce(%done), channel_id=3, to_apply=%add, metadata={op_name="jit(step)/reduce_sum"}
}
"""


def test_programs_of_tpus():
  found = collectives.find(_TPU)
  names = ('kind', 'bytes_per_step', 'times', 'source')
  assert [tuple(one[name] for name in names) for one in found] == [
    ('all-reduce', 24 * (8 * 16 * 4 + 4 * 2), 24, ''),
    ('all-gather', 32 * 4, 1, ''),
    ('all-reduce', 4, 1, 'jit(step)/reduce_sum'),
  ]
  # By kind: instructions, runs, arrays, MiB in all.
  totals = collectives.totals(found, 'kind')
  assert {kind: tuple(group.values()) for kind, group in totals.items()} == {
    ('all-reduce',): (2, 25, 3, pytest.approx((24 * 520 + 4) / 2**20)),
    ('all-gather',): (1, 1, 1, pytest.approx(128 / 2**20)),
  }


@pytest.mark.parametrize(
  ('source', 'origin'),
  [
    (
      'jit(f)/shard_map/transpose(jvp(Network))/Network.go/layers/while/body/'
      'closed_call/layers/cond/branch_0_fun/layer.<lambda>/checkpoint/fc/dot',
      'backward: Network.go/layers/fc/dot',
    ),
    (
      'jit(step)/(jvp(N)/bn/reduce_sum:jvp()/reduce_sum)',
      'forward: bn/reduce_sum',
    ),
    ('jit(step)/add', 'step: add'),
    ('', 'step: not named'),
  ],
)
def test_origins_are_those_of_the_network(source, origin):
  assert collectives.origin(source) == origin
