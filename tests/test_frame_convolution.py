"""The convolution over frames has Flax's values, gradients and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxser.nn.frame_convolution import FrameConvolution


@pytest.mark.parametrize(
  ('width', 'stride', 'time'), [(5, 1, 9), (5, 2, 9), (3, 2, 8), (5, 2, 1)]
)
def test_equals_flax(width, stride, time):
  x = jax.random.normal(jax.random.key(0), (2, time, 6))
  ours = FrameConvolution(7, width, stride)
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

  (_, y), gradients = both(ours)
  (_, expected), expected_gradients = both(theirs)
  assert y.shape == (2, -(-time // stride), 7)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    gradients,
    expected_gradients,
  )


def test_an_even_width_has_no_middle():
  with pytest.raises(ValueError, match='odd width, not 4'):
    FrameConvolution(3, 4).init(jax.random.key(0), jnp.zeros((1, 5, 2)))
