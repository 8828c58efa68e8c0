"""TIM-Net: its size, padding, devices, dropout, ablations."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.systems import timnet
from jaxser.systems.base import Progress
from tests.random_tree import assert_close, params_like, quick_jit

FRAMES, MELS = 24, 48
SMALL = timnet.TimNet(num_classes=4, num_blocks=3)


def make_batch(rows, frames=FRAMES, seed=0, real=None):
  """Log-mel in dB, as the store holds it; rows after `real` are padding."""
  rng = np.random.default_rng(seed)
  real = rows if real is None else real
  return {
    'features': rng.uniform(-80, 0, (rows, frames, MELS)).astype(np.float32),
    'length': np.full(rows, frames, np.int32),
    'label': rng.integers(0, 4, rows).astype(np.int32),
    'mask': (np.arange(rows) < real).astype(np.float32),
    'row': np.arange(rows, dtype=np.int32),
  }


@functools.cache
def weights(system, seed=0):
  return params_like(system.init, jax.random.key(0), make_batch(1), seed=seed)


def step(system, params, state, batch, seed=3):
  """(loss, aux) and gradients."""
  rng, progress = jax.random.key(seed), Progress(jnp.int32(0), jnp.int32(0))
  loss = jax.value_and_grad(system.loss, has_aux=True)
  return loss(params, state, batch, rng, progress)


@functools.cache
def compiled(system=SMALL):
  return quick_jit(functools.partial(step, system))


@pytest.mark.parametrize(
  ('ablation', 'trained', 'statistics'),
  [
    ('none', 104_496, 2_496),
    # One direction has 1,560 + 8 * 6,318 parameters; fusion 8, head 280.
    ('forward_only', 52_392, 1_248),
    ('last_scale', 104_488, 2_496),
    ('mean_fusion', 104_488, 2_496),
    ('tcn', 52_384, 1_248),
  ],
)
def test_number_of_parameters(ablation, trained, statistics):
  system = timnet.TimNet(num_classes=7, ablation=ablation)
  trees = jax.eval_shape(system.init, jax.random.key(0), make_batch(1))
  sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in trees]
  assert sizes == [trained, statistics]


def test_initial_values_are_those_of_keras():
  params, state = timnet.TimNet(7).init(jax.random.key(0), make_batch(1))
  kernel = np.asarray(params['block3_backward']['conv2']['kernel'])
  limit = np.sqrt(6 / (2 * 39 + 2 * 39))
  assert kernel.shape == (2, 39, 39)
  assert 0.95 * limit < np.abs(kernel).max() <= limit
  assert not np.any(params['block3_backward']['conv2']['bias'])
  assert np.abs(params['fusion']).max() <= 0.05
  assert len(np.unique(params['fusion'])) == 8
  assert np.all(state['batch_stats']['block0_forward']['norm1']['var'] == 1)


def test_padding_rows_change_nothing():
  params, state = weights(SMALL)
  batch, padded = make_batch(5), make_batch(8, seed=1, real=5)
  for name, value in batch.items():
    padded[name][:5] = value
  padded['features'][5:], padded['label'][5:] = -1e3, -1
  run, predict = compiled(), quick_jit(SMALL.predict)
  wanted = run(params, state, batch)
  assert_close(run(params, state, padded), wanted, 1e-5)
  found = jax.tree.map(lambda x: x[:5], predict(params, state, padded))
  assert_close(found, predict(params, state, batch), 1e-5)
  # Nothing but padding gives no loss, and keeps the statistics.
  (value, aux), grads = run(params, state, make_batch(5, real=0))
  assert float(value) == 0
  assert not any(np.any(g) for g in jax.tree.leaves(grads))
  assert_close(aux['state'], state, 1e-7)


def test_momentum_is_the_share_of_the_statistics_that_a_step_keeps():
  params, state = weights(SMALL)
  moved = []
  for momentum in (0.99, 0.8):
    system = SMALL.clone(batch_norm_momentum=momentum)
    more = jax.random.key(0), Progress(jnp.int32(0), jnp.int32(0))
    new = system.loss(params, state, make_batch(5), *more)[1]['state']
    change = jax.tree.map(lambda a, b: (a - b) / (1 - momentum), new, state)
    moved.append(change)
  assert_close(*moved, 1e-4)
  assert max(np.abs(x).max() for x in jax.tree.leaves(moved[0])) > 0.1


@pytest.mark.slow
def test_one_device_is_eight_is_pmap():
  params, state = weights(SMALL)
  # 13 utterances on 8 devices: one device has one, one has none.
  batch = make_batch(16, real=13)
  wanted = compiled()(params, state, batch)

  mesh = Mesh(np.array(jax.devices()), ('data',))
  everywhere = NamedSharding(mesh, PartitionSpec())
  placed = (
    *jax.device_put((params, state), everywhere),
    jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data'))),
  )
  run = functools.partial(step, SMALL)
  program = quick_jit(run, out_shardings=everywhere).lower(*placed).compile()
  assert_close(program(*placed), wanted, 1e-5)
  # Data parallelism costs sums over devices and nothing else.
  kinds = r'\b(all-\w+|reduce-scatter|collective-\w+)(?:-start)?\('
  assert set(re.findall(kinds, program.as_text())) == {'all-reduce'}

  def mapped(params, state, batch):
    (value, aux), grads = run(params, state, batch)
    shares = jax.lax.psum((value, aux['metrics'], grads), 'data')
    return (shares[0], {**aux, 'metrics': shares[1]}), shares[2]

  split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
  found = jax.pmap(mapped, 'data', in_axes=(None, None, 0))(
    params, state, split
  )
  for device in range(8):
    assert_close(jax.tree.map(lambda x, d=device: x[d], found), wanted, 1e-5)


def test_dropout_drops_whole_channels_of_single_utterances():
  system = dataclasses.replace(SMALL, dropout=0.4)
  params, state = weights(system)
  apply = functools.partial(system.apply, train=True, mutable=['batch_stats'])
  (_, out), _ = quick_jit(apply)(
    {'params': params, **state},
    make_batch(32),
    rngs={'dropout': jax.random.key(0)},
  )
  # A dropped channel has u = 0 at all times, so h * sigmoid(u) is h / 2.
  halved = np.isclose(out['block0_forward'], out['stem_forward'] / 2, atol=1e-6)
  dropped = halved.all(axis=1)
  assert 0.3 < dropped.mean() < 0.5
  assert len(np.unique(dropped, axis=0)) == 32


def test_ablations_are_what_they_say():
  full, state = weights(SMALL)
  found = {}
  for ablation in timnet.ABLATIONS:
    system = dataclasses.replace(SMALL, ablation=ablation)
    kept, statistics = weights(system)
    # The same weights as the whole network's, as far as the ablation has them.
    params = {name: full[name] for name in kept}
    names = statistics['batch_stats']
    stats = {'batch_stats': {n: state['batch_stats'][n] for n in names}}
    found[ablation] = quick_jit(system.predict)(params, stats, make_batch(5))
  whole, tcn, one_way = (found[n] for n in ('none', 'tcn', 'forward_only'))
  scales = whole['multi_scale']
  fused = np.einsum('bnc,n->bc', scales, full['fusion'])
  forward = [whole[f'block{i}_forward'].mean(1) for i in range(3)]
  for got, want in (
    (whole['fused'], fused),
    (found['last_scale']['multi_scale'], scales),
    (found['last_scale']['fused'], scales[:, -1]),
    (found['mean_fusion']['fused'], scales.mean(1)),
    (one_way['multi_scale'], np.stack(forward, 1)),
    (tcn['fused'], tcn['multi_scale'][:, -1]),
  ):
    assert_close(got, want, 1e-5)
  assert not any('backward' in name for name in {**one_way, **tcn})
  # Residual, without the gate: what a block adds is never negative.
  assert np.all(tcn['block0_forward'] >= tcn['stem_forward'])
  logits = np.stack([out['logits'] for out in found.values()])
  gaps = np.abs(logits[:, None] - logits[None]).max((2, 3)) + np.eye(5)
  assert gaps.min() > 1e-2


def test_utterances_shorter_than_the_dilations_are_fine():
  system = timnet.TimNet(num_classes=4, num_blocks=6)
  (value, _), grads = compiled(system)(
    *weights(system), make_batch(3, frames=7)
  )
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # With dilation 8 the older tap never meets a frame.
  kernel = np.asarray(grads['block3_forward']['conv1']['kernel'])
  assert not kernel[0].any()
  assert kernel[1].any()
