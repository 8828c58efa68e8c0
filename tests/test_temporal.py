import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxser.ops import temporal
from jaxser.ops.collectives import DATA, psum
from tests.random_tree import quick_jit

STREAMS, BATCH, TIME, CHANNELS = 2, 3, 40, 5
HIGHEST = lax.Precision.HIGHEST


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def library_convolution(x, kernel, dilation):
  """The same by XLA's dilated convolution, stream by stream."""
  lag = (kernel.shape[1] - 1) * dilation
  return jnp.stack(
    [
      lax.conv_general_dilated(
        one,
        weight,
        (1,),
        [(lag, 0)],
        rhs_dilation=(dilation,),
        dimension_numbers=('NWC', 'WIO', 'NWC'),
        precision=HIGHEST,
      )
      for one, weight in zip(x, kernel, strict=True)
    ]
  )


@pytest.mark.parametrize(
  ('width', 'dilation'),
  # The last two reach far beyond the first frame, one of them with every tap.
  [(1, 1), (2, 1), (2, 8), (3, 4), (3, 30), (2, 128)],
)
def test_convolution_and_its_gradients_are_those_of_the_library(
  width, dilation
):
  x = normal(STREAMS, BATCH, TIME, CHANNELS)
  kernel = normal(STREAMS, width, CHANNELS, 4, seed=1)
  cotangent = normal(STREAMS, BATCH, TIME, 4, seed=2)

  def run(convolution):
    y, pull = jax.vjp(lambda x, k: convolution(x, k, dilation), x, kernel)
    return y, *pull(jnp.asarray(cotangent))

  for found, wanted in zip(
    run(temporal.causal_convolution), run(library_convolution), strict=True
  ):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('dilation', [2**j for j in range(10)])
def test_an_output_sees_exactly_its_taps_and_no_future(dilation):
  time, moment = 300, 280
  kernel = normal(1, 3, CHANNELS, CHANNELS)
  gradient = jax.grad(
    lambda x: jnp.sum(
      temporal.causal_convolution(x, kernel, dilation)[:, :, moment]
    )
  )(jnp.ones((1, 1, time, CHANNELS)))
  seen = np.flatnonzero(np.abs(gradient).sum((0, 1, 3)))
  taps = [moment - k * dilation for k in (2, 1, 0)]
  assert seen.tolist() == [t for t in taps if t >= 0]


def plain(x, scale, bias, factor, mask, epsilon):
  """The formula of normalised_relu, left to automatic differentiation."""
  weight = mask[None, :, None, None]
  count = jnp.sum(mask) * x.shape[2]
  mean = jnp.sum(x * weight, (1, 2), keepdims=True) / count
  centred = x - mean
  variance = jnp.sum(centred**2 * weight, (1, 2), keepdims=True) / count
  y = centred / jnp.sqrt(variance + epsilon) * scale[:, None, None]
  y = jax.nn.relu(y + bias[:, None, None])
  return y * factor[:, :, None], (mean[:, 0, 0], variance[:, 0, 0], count)


def norm_inputs(batch=6, real=4, mean=0.0):
  x = mean + normal(STREAMS, batch, TIME, CHANNELS)
  scale = 1 + 0.1 * normal(STREAMS, CHANNELS, seed=1)
  bias = 0.1 * normal(STREAMS, CHANNELS, seed=2)
  kept = normal(STREAMS, batch, CHANNELS, seed=3) > -1
  factor = kept.astype(np.float32) / 0.9
  mask = (np.arange(batch) < real).astype(np.float32)
  return x, scale, bias, factor, mask


def masked_sum(function, weights, x, scale, bias, factor, mask):
  """A scalar that, as a loss does, leaves out padding rows."""
  z, moments = function(x, scale, bias, factor, mask)
  return jnp.sum(z * weights * mask[None, :, None, None]), (z, moments)


