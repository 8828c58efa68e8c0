import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.nn import layers
from jaxser.ops.collectives import DATA


@pytest.fixture
def x():
  rng = np.random.default_rng(0)
  # A mean far above the spread, as log-mel in dB has.
  return (40 + rng.standard_normal((6, 5, 3))).astype(np.float32)


def apply_norm(x, mask=None, unbiased=False):
  norm = layers.BatchNorm(momentum=0.9, unbiased=unbiased)
  variables = layers.BatchNorm().init(jax.random.key(0), x, train=False)
  return norm.apply(
    variables, x, train=True, mask=mask, mutable=['batch_stats']
  )


def test_padding_rows_change_no_statistic_and_no_output(x):
  expected, stats = apply_norm(x[:4])
  padded = np.concatenate([x[:4], np.full((2, 5, 3), 1e3, np.float32)])
  mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
  found, padded_stats = apply_norm(padded, mask)
  np.testing.assert_allclose(found[:4], expected, atol=2e-5)
  assert_close(stats, padded_stats)


def assert_close(one, other):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), one, other
  )


@pytest.mark.parametrize('unbiased', [False, True])
def test_statistics_are_those_of_float64(x, unbiased):
  _, state = apply_norm(x, unbiased=unbiased)
  exact = x.astype(np.float64)
  mean = 0.1 * exact.mean((0, 1))
  variance = 0.9 + 0.1 * exact.var((0, 1), ddof=int(unbiased))
  np.testing.assert_allclose(state['batch_stats']['mean'], mean, rtol=1e-6)
  np.testing.assert_allclose(state['batch_stats']['var'], variance, rtol=1e-6)


def test_all_padding_leaves_running_statistics_alone(x):
  _, state = apply_norm(x, np.zeros(6, np.float32))
  np.testing.assert_array_equal(state['batch_stats']['mean'], np.zeros(3))
  np.testing.assert_array_equal(state['batch_stats']['var'], np.ones(3))


def test_frame_mask_leaves_out_padded_frames(x):
  mask = np.ones((6, 5), np.float32)
  mask[:, 3:] = 0
  dirty = x.copy()
  dirty[:, 3:] = -1e3
  found, _ = apply_norm(dirty, mask)
  expected, _ = apply_norm(x[:, :3])
  np.testing.assert_allclose(found[:, :3], expected, atol=2e-5)


def test_pmap_statistics_are_those_of_the_global_batch(x):
  expected, expected_state = apply_norm(x)
  mask = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
  rows = np.concatenate([x, np.zeros((2, 5, 3), np.float32)])
  found, state = jax.pmap(apply_norm, axis_name=DATA)(
    rows.reshape(8, 1, 5, 3), mask.reshape(8, 1)
  )
  np.testing.assert_allclose(
    np.asarray(found).reshape(8, 5, 3)[:6], expected, atol=2e-5
  )
  for device in range(8):
    assert_close(jax.tree.map(lambda x: x[device], state), expected_state)


def drop(x, rows):
  return layers.Dropout(0.5).apply(
    {}, x, rows, train=True, rngs={'dropout': jax.random.key(3)}
  )


def test_dropout_mask_follows_the_row_not_the_shard():
  x, rows = jnp.ones((16, 7, 4)), jnp.arange(16)
  whole = drop(x, rows)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  meshed = jax.jit(drop)(
    jax.device_put(x, sharding), jax.device_put(rows, sharding)
  )
  mapped = jax.pmap(drop)(x.reshape(8, 2, 7, 4), rows.reshape(8, 2))
  np.testing.assert_array_equal(whole, meshed)
  np.testing.assert_array_equal(whole, np.asarray(mapped).reshape(16, 7, 4))
  assert 0.35 < float(jnp.mean(whole == 0)) < 0.65
  assert set(np.unique(whole)) == {0.0, 2.0}
  assert layers.Dropout(0.5).apply({}, x, rows, train=False) is x
  assert layers.Dropout(0.0).apply({}, x, rows, train=True) is x


@pytest.mark.parametrize(
  ('width', 'stride', 'time'), [(5, 1, 9), (5, 2, 9), (3, 2, 8), (5, 2, 1)]
)
def test_convolution_over_frames_is_that_of_flax(width, stride, time):
  x = jax.random.normal(jax.random.key(0), (2, time, 6))
  ours = layers.FrameConvolution(7, width, stride)
  theirs = nn.Conv(
    7,
    (width,),
    strides=(stride,),
    padding=((width // 2, width // 2),),
    precision='highest',
  )
  params = ours.init(jax.random.key(1), x)
  jax.tree.map(
    np.testing.assert_array_equal, params, theirs.init(jax.random.key(1), x)
  )

  def both(module):
    def total(params, x):
      y = module.apply(params, x)
      return jnp.sum(jnp.sin(y)), y

    return jax.value_and_grad(total, (0, 1), has_aux=True)(params, x)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    both(ours),
    both(theirs),
  )
