"""A small DSNet with batches and weights, for the tests of DSNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet
from tests.random_tree import params_like

SIZE = {'channels': (4, 6), 'embedding': 8, 'max_frames': 12, 'bins': 8}
SMALL = DSNet(num_classes=3, **SIZE)
RNG = jax.random.key(0)
START = Progress(jnp.int32(0), jnp.int32(0))
EMPTY_ROWS = np.array([2, 6, 7, 13])
"""Padding rows of `padded_batch()`; both of the fourth of eight devices."""
KEPT = np.setdiff1d(np.arange(16), EMPTY_ROWS)


def make_variant(variant, **settings):
  """A small system without dropout."""
  dropout = {'encoder_dropout': 0.0, 'classifier_dropout': 0.0}
  settings = {'num_speakers': 4, **dropout, **SIZE, **settings}
  return DSNet(num_classes=3, variant=variant, **settings)


def padded_batch(references=('neutral',), seed=0):
  """16 utterances of 4 speakers and 3 classes, EMPTY_ROWS among them."""
  rng, batch = np.random.default_rng(seed), {}
  for prefix in ('', *(f'{name}_' for name in references)):
    batch[f'{prefix}features'] = rng.normal(5, 3, (16, 14, 8))
    batch[f'{prefix}length'] = rng.integers(3, 15, 16)
    batch[f'{prefix}speaker'] = rng.integers(0, 4, 16)
  batch |= {'label': rng.integers(0, 3, 16), 'row': np.arange(16)}
  batch['mask'] = 1.0 * ~np.isin(np.arange(16), EMPTY_ROWS)
  return {
    name: x.astype(np.float32 if x.dtype == np.float64 else np.int32)
    for name, x in batch.items()
  }


@functools.cache
def make_variables(system, seed=0):
  """Random parameters and positive statistics."""
  batch = padded_batch(system.references)
  params, state = params_like(system.init, RNG, batch, seed=seed)
  return params, jax.tree.map(np.abs, state)


@functools.cache
def compiled(system, phase='main'):
  """The loss and its gradients of (params, state, batch, rng, progress)."""
  loss = functools.partial(system.loss, phase=phase)
  return jax.jit(jax.value_and_grad(loss, has_aux=True))
