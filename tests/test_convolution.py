"""The looped convolution equals XLA's, forwards, backwards and mapped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import convolution
from jaxser.ops.convolution import convolve

HIGHEST = jax.lax.Precision.HIGHEST


def _plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _loss(function):
  return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))


def _gradients(function):
  return jax.value_and_grad(_loss(function), argnums=(0, 1))


def _data(seed=0, window=(5, 5)):
  keys = jax.random.split(jax.random.key(seed))
  x = jax.random.normal(keys[0], (2, 9, 6, 3))
  return x, 0.2 * jax.random.normal(keys[1], (*window, 3, 4))


def _assert_close(got, want):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    want,
  )


@pytest.mark.parametrize('window', [(5, 5), (1, 7)])
def test_value_and_gradients_are_those_of_xla(window):
  data = _data(window=window)
  np.testing.assert_allclose(convolve(*data), _plain(*data), atol=1e-5)
  _assert_close(
    jax.jit(_gradients(convolve))(*data), jax.jit(_gradients(_plain))(*data)
  )


def test_both_forms_of_the_kernel_gradient_agree():
  x, _ = _data()
  gradient = jax.random.normal(jax.random.key(9), (2, 9, 6, 4))
  options = {'precision': HIGHEST, 'window': (5, 3)}
  np.testing.assert_allclose(
    convolution._kernel_gradient_cpu(x, gradient, **options),
    convolution._kernel_gradient(x, gradient, **options),
    atol=1e-5,
  )


@pytest.mark.parametrize('axes', [(0, 0), (0, None), (None, 0)])
def test_vmap(axes):
  folds = [_data(seed) for seed in range(3)]
  x, kernel = (jnp.stack(part) for part in zip(*folds, strict=True))
  inputs = [
    value if axis == 0 else value[0]
    for value, axis in zip((x, kernel), axes, strict=True)
  ]
  got = jax.jit(jax.vmap(_gradients(convolve), axes))(*inputs)
  want = jax.jit(jax.vmap(_gradients(_plain), axes))(*inputs)
  _assert_close(got, want)


def test_vmap_over_kernels_is_no_grouped_convolution():
  # The reason for this module, seen in the program that is compiled.
  x, kernel = (jnp.stack(part) for part in zip(_data(0), _data(1), strict=True))

  def program(function):
    return str(jax.make_jaxpr(jax.vmap(_gradients(function)))(x, kernel))

  assert 'feature_group_count=2' in program(_plain)
  assert 'feature_group_count=2' not in program(convolve)
  assert 'batch_group_count=2' not in program(convolve)


def test_inside_scan_and_pmap():
  x, kernel = _data()
  want = _gradients(convolve)(x, kernel)
  _, got = jax.jit(
    lambda: jax.lax.scan(
      lambda carry, _: (carry, _gradients(convolve)(x, kernel)), 0, length=2
    )
  )()
  _assert_close(jax.tree.map(lambda v: v[1], got), want)
  both = jax.pmap(_gradients(convolve), in_axes=(0, None))(
    jnp.stack([x, x]), kernel
  )
  _assert_close(jax.tree.map(lambda v: v[1], both), want)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_get_plain_convolutions(platform):
  lowered = (
    jax.jit(_gradients(convolve))
    .trace(*_data())
    .lower(lowering_platforms=(platform,))
  )
  text = lowered.as_text()
  assert text.count('stablehlo.convolution') == 3
  assert 'dot_general' not in text


def test_bfloat16_is_close():
  x, kernel = _data()
  half = functools.partial(jax.tree.map, lambda v: v.astype(jnp.bfloat16))
  got = jax.grad(lambda *a: convolve(*a).sum(), (0, 1))(*half((x, kernel)))
  want = jax.grad(lambda *a: convolve(*a).sum(), (0, 1))(x, kernel)
  for a, b in zip(got, want, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03 * 50)
