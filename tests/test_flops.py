import jax
import jax.numpy as jnp
import pytest

from jaxser.benchmark import flops
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import SIZES


def test_products_and_convolutions():
  x, kernel = jnp.ones((2, 10, 3)), jnp.ones((4, 3, 5))
  assert flops.count(lambda a: a @ jnp.ones((3, 7)), x) == 2 * 2 * 10 * 3 * 7

  def convolve(x, kernel, groups=1):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2,),
      'VALID',
      dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=groups,
    )

  # Four outputs of four taps over three channels, five filters, two rows.
  assert flops.count(convolve, x, kernel) == 2 * 2 * 4 * 5 * 4 * 3
  grouped = jnp.ones((4, 1, 6))
  found = flops.count(lambda x, k: convolve(x, k, 3), x, grouped)
  assert found == 2 * 2 * 4 * 6 * 4


def test_loops_branches_and_rematerialisation():
  w = jnp.ones((8, 8))
  once = 2 * 8**3

  def scanned(x):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)[0]

  def branched(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

  def loss(x, w):
    return jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ w))(x))

  assert flops.count(scanned, w) == 7 * once
  assert flops.count(jax.jit(scanned), w) == 7 * once
  assert flops.count(branched, w) == 2 * once
  # Forward, again, and one product for the gradient of x.
  assert flops.count(jax.grad(loss), w, w) == 3 * once


@pytest.mark.parametrize('size', ['tiny', 'large'])
def test_wavlm_agrees_with_its_formula(size):
  config = SIZES[size]
  model = WavLM(config)
  samples = jax.ShapeDtypeStruct((1, 16_000), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), samples)
  found = flops.count(model.apply, variables, samples)
  assert found == pytest.approx(sum(config.flops(16_000).values()), rel=0.01)
