"""The looped convolution equals XLA's, forwards, backwards and mapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import convolution
from jaxser.ops.convolution import convolve
from tests.random_tree import assert_close


def _plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _run(function=convolve):
  """(loss, values) and gradients of both arguments."""

  def loss(x, kernel):
    y = function(x, kernel)
    return jnp.sum(jnp.sin(y)), y

  return jax.value_and_grad(loss, (0, 1), has_aux=True)


def _data(seed=0, window=(5, 5)):
  keys = jax.random.split(jax.random.key(seed))
  x = jax.random.normal(keys[0], (2, 9, 6, 3))
  return x, 0.2 * jax.random.normal(keys[1], (*window, 3, 4))


def _folds(number):
  return [jnp.stack(x) for x in zip(*map(_data, range(number)), strict=True)]


@pytest.mark.parametrize('window', [(5, 5), (1, 7)])
def test_value_and_gradients_are_those_of_xla(window):
  data = _data(window=window)
  assert_close(jax.jit(_run())(*data), jax.jit(_run(_plain))(*data), 1e-5)


@pytest.mark.parametrize('cache', [2**21, 2688], ids=['whole', 'blocks'])
def test_both_forms_of_the_kernel_gradient_agree(cache, monkeypatch):
  # Blocks of two of five images and of five of nine rows, so that both are padded.
  monkeypatch.setattr(convolution, '_CACHE', cache)
  keys = jax.random.split(jax.random.key(9))
  x = jax.random.normal(keys[0], (5, 9, 6, 3))
  args = x, jax.random.normal(keys[1], (5, 9, 6, 4)), 'highest', (5, 3)
  found = convolution._kernel_gradient_cpu(*args)
  assert_close(found, convolution._kernel_gradient(*args), 1e-5)


@pytest.mark.parametrize('axes', [(0, 0), (0, None), (None, 0)])
def test_vmap(axes):
  pairs = zip(_folds(3), axes, strict=True)
  inputs = [value if axis == 0 else value[0] for value, axis in pairs]
  got, want = (
    jax.jit(jax.vmap(_run(function), axes))(*inputs)
    for function in (convolve, _plain)
  )
  assert_close(got, want, 1e-5)


def test_vmap_over_kernels_is_no_grouped_convolution():
  # The reason for this module, seen in the program that is compiled.
  def program(function):
    return str(jax.make_jaxpr(jax.vmap(_run(function)))(*_folds(2)))

  assert 'feature_group_count=2' in program(_plain)
  assert 'feature_group_count=2' not in program(convolve)
  assert 'batch_group_count=2' not in program(convolve)


def test_inside_scan_and_pmap():
  x, kernel = _data()
  want = _run()(x, kernel)

  def twice(carry, _):
    return carry, _run()(x, kernel)

  _, got = jax.jit(lambda: jax.lax.scan(twice, 0, length=2))()
  both = jax.pmap(_run(), in_axes=(0, None))(jnp.stack([x, x]), kernel)
  for found in (got, both):
    assert_close(jax.tree.map(lambda v: v[1], found), want, 1e-5)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_get_plain_convolutions(platform):
  traced = jax.jit(_run()).trace(*_data())
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.convolution') == 3
  assert 'dot_general' not in text


def test_bfloat16_is_close():
  half = [v.astype(jnp.bfloat16) for v in _data()]
  gradients = jax.grad(lambda *a: convolve(*a).sum(), (0, 1))
  for a, b in zip(gradients(*half), gradients(*_data()), strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03 * 50)
