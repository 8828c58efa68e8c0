"""BatchNorm with 2 x 2 max pooling: values, ties, odd edges, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxser.nn.layers import masked_moments
from jaxser.ops.max_pooling import normalised_pool, pool
from tests.random_tree import assert_close

EPSILON = 1e-5
ONE, ZERO = jnp.ones(1), jnp.zeros(1)


def plain(x, scale, bias, mask):
  """The formula of normalised_pool, with flax and automatic differentiation."""
  mean, var, count = masked_moments(x, mask)
  slope = scale * jax.lax.rsqrt(var + EPSILON)
  y = x * slope[None, None, None] + (bias - mean * slope)[None, None, None]
  return nn.relu(nn.max_pool(y, (2, 2), (2, 2))), (mean, var, count)


@pytest.mark.parametrize('shape', [(3, 6, 4, 5), (3, 7, 5, 5), (2, 2, 2, 1)])
@pytest.mark.parametrize('real', [0, 1])
def test_value_and_gradients_are_those_of_the_formula(shape, real):
  draw = np.random.default_rng(0).standard_normal
  scale, bias = draw((2, shape[-1])).astype(np.float32)
  x = 3 * draw(shape).astype(np.float32) + 2
  mask = (np.arange(len(x)) <= real).astype(np.float32)
  dz = draw((shape[0], shape[1] // 2, shape[2] // 2, shape[3]))

  def run(function):
    z, pull, moments = jax.vjp(
      lambda *args: function(*args, mask), x, scale, bias, has_aux=True
    )
    return z, moments, pull(jnp.float32(dz))

  found = run(lambda *args: normalised_pool(*args, EPSILON))
  assert_close(found, run(plain), 1e-5)


def test_nothing_but_padding_is_not_a_number_nowhere():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  args = x, jnp.ones(3), jnp.zeros(3), jnp.zeros(2)
  z, pull, moments = jax.vjp(
    lambda *args: normalised_pool(*args, EPSILON), *args, has_aux=True
  )
  found = jax.tree.leaves((z, moments, pull(jnp.ones_like(z))[:3]))
  assert all(np.isfinite(value).all() for value in found)


def test_of_equal_entries_the_first_gets_the_gradient():
  windows = jnp.array(
    [[1, 1, 1, 1], [0, 2, 2, 2], [0, 0, 3, 3], [5, 0, 0, 5], [0, 4, 4, 0]],
    jnp.float32,
  )
  images = windows.reshape(5, 2, 2, 1)
  np.testing.assert_array_equal(
    pool(images, ONE, ZERO).ravel(), [1, 2, 3, 5, 4]
  )

  def total(x):
    return normalised_pool(x, ONE, 9 * ONE, jnp.ones(5), EPSILON)[0].sum()

  # The rest of the gradient, through the moments, is the same for equal ones.
  gradient = jax.grad(total)(images).reshape(5, 4)
  np.testing.assert_array_equal(gradient.argmax(1), [0, 1, 2, 0, 1])


def test_gradient_survives_a_compiler_that_rounds_twice():
  # At this level XLA computes the argument again for the gradient, fused and
  # rounded differently; the gradient of jnp.max is then 0 / 0.
  x = jax.random.normal(jax.random.key(0), (8, 12, 8, 3))
  scale = jnp.linspace(0.5, 2, 3)

  def loss(scale):
    shift = 0.3 - 1.7 * scale
    z, _ = normalised_pool(
      x * scale[None, None, None], scale, shift, jnp.ones(8), EPSILON
    )
    return jnp.sum(jnp.sin(z))

  options = {'xla_backend_optimization_level': 0}
  got = jax.jit(jax.grad(loss), compiler_options=options)(scale)
  np.testing.assert_allclose(got, jax.jit(jax.grad(loss))(scale), rtol=1e-4)
