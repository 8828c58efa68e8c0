"""BatchNorm, dropout, convolution: padding and sharding change no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.nn import layers
from jaxser.ops.collectives import DATA
from tests.random_tree import assert_close

# A mean far above the spread, as log-mel in dB has.
X = 40 + np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)


def apply_norm(x, mask=None):
  """tests/parity has the values of running statistics."""
  norm = layers.BatchNorm(momentum=0.9)
  variables = layers.BatchNorm().init(jax.random.key(0), x, train=False)
  moving = {'train': True, 'mutable': ['batch_stats']}
  return norm.apply(variables, x, mask=mask, **moving)


def test_padding_changes_no_statistic_and_no_output():
  rows, frames = np.arange(6) < 4, np.ones((6, 1)) * (np.arange(5) < 3)
  found, state = apply_norm(np.where(rows[:, None, None], X, 1e3), rows)
  assert_close((found[:4], state), apply_norm(X[:4]), 2e-6)
  found, _ = apply_norm(np.where(frames[..., None], X, -1e3), frames)
  assert_close(found[:, :3], apply_norm(X[:, :3])[0], 1e-5)
  _, state = apply_norm(X, np.zeros(6))
  wanted = {'mean': np.zeros(3), 'var': np.ones(3)}
  jax.tree.map(np.testing.assert_array_equal, state['batch_stats'], wanted)


def test_pmap_statistics_are_those_of_the_global_batch():
  mask = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32).reshape(8, 1)
  rows = np.concatenate([X, np.zeros((2, 5, 3), np.float32)])
  found, state = jax.pmap(apply_norm, DATA)(rows.reshape(8, 1, 5, 3), mask)
  wanted, wanted_state = apply_norm(X)
  assert_close(np.asarray(found).reshape(8, 5, 3)[:6], wanted, 1e-5)
  for device in range(8):
    assert_close(jax.tree.map(lambda x: x[device], state), wanted_state, 1e-6)


def drop(x, rows):
  rngs = {'dropout': jax.random.key(3)}
  return layers.Dropout(0.5).apply({}, x, rows, train=True, rngs=rngs)


def test_dropout_mask_follows_the_row_not_the_shard():
  x, rows = jnp.ones((16, 7, 4)), jnp.arange(16)
  whole = drop(x, rows)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  meshed = jax.jit(drop)(*jax.device_put((x, rows), sharding))
  mapped = jax.pmap(drop)(x.reshape(8, 2, 7, 4), rows.reshape(8, 2))
  np.testing.assert_array_equal(whole, meshed)
  np.testing.assert_array_equal(whole, np.asarray(mapped).reshape(16, 7, 4))
  assert 0.35 < np.mean(whole == 0) < 0.65
  assert set(np.unique(whole)) == {0.0, 2.0}
  assert layers.Dropout(0.5).apply({}, x, rows, train=False) is x
  assert layers.Dropout(0.0).apply({}, x, rows, train=True) is x


@pytest.mark.parametrize(
  ('width', 'stride', 'time'), [(5, 1, 9), (5, 2, 9), (3, 2, 8), (5, 2, 1)]
)
def test_convolution_over_frames_is_that_of_flax(width, stride, time):
  x = jax.random.normal(jax.random.key(0), (2, time, 6))
  half, key = width // 2, jax.random.key(1)
  options = {'strides': (stride,), 'padding': ((half, half),)}

  def both(module):
    def total(params, x):
      y = module.apply(params, x)
      return jnp.sum(jnp.sin(y)), y

    params = module.init(key, x)
    return params, jax.value_and_grad(total, (0, 1), has_aux=True)(params, x)

  ours, found = both(layers.FrameConvolution(7, width, stride))
  theirs, wanted = both(nn.Conv(7, (width,), precision='highest', **options))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert_close(found, wanted, 1e-5)
