"""Gradient reversal: the identity whose gradient is multiplied by -strength.

    y = x,    dL/dx = -strength dL/dy

Source: Ganin and Lempitsky, "Unsupervised domain adaptation by
backpropagation", ICML 2015, equations 6 and 7.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def reverse_gradient(x: Array, strength: Array) -> Array:
  """Returns x [...]; its gradient comes back times -strength (float [])."""
  del strength
  return x


def _forward(x: Array, strength: Array) -> tuple[Array, Array]:
  return x, strength


def _backward(strength: Array, gradient: Array) -> tuple[Array, Array]:
  return -strength * gradient, jnp.zeros_like(strength)


reverse_gradient.defvjp(_forward, _backward)
