"""A small DSNet with batches and weights, for the tests of DSNet."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet
from tests.random_tree import params_like

SMALL = DSNet(
  num_classes=3,
  channels=(4, 6),
  embedding=8,
  max_frames=12,
  bins=8,
)
PLAIN = dataclasses.replace(
  SMALL,
  encoder_dropout=0.0,
  classifier_dropout=0.0,
  task_weight=0.5,
  calibration_weight=2.0,
  orthogonality_weight=3.0,
  reconstruction_weight=5.0,
)
START = Progress(jnp.int32(0), jnp.int32(0))
EMPTY_ROWS = np.array([2, 6, 7, 13])
"""Padding rows of `batch()`; both rows of the fourth of eight devices."""


def make_batch(rows=16, frames=14, seed=0):
  """Utterances with partners, labels and speakers; nothing padded."""
  rng = np.random.default_rng(seed)
  batch = {
    'features': rng.normal(5, 3, (rows, frames, 8)).astype(np.float32),
    'length': rng.integers(3, frames + 1, rows).astype(np.int32),
    'neutral_features': rng.normal(4, 3, (rows, frames, 8)).astype(np.float32),
    'neutral_length': rng.integers(3, frames + 1, rows).astype(np.int32),
    'label': rng.integers(0, 3, rows).astype(np.int32),
    'speaker': rng.integers(0, 4, rows).astype(np.int32),
    'mask': np.ones(rows, np.float32),
    'row': np.arange(rows, dtype=np.int32),
  }
  return batch


def padded_batch():
  """`make_batch()` with `EMPTY_ROWS`."""
  batch = make_batch()
  batch['mask'][EMPTY_ROWS] = 0
  return batch


def make_variables(system):
  """Random parameters and positive statistics."""
  params, state = params_like(
    system.init, jax.random.key(0), make_batch(rows=1)
  )
  return params, jax.tree.map(np.abs, state)


def value_and_grad(system, **options):
  """The loss with its gradients."""
  return jax.value_and_grad(
    functools.partial(system.loss, **options), has_aux=True
  )


@functools.cache
def compiled(system):
  """The loss and its gradients; compiled once per system and shape."""
  return jax.jit(value_and_grad(system))


def assert_trees_close(got, want, tolerance=2e-4):
  """Compares leaves, allowing a share of each one's largest entry."""

  def check(path, a, b):
    largest = np.max(np.abs(b), initial=0.05)
    np.testing.assert_allclose(
      a,
      b,
      rtol=0,
      atol=tolerance * largest,
      err_msg=jax.tree_util.keystr(path),
    )

  jax.tree_util.tree_map_with_path(check, got, want)
