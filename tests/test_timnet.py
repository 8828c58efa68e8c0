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
from tests.random_tree import params_like, quick_jit

FRAMES, MELS = 24, 48
SMALL = timnet.TimNet(num_classes=4, num_blocks=3)
NO_PROGRESS = Progress(jnp.int32(0), jnp.int32(0))


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


def loss_and_gradients(system, params, state, batch, seed=3):
  def loss(params):
    rng = jax.random.key(seed)
    return system.loss(params, state, batch, rng, NO_PROGRESS)

  (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return value, grads, aux


def assert_close(found, wanted, tolerance):
  """Every leaf within `tolerance` of the largest entry of its own."""
  for (path, one), other in zip(
    jax.tree_util.tree_leaves_with_path(found),
    jax.tree.leaves(wanted),
    strict=True,
  ):
    size = float(np.max(np.abs(other)))
    np.testing.assert_allclose(
      one,
      other,
      rtol=0,
      atol=tolerance * max(size, 1e-3),
      err_msg=jax.tree_util.keystr(path),
    )


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
  params, state = jax.eval_shape(
    lambda: system.init(jax.random.key(0), make_batch(1))
  )
  assert sum(x.size for x in jax.tree.leaves(params)) == trained
  assert sum(x.size for x in jax.tree.leaves(state)) == statistics


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


@functools.cache
def sensitivities():
  """|d block(t) / d x(s)| of eight blocks at one moment of 300 frames."""
  system = timnet.TimNet(num_classes=4, num_blocks=8)
  params, state = weights(system)
  moment = 250
  rng = np.random.default_rng(5)
  x = jnp.asarray(rng.standard_normal((1, 300, 39)).astype(np.float32))

  @quick_jit
  def gradient(name_index, x):
    def value(x):
      _, out = system.apply(
        {'params': params, **state},
        x,
        jnp.arange(1),
        jnp.ones(1),
        train=False,
        method='network',
      )
      blocks = [
        out[f'block{block}_{direction}'][0, moment]
        for block in range(8)
        for direction in ('forward', 'backward')
      ]
      return jnp.sum(jnp.stack(blocks)[name_index])

    return jnp.sum(jnp.abs(jax.grad(value)(x)), (0, 2))

  found = [np.asarray(gradient(jnp.int32(i), x)) for i in range(16)]
  return moment, np.array(found).reshape(8, 2, 300)


@pytest.mark.parametrize('block', range(8))
def test_a_block_sees_the_past_and_nothing_else(block):
  moment, found = sensitivities()
  # Two convolutions of width 2 per block: 2 (1 + 2 + ... + 2^block) frames.
  reach = 2 * (2 ** (block + 1) - 1)
  forward, backward = found[block]
  assert not forward[moment + 1 :].any()
  assert not forward[: max(0, moment - reach)].any()
  assert forward[moment] > 0
  assert forward[max(0, moment - reach) : moment].any()
  # The other stream runs from the last frame: its past is our future.
  now = 299 - moment
  assert not backward[:now].any()
  assert not backward[now + reach + 1 :].any()
  assert backward[now] > 0
  assert backward[now + 1 : now + reach + 1].any()


def test_padding_rows_change_nothing():
  params, state = weights(SMALL)
  batch = make_batch(5)
  padded = {
    name: np.concatenate([value, np.zeros((3, *value.shape[1:]), value.dtype)])
    for name, value in batch.items()
  }
  padded['features'][5:] = -1e3
  padded['label'][5:] = -1
  padded['row'] = np.arange(8, dtype=np.int32)
  run = quick_jit(functools.partial(loss_and_gradients, SMALL))
  wanted, found = run(params, state, batch), run(params, state, padded)
  assert_close(found, wanted, 1e-5)
  predict = quick_jit(SMALL.predict)
  assert_close(
    jax.tree.map(lambda x: x[:5], predict(params, state, padded)),
    predict(params, state, batch),
    1e-5,
  )


def test_nothing_but_padding_gives_zero_loss_and_keeps_the_statistics():
  params, state = weights(SMALL)
  value, grads, aux = quick_jit(functools.partial(loss_and_gradients, SMALL))(
    params, state, make_batch(2, real=0)
  )
  assert float(value) == 0
  assert not any(np.any(g) for g in jax.tree.leaves(grads))
  assert_close(aux['state'], state, 1e-7)


@pytest.mark.slow
def test_one_device_is_eight_is_pmap():
  params, state = weights(SMALL)
  # 13 utterances on 8 devices: one device has one, one has none.
  batch = make_batch(16, real=13)
  run = functools.partial(loss_and_gradients, SMALL)
  wanted = quick_jit(run)(params, state, batch)

  mesh = Mesh(np.array(jax.devices()), ('data',))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  placed = (
    *jax.device_put((params, state), everywhere),
    jax.device_put(batch, rows),
  )
  program = quick_jit(run, out_shardings=everywhere).lower(*placed).compile()
  assert_close(program(*placed), wanted, 1e-5)
  # Data parallelism costs sums over devices and nothing else.
  collectives = set(
    re.findall(
      r'\b(all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(',
      program.as_text(),
    )
  )
  assert collectives == {'all-reduce'}

  def mapped(params, state, batch):
    value, grads, aux = run(params, state, batch)
    total = jax.lax.psum((value, grads, aux['metrics']), 'data')
    return total[0], total[1], {'state': aux['state'], 'metrics': total[2]}

  split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
  found = jax.pmap(mapped, axis_name='data', in_axes=(None, None, 0))(
    params, state, split
  )
  for device in range(8):
    assert_close(jax.tree.map(lambda x, d=device: x[d], found), wanted, 1e-5)


def test_folds_together_are_folds_one_by_one():
  batches = [make_batch(6, seed=seed) for seed in range(3)]
  trees = [weights(SMALL, seed) for seed in range(3)]
  run = functools.partial(loss_and_gradients, SMALL)
  stacked = jax.tree.map(
    lambda *x: jnp.stack(x), *zip(trees, batches, strict=True)
  )
  (params, state), batch = stacked
  together = quick_jit(jax.vmap(run))(params, state, batch, jnp.arange(3))
  alone = quick_jit(run)
  for fold in range(3):
    assert_close(
      jax.tree.map(lambda x, f=fold: x[f], together),
      alone(*trees[fold], batches[fold], fold),
      1e-5,
    )


def test_dropout_drops_whole_channels_of_single_utterances():
  system = dataclasses.replace(SMALL, dropout=0.4)
  params, state = weights(system)
  batch = make_batch(32)
  (_, out), _ = quick_jit(
    lambda batch: system.apply(
      {'params': params, **state},
      batch,
      train=True,
      rngs={'dropout': jax.random.key(0)},
      mutable=['batch_stats'],
    )
  )(batch)
  # A dropped channel has u = 0 at all times, so h * sigmoid(u) is h / 2.
  halved = np.isclose(out['block0_forward'], out['stem_forward'] / 2, atol=1e-6)
  dropped = halved.all(axis=1)
  assert 0.3 < dropped.mean() < 0.5
  assert len(np.unique(dropped, axis=0)) == 32


@functools.cache
def predicted(ablation):
  system = dataclasses.replace(SMALL, ablation=ablation)
  full, full_state = weights(SMALL)
  kept, kept_state = weights(system)
  # The same weights as the whole network's, as far as the ablation has them.
  params = {name: full[name] for name in kept}
  stats = full_state['batch_stats']
  state = {
    'batch_stats': {name: stats[name] for name in kept_state['batch_stats']}
  }
  batch = make_batch(5)
  found = quick_jit(system.predict)(params, state, batch)
  value, _, _ = quick_jit(functools.partial(loss_and_gradients, system))(
    params, state, batch
  )
  assert np.isfinite(value)
  return found, params


def test_ablations_are_what_they_say():
  whole, params = predicted('none')
  weight = params['fusion']
  np.testing.assert_allclose(
    whole['fused'],
    np.einsum('bnc,n->bc', whole['multi_scale'], weight),
    rtol=1e-4,
    atol=1e-5,
  )
  last, _ = predicted('last_scale')
  scales = whole['multi_scale']
  np.testing.assert_allclose(last['multi_scale'], scales, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(last['fused'], scales[:, -1], rtol=1e-4, atol=1e-5)
  mean, _ = predicted('mean_fusion')
  np.testing.assert_allclose(
    mean['fused'], whole['multi_scale'].mean(1), rtol=1e-5, atol=1e-6
  )
  one_way, _ = predicted('forward_only')
  assert not any('backward' in name for name in one_way)
  np.testing.assert_allclose(
    one_way['multi_scale'],
    np.stack([whole[f'block{i}_forward'].mean(1) for i in range(3)], 1),
    rtol=1e-4,
    atol=1e-5,
  )
  tcn, _ = predicted('tcn')
  assert not any('backward' in name for name in tcn)
  np.testing.assert_allclose(tcn['fused'], tcn['multi_scale'][:, -1], 1e-6)
  # Residual, without the gate: what a block adds is never negative.
  assert np.all(tcn['block0_forward'] >= tcn['stem_forward'])
  logits = [predicted(name)[0]['logits'] for name in timnet.ABLATIONS]
  for i, one in enumerate(logits):
    for other in logits[:i]:
      assert np.abs(one - other).max() > 1e-2


def test_utterances_shorter_than_the_dilations_are_fine():
  system = timnet.TimNet(num_classes=4, num_blocks=6)
  params, state = weights(system)
  value, grads, _ = quick_jit(functools.partial(loss_and_gradients, system))(
    params, state, make_batch(3, frames=7)
  )
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # With dilation 8 the older tap never meets a frame.
  kernel = np.asarray(grads['block3_forward']['conv1']['kernel'])
  assert not kernel[0].any()
  assert kernel[1].any()


def test_loss_and_accuracy_of_a_batch_by_hand():
  system = dataclasses.replace(SMALL, dropout=0.0)
  params, state = weights(system)
  batch = make_batch(6, real=4)
  value, _, aux = quick_jit(functools.partial(loss_and_gradients, system))(
    params, state, batch
  )
  (logits, _), _ = system.apply(
    {'params': params, **state}, batch, train=True, mutable=['batch_stats']
  )
  logits = np.asarray(logits, np.float64)[:4]
  label = batch['label'][:4]
  wanted = np.eye(4)[label] * 0.9 + 0.1 / 4
  log_scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(
    value, -(wanted * log_scores).sum(-1).mean(), rtol=1e-5
  )
  assert float(aux['metrics']['accuracy']) == pytest.approx(
    (logits.argmax(-1) == label).mean()
  )
