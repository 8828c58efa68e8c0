"""Operations with gradients of their own; tests/parity has more of their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxser.nn.layers import masked_moments
from jaxser.ops import convolution, temporal
from jaxser.ops.convolution import convolve
from jaxser.ops.max_pooling import normalised_pool, pool
from tests.random_tree import assert_close

STREAMS, TIME, CHANNELS = 2, 40, 5


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Images.


def library_convolve(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def with_gradients(function):
  """(loss, values) and gradients of both arguments."""

  def loss(x, kernel):
    y = function(x, kernel)
    return jnp.sum(jnp.sin(y)), y

  return jax.value_and_grad(loss, (0, 1), has_aux=True)


def images(window, count):
  x = normal(count, 2, 9, 6, 3)
  return x, 0.2 * normal(count, *window, 3, 4, seed=1)


@pytest.mark.parametrize(
  ('axes', 'window', 'dtype', 'tolerance'),
  [
    ((0, 0), (5, 5), 'float32', 1e-5),
    ((0, None), (1, 7), 'float32', 1e-5),
    ((None, 0), (5, 5), 'float32', 1e-5),
    ((0, 0), (5, 5), 'bfloat16', 3e-2),
  ],
)
def test_mapped_convolutions_are_those_of_xla_but_not_grouped(
  axes, window, dtype, tolerance
):
  pairs = zip(images(window, 3), axes, strict=True)
  inputs = [value if axis == 0 else value[0] for value, axis in pairs]
  ours, theirs = (
    jax.vmap(with_gradients(function), axes)
    for function in (convolve, library_convolve)
  )
  given = [jnp.asarray(x, dtype) for x in inputs]
  found = jax.jit(ours)(*given)
  assert {x.dtype for x in jax.tree.leaves(found[1])} == {jnp.dtype(dtype)}
  found = jax.tree.map(lambda x: x.astype(jnp.float32), found)
  assert_close(found, jax.jit(theirs)(*inputs), tolerance)
  # The reason for this module, seen in the program that is compiled.
  program = str(jax.make_jaxpr(ours)(*given))
  assert 'feature_group_count=3' not in program
  assert 'batch_group_count=3' not in program
  if axes == (0, 0):
    assert 'feature_group_count=3' in str(jax.make_jaxpr(theirs)(*inputs))


@pytest.mark.parametrize('cache', [2**21, 2688], ids=['whole', 'blocks'])
def test_both_forms_of_the_kernel_gradient_agree(cache, monkeypatch):
  # Blocks of two of five images and of five of nine rows, so that both are padded.
  monkeypatch.setattr(convolution, '_CACHE', cache)
  args = normal(5, 9, 6, 3), normal(5, 9, 6, 4, seed=1), 'highest', (5, 3)
  found = convolution._kernel_gradient_cpu(*args)
  assert_close(found, convolution._kernel_gradient(*args), 1e-5)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_get_plain_convolutions(platform):
  x, kernel = images((5, 5), 1)
  traced = jax.jit(with_gradients(convolve)).trace(x[0], kernel[0])
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.convolution') == 3
  assert 'dot_general' not in text


# Streams of frames.


# The last two reach far beyond the first frame, one of them with every tap.
@pytest.mark.parametrize(
  ('width', 'dilation'), [(1, 1), (2, 1), (2, 8), (3, 4), (3, 30), (2, 128)]
)
def test_both_forms_of_the_causal_gradients_agree(width, dilation):
  """On a CPU, where those of parity are, and on an accelerator."""
  given = (
    normal(STREAMS, 3, TIME, CHANNELS),
    normal(STREAMS, width, CHANNELS, 4),
  )
  given += (normal(STREAMS, 3, TIME, 4, seed=2),)
  found, wanted = (
    temporal._convolution_gradients(dilation, *given, in_parts)
    for in_parts in (False, True)
  )
  assert_close(found, wanted, 1e-5)


def test_a_mean_far_above_the_spread_costs_no_precision():
  x = 1e3 + normal(STREAMS, 6, TIME, CHANNELS)
  affine = np.ones((2, STREAMS, CHANNELS), np.float32)
  factor = np.ones((STREAMS, 6, CHANNELS), np.float32)
  given = x, *affine, factor, np.float32([1, 1, 1, 1, 0, 0]), 1e-3
  _, (mean, variance, count) = temporal.normalised_relu(*given)
  exact = x[:, :4].astype(np.float64)
  np.testing.assert_allclose(mean, exact.mean((1, 2)), rtol=1e-6)
  np.testing.assert_allclose(variance, exact.var((1, 2)), rtol=1e-5)
  assert float(count) == 4 * TIME


# Pooling.


def plain_pool(x, scale, bias, mask, epsilon):
  """The formula of normalised_pool, with flax and automatic differentiation."""
  mean, var, count = masked_moments(x, mask)
  slope = scale * lax.rsqrt(var + epsilon)
  y = x * slope[None, None, None] + (bias - mean * slope)[None, None, None]
  return nn.relu(nn.max_pool(y, (2, 2), (2, 2))), (mean, var, count)


@pytest.mark.parametrize('shape', [(3, 6, 4, 5), (3, 7, 5, 5), (2, 2, 2, 1)])
@pytest.mark.parametrize('real', [0, 1, 2])
def test_normalised_pool_is_the_formula_with_its_gradients(shape, real):
  draw = np.random.default_rng(0).standard_normal
  scale, bias = draw((2, shape[-1])).astype(np.float32)
  x = 3 * draw(shape).astype(np.float32) + 2
  mask = (np.arange(len(x)) < real).astype(np.float32)
  dz = draw((shape[0], shape[1] // 2, shape[2] // 2, shape[3]))

  def run(function):
    z, pull, moments = jax.vjp(
      lambda *args: function(*args, mask, 1e-5), x, scale, bias, has_aux=True
    )
    return z, moments, pull(jnp.float32(dz))

  assert_close(run(normalised_pool), run(plain_pool), 1e-5)


def test_of_equal_entries_the_first_gets_the_gradient():
  windows = [
    [1, 1, 1, 1],
    [0, 2, 2, 2],
    [0, 0, 3, 3],
    [5, 0, 0, 5],
    [0, 4, 4, 0],
  ]
  x = jnp.array(windows, jnp.float32).reshape(5, 2, 2, 1)
  one = jnp.ones(1)
  np.testing.assert_array_equal(pool(x, one, 0 * one).ravel(), [1, 2, 3, 5, 4])

  def total(x):
    return normalised_pool(x, one, 9 * one, jnp.ones(5), 1e-5)[0].sum()

  # The rest of the gradient, through the moments, is the same for equal ones.
  gradient = jax.grad(total)(x).reshape(5, 4)
  np.testing.assert_array_equal(gradient.argmax(1), [0, 1, 2, 0, 1])


def test_gradient_of_pooling_survives_a_compiler_that_rounds_twice():
  # At this level XLA computes the argument again for the gradient, fused and
  # rounded differently; the gradient of jnp.max is then 0 / 0.
  x = jax.random.normal(jax.random.key(0), (8, 12, 8, 3))
  scale = jnp.linspace(0.5, 2, 3)

  def loss(scale):
    given = x * scale[None, None, None], scale, 0.3 - 1.7 * scale
    z, _ = normalised_pool(*given, jnp.ones(8), 1e-5)
    return jnp.sum(jnp.sin(z))

  options = {'xla_backend_optimization_level': 0}
  got = jax.jit(jax.grad(loss), compiler_options=options)(scale)
  np.testing.assert_allclose(got, jax.jit(jax.grad(loss))(scale), rtol=1e-4)
