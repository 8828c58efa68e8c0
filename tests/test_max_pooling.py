"""2 x 2 max pooling: values, ties, odd edges, every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxser.ops.max_pooling import max_pool


@pytest.mark.parametrize('shape', [(2, 6, 4, 3), (2, 7, 5, 3), (1, 2, 2, 1)])
def test_value_and_gradient_are_those_of_flax(shape):
  x = jax.random.normal(jax.random.key(0), shape)

  def run(pool):
    y, pull = jax.vjp(pool, x)
    return y, *pull(jnp.cos(y))

  wanted = run(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
  jax.tree.map(np.testing.assert_array_equal, run(max_pool), wanted)


def test_of_equal_entries_the_first_gets_the_gradient():
  windows = jnp.array(
    [[1, 1, 1, 1], [0, 2, 2, 2], [0, 0, 3, 3], [5, 0, 0, 5], [0, 4, 4, 0]],
    jnp.float32,
  )
  images = windows.reshape(5, 2, 2, 1)
  gradient = jax.grad(lambda x: max_pool(x).sum())(images).reshape(5, 4)
  np.testing.assert_array_equal(gradient.argmax(1), [0, 1, 2, 0, 1])
  np.testing.assert_array_equal(gradient.sum(1), 1)


def test_gradient_survives_a_compiler_that_rounds_twice():
  # At this level XLA computes the argument again for the gradient, fused and
  # rounded differently; the gradient of jnp.max is then 0 / 0.
  x = jax.random.normal(jax.random.key(0), (8, 12, 8, 3))
  scale = jnp.linspace(0.5, 2, 3)

  def loss(scale):
    y = x * scale[None, None, None] + (0.3 - 1.7 * scale)[None, None, None]
    return jnp.sum(jnp.sin(max_pool(y)))

  options = {'xla_backend_optimization_level': 0}
  got = jax.jit(jax.grad(loss), compiler_options=options)(scale)
  np.testing.assert_allclose(got, jax.jit(jax.grad(loss))(scale), rtol=1e-4)
