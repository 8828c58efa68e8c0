"""Gradient reversal: identity forwards, -strength backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops.reversal import reverse_gradient


@pytest.mark.parametrize('strength', [0.0, 0.3, 1.0])
def test_identity_with_reversed_gradient(strength):
  x = jnp.array([1.5, -2.25, 1e-9])

  def f(x, strength):
    return jnp.sum(jnp.sin(reverse_gradient(x, strength)))

  value, gradient = jax.jit(jax.value_and_grad(f))(x, jnp.float32(strength))
  assert value == jnp.sum(jnp.sin(x))
  np.testing.assert_allclose(gradient, -strength * jnp.cos(x), rtol=1e-6)
  assert jax.grad(f, argnums=1)(x, jnp.float32(strength)) == 0


def test_vmap_over_strengths():
  gradient = jax.vmap(jax.grad(reverse_gradient), (None, 0))(
    jnp.float32(2), jnp.array([0.0, 0.5])
  )
  np.testing.assert_array_equal(gradient, [0, -0.5])
