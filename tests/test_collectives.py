import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.benchmark import collectives


@pytest.fixture(scope='module')
def mesh():
  return Mesh(np.array(jax.devices()[:4]), ('data',))


def compiled_text(mesh, function, *specs_and_shapes):
  args = [
    jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )
    for spec, shape in specs_and_shapes
  ]
  everywhere = NamedSharding(mesh, PartitionSpec())
  jitted = jax.jit(function, out_shardings=everywhere)
  return jitted.lower(*args).compile().as_text()


def test_gradients_are_all_reduced_once(mesh):
  def gradient(w, x):
    return jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)

  text = compiled_text(mesh, gradient, ((), (8, 16)), (('data',), (12, 8)))
  found = collectives.find(text)
  assert [(c.kind, c.bytes, c.times) for c in found] == [
    ('all-reduce', 4 * 8 * 16, 1)
  ]
  assert 'dot_general' in found[0].source


def test_loops_multiply(mesh):
  def steps(w, x):
    def one(w, _):
      return w - jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w), None

    return jax.lax.scan(one, w, length=5)[0]

  text = compiled_text(mesh, steps, ((), (8, 16)), (('data',), (12, 8)))
  assert collectives.summary(collectives.find(text)) == {
    'all-reduce': {'instructions': 1, 'runs': 5, 'bytes': 5 * 4 * 8 * 16}
  }


def test_a_batch_that_is_gathered_shows(mesh):
  text = compiled_text(mesh, lambda x: x[::-1] * 2, (('data',), (12, 8)))
  found = collectives.summary(collectives.find(text))
  assert 'all-reduce' not in found
  assert sum(kind['bytes'] for kind in found.values()) >= 12 * 8 * 4 / 4


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
  assert collectives.find(_TPU) == [
    collectives.Collective('all-reduce', 8 * 16 * 4 + 4 * 2, 24, 2, ''),
    collectives.Collective('all-gather', 32 * 4, 1, 1, ''),
    collectives.Collective('all-reduce', 4, 1, 1, 'jit(step)/reduce_sum'),
  ]


def test_origins_are_those_of_the_network():
  assert collectives.origin(
    'jit(train_step)/transpose(jvp(Network))/Network.go/layers/while/body/'
    'closed_call/layers/cond/branch_0_fun/layer.<lambda>/checkpoint/fc/dot'
  ) == ('backward: Network.go/layers/fc/dot')
  combined = 'jit(step)/(jvp(N)/bn/reduce_sum:jvp()/reduce_sum)'
  assert collectives.origin(combined) == 'forward: bn/reduce_sum'
  assert collectives.origin('jit(step)/add') == 'step: add'
  assert collectives.origin('') == 'step: not named'


def test_what_comes_from_one_place_is_one_group():
  def one(kind, bytes_, times, arrays, source):
    return collectives.Collective(kind, bytes_, times, arrays, source)

  listed = collectives.listed(
    [
      one('all-reduce', 8, 1, 2, 'jit(step)/jvp(N)/bn/sum'),
      one('all-reduce', 4, 1, 1, 'jit(step)/jvp(N)/bn/sum'),
      one('all-reduce', 100, 3, 9, 'jit(step)/transpose(jvp(N))/fc/dot'),
      one('all-gather', 5, 1, 1, 'jit(step)/jvp(N)/bn/sum'),
    ]
  )
  assert [item['bytes_per_step'] for item in listed] == [8, 4, 300, 5]
  assert listed[2]['times'] == 3
  groups = collectives.grouped(listed)
  assert groups[0] == {
    'kind': 'all-reduce',
    'origin': 'backward: fc/dot',
    'times': 3,
    'instructions': 1,
    'arrays': 9,
    'bytes_per_step': 300,
  }
  assert [
    (g['kind'], g['bytes_per_step'], g['arrays']) for g in groups[1:]
  ] == [
    ('all-reduce', 12, 3),
    ('all-gather', 5, 1),
  ]


def test_other_text_is_refused():
  with pytest.raises(ValueError, match='no ENTRY computation'):
    collectives.find('module @jit_step {}')