def test_normalised_relu_is_the_formula_with_its_gradients():
  args = norm_inputs()
  weights = normal(*args[0].shape, seed=4)

  def run(function):
    return jax.value_and_grad(
      functools.partial(masked_sum, function, weights), (0, 1, 2), has_aux=True
    )(*args)

  found = run(lambda *a: temporal.normalised_relu(*a, 1e-3))
  wanted = run(lambda *a: plain(*a, 1e-3))
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_a_mean_far_above_the_spread_costs_no_precision():
  x, scale, bias, factor, mask = norm_inputs(mean=1e3)
  _, (mean, variance, count) = temporal.normalised_relu(
    x, scale, bias, factor, mask, 1e-3
  )
  exact = x[:, :4].astype(np.float64)
  np.testing.assert_allclose(mean, exact.mean((1, 2)), rtol=1e-6)
  np.testing.assert_allclose(variance, exact.var((1, 2)), rtol=1e-5)
  assert float(count) == 4 * TIME


def test_nothing_but_padding_is_not_a_number_nowhere():
  x, scale, bias, factor, _ = norm_inputs()
  (_, (z, moments)), gradients = jax.value_and_grad(
    lambda x: masked_sum(
      lambda *a: temporal.normalised_relu(*a, 1e-3),
      jnp.ones_like(x),
      x,
      scale,
      bias,
      factor,
      jnp.zeros(6),
    ),
    has_aux=True,
  )(jnp.asarray(x))
  assert all(np.isfinite(v).all() for v in (z, *moments, gradients))
  assert not np.any(gradients)


def test_devices_together_find_the_global_statistics_and_gradients():
  args = norm_inputs(batch=16, real=13)
  weights = normal(*args[0].shape, seed=4)

  def run(x, scale, bias, factor, mask, weights):
    def loss(x, scale, bias):
      return masked_sum(
        lambda *a: temporal.normalised_relu(*a, 1e-3),
        weights,
        x,
        scale,
        bias,
        factor,
        mask,
      )

    (_, (z, moments)), (dx, dscale, dbias) = jax.value_and_grad(
      loss, (0, 1, 2), has_aux=True
    )(x, scale, bias)
    return (z, dx), (moments, *psum((dscale, dbias)))

  def split(value):
    return np.stack(np.split(value, 8, axis=1))

  x, scale, bias, factor, mask = args
  rows, shared = jax.pmap(
    run, axis_name=DATA, in_axes=(0, None, None, 0, 0, 0)
  )(split(x), scale, bias, split(factor), mask.reshape(8, 2), split(weights))
  wanted_rows, wanted_shared = quick_jit(run)(*args, weights)
  for found, wanted in zip(rows, wanted_rows, strict=True):
    found = np.concatenate(list(found), axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves(shared), jax.tree.leaves(wanted_shared), strict=True
  ):
    for device in np.asarray(found):
      np.testing.assert_allclose(device, wanted, rtol=1e-5, atol=1e-5)


def test_both_run_under_vmap_over_folds():
  folds = 3
  x = normal(folds, STREAMS, BATCH, TIME, CHANNELS)
  kernel = normal(folds, STREAMS, 2, CHANNELS, CHANNELS, seed=1)
  scale, bias = 1 + normal(2, folds, STREAMS, CHANNELS, seed=2)
  factor = jnp.ones((STREAMS, BATCH, CHANNELS))

  def loss(x, kernel, scale, bias):
    y = temporal.causal_convolution(x, kernel, 4)
    z, _ = temporal.normalised_relu(
      y, scale, bias, factor, jnp.ones(BATCH), 1e-3
    )
    return jnp.sum(z**2)

  gradient = quick_jit(jax.grad(loss, (0, 1, 2, 3)))
  together = quick_jit(jax.vmap(jax.grad(loss, (0, 1, 2, 3))))(
    x, kernel, scale, bias
  )
  for fold in range(folds):
    alone = gradient(x[fold], kernel[fold], scale[fold], bias[fold])
    for one, other in zip(together, alone, strict=True):
      size = float(jnp.max(jnp.abs(other)))
      np.testing.assert_allclose(one[fold], other, rtol=1e-5, atol=1e-5 * size)
