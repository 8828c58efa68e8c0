"""TIM-Net's operations against the library's and against their formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxser.ops import temporal
from jaxser.ops.collectives import DATA, psum
from tests.random_tree import assert_close, quick_jit

STREAMS, BATCH, TIME, CHANNELS = 2, 3, 40, 5


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def library_convolution(x, kernel, dilation):
  """The same by XLA's dilated convolution, stream by stream."""
  lag = (kernel.shape[1] - 1) * dilation
  convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=(1,),
    padding=[(lag, 0)],
    rhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    precision='highest',
  )
  return jnp.stack([convolve(*pair) for pair in zip(x, kernel, strict=True)])


# The last two reach far beyond the first frame, one of them with every tap.
@pytest.mark.parametrize(
  ('width', 'dilation'), [(1, 1), (2, 1), (2, 8), (3, 4), (3, 30), (2, 128)]
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

  found, wanted = run(temporal.causal_convolution), run(library_convolution)
  assert_close(found, wanted, 1e-5)
  for in_parts in (True, False):  # On a CPU, and on an accelerator.
    both = temporal._convolution_gradients(
      dilation, x, kernel, cotangent, in_parts
    )
    assert_close(both, wanted[1:], 1e-5)


@pytest.mark.parametrize('dilation', [2**j for j in range(10)])
def test_an_output_sees_exactly_its_taps_and_no_future(dilation):
  kernel, moment = normal(1, 3, CHANNELS, CHANNELS), 280

  def value(x):
    y = temporal.causal_convolution(x, kernel, dilation)
    return jnp.sum(y[:, :, moment])

  gradient = jax.grad(value)(jnp.ones((1, 1, 300, CHANNELS)))
  seen = np.flatnonzero(np.abs(gradient).sum((0, 1, 3)))
  taps = [moment - k * dilation for k in (2, 1, 0)]
  assert seen.tolist() == [t for t in taps if t >= 0]


def plain(x, scale, bias, factor, mask):
  """The formula of normalised_relu, left to automatic differentiation."""
  weight = mask[None, :, None, None]
  count = jnp.sum(mask) * x.shape[2]
  mean = jnp.sum(x * weight, (1, 2), keepdims=True) / count
  centred = x - mean
  variance = jnp.sum(centred**2 * weight, (1, 2), keepdims=True) / count
  y = centred / jnp.sqrt(variance + 1e-3) * scale[:, None, None]
  y = jax.nn.relu(y + bias[:, None, None])
  return y * factor[:, :, None], (mean[:, 0, 0], variance[:, 0, 0], count)


def ours(*args):
  return temporal.normalised_relu(*args, 1e-3)


def norm_inputs(batch=6, real=4, mean=0.0):
  """Arguments, and weights of a sum that, as a loss, leaves out padding."""
  x = mean + normal(STREAMS, batch, TIME, CHANNELS)
  scale = 1 + 0.1 * normal(STREAMS, CHANNELS, seed=1)
  bias = 0.1 * normal(STREAMS, CHANNELS, seed=2)
  kept = normal(STREAMS, batch, CHANNELS, seed=3) > -1
  mask = (np.arange(batch) < real).astype(np.float32)
  weights = normal(*x.shape, seed=4) * mask[None, :, None, None]
  return (x, scale, bias, kept.astype(np.float32) / 0.9, mask), weights


def run_norm(args, weights, function=ours):
  def total(*args):
    z, moments = function(*args)
    return jnp.sum(z * weights), (z, moments)

  return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(*args)


def test_normalised_relu_is_the_formula_with_its_gradients():
  args, weights = norm_inputs()
  found, wanted = run_norm(args, weights), run_norm(args, weights, plain)
  assert_close(found, wanted, 2e-5)


def test_a_mean_far_above_the_spread_costs_no_precision():
  args, _ = norm_inputs(mean=1e3)
  _, (mean, variance, count) = ours(*args)
  exact = args[0][:, :4].astype(np.float64)
  np.testing.assert_allclose(mean, exact.mean((1, 2)), rtol=1e-6)
  np.testing.assert_allclose(variance, exact.var((1, 2)), rtol=1e-5)
  assert float(count) == 4 * TIME


def test_nothing_but_padding_is_not_a_number_nowhere():
  found = run_norm(*norm_inputs(real=0))
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(found))
  assert not any(np.any(v) for v in jax.tree.leaves(found[1]))


def test_devices_together_find_the_global_statistics_and_gradients():
  args, weights = norm_inputs(batch=16, real=13)

  def run(x, scale, bias, factor, mask, weights):
    (_, (z, moments)), (dx, *shares) = run_norm(
      (x, scale, bias, factor, mask), weights
    )
    return (z, dx), (moments, psum(shares))

  def split(value):
    return np.stack(np.split(value, 8, axis=1))

  x, scale, bias, factor, mask = args
  rows, shared = jax.pmap(run, DATA, in_axes=(0, None, None, 0, 0, 0))(
    split(x), scale, bias, split(factor), mask.reshape(8, 2), split(weights)
  )
  wanted_rows, wanted_shared = quick_jit(run)(*args, weights)
  rows = [np.concatenate(list(x), axis=1) for x in rows]
  assert_close(tuple(rows), wanted_rows, 1e-5)
  for device in range(8):
    assert_close(jax.tree.map(lambda x: x[device], shared), wanted_shared, 1e-5)


def test_both_run_under_vmap_over_folds():
  x = normal(3, STREAMS, BATCH, TIME, CHANNELS)
  kernel = normal(3, STREAMS, 2, CHANNELS, CHANNELS, seed=1)
  scale, bias = 1 + normal(2, 3, STREAMS, CHANNELS, seed=2)
  folds, rest = (
    (x, kernel, scale, bias),
    (jnp.ones((STREAMS, BATCH, CHANNELS)),),
  )

  def loss(x, kernel, *affine):
    y = temporal.causal_convolution(x, kernel, 4)
    return jnp.sum(ours(y, *affine, *rest, jnp.ones(BATCH))[0] ** 2)

  gradient = jax.grad(loss, (0, 1, 2, 3))
  together, alone = quick_jit(jax.vmap(gradient))(*folds), quick_jit(gradient)
  for fold in range(3):
    found, given = (
      tuple(v[fold] for v in values) for values in (together, folds)
    )
    assert_close(found, alone(*given), 1e-5)
