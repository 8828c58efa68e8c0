"""The pure training step, however it is run: jit, pmap, vmap over folds."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

from jaxser.ops.collectives import psum
from jaxser.systems.base import Array, Batch, Progress, System, Tree


class TrainState(struct.PyTreeNode):
  """All that changes while a model is trained; passed in and out of the step.

  Attributes:
    step: int32 [], optimiser steps taken.
    params: parameters.
    model_state: statistics such as BatchNorm's.
    opt_state: optimiser state.
    rng: PRNG key of this training; the step folds its number into it.
    lr_scale: float32 [], factor on the learning rate, set by the schedule.
  """

  step: Array
  params: Tree
  model_state: Tree
  opt_state: Tree
  rng: Array
  lr_scale: Array


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam or AdamW from `config.optimizer`; the schedule scales it per step."""
  adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
  parts = {
    'adam': [adam],
    'adamw': [adam, optax.add_decayed_weights(config.weight_decay)],
  }
  return optax.chain(
    *parts[config.name], optax.scale(-float(config.learning_rate))
  )


def create_state(
  system: System,
  optimizer: optax.GradientTransformation,
  rng: Array,
  batch: Batch,
) -> TrainState:
  """A fresh training state for batches shaped like `batch`."""
  init_rng, train_rng = jax.random.split(rng)
  params, model_state = system.init(init_rng, batch)
  return TrainState(
    step=jnp.int32(0),
    params=params,
    model_state=model_state,
    opt_state=optimizer.init(params),
    rng=train_rng,
    lr_scale=jnp.float32(1),
  )


def _gradients(
  system, state, batch, rng, progress, phase
) -> tuple[Tree, Tree, dict[str, Array]]:
  """Global gradients, new model state and global metrics of one batch."""
  loss_fn = jax.value_and_grad(system.loss, has_aux=True)
  (loss, aux), grads = loss_fn(
    state.params,
    state.model_state,
    batch,
    rng,
    progress,
    phase=phase,
  )
  metrics = psum({**aux['metrics'], 'loss': loss})
  return psum(grads), aux['state'], metrics


def train_step(
  system: System,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  epoch: Array,
  *,
  accumulate: int = 1,
  phase: Hashable = 'main',
) -> tuple[TrainState, dict[str, Array]]:
  """One optimiser step.

  Args:
    system: what is trained.
    optimizer: from `make_optimizer`.
    state: before the step.
    batch: see `jaxser.systems.base.System`.
    epoch: int32 [], epochs completed; traced, so that folds with other numbers
      of steps share one compiled step.
    accumulate: the batch is cut into so many micro-batches (row i belongs to
      micro-batch i % accumulate) whose gradients are averaged.
    phase: static part of the loss.

  Returns:
    The state after the step, and {'loss', 'rows', ...} of the global batch.
  """
  rng = jax.random.fold_in(state.rng, state.step)
  progress = Progress(state.step, jnp.asarray(epoch, jnp.int32))
  if accumulate == 1:
    grads, model_state, metrics = _gradients(
      system, state, batch, rng, progress, phase
    )
  else:
    grads, model_state, metrics = _accumulate(
      system, state, batch, rng, progress, phase, accumulate
    )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  updates = jax.tree.map(lambda u: u * state.lr_scale, updates)
  frozen = system.frozen(state.params, phase)
  if frozen is not None:
    updates = jax.tree.map(
      lambda u, still: jnp.zeros_like(u) if still else u, updates, frozen
    )
  metrics['rows'] = psum(jnp.sum(batch['mask']))
  new_state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    model_state=model_state,
    opt_state=opt_state,
  )
  return new_state, metrics


def _accumulate(
  system, state, batch, rng, progress, phase, count
) -> tuple[Tree, Tree, dict[str, Array]]:
  """Mean gradients over the micro-batches that have at least one real row."""
  # Strided, not contiguous: each device then keeps its own rows.
  micro = jax.tree.map(
    lambda x: jnp.moveaxis(
      x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0
    ),
    dict(batch),
  )

  def one(carry: tuple[Tree, Tree, Array], item: tuple[Array, Any]):
    grads, model_state, used = carry
    index, part = item
    new, new_state, metrics = _gradients(
      system,
      state.replace(model_state=model_state),
      part,
      jax.random.fold_in(rng, index),
      progress,
      phase,
    )
    real = psum(jnp.sum(part['mask'])) > 0
    grads = jax.tree.map(lambda a, b: a + jnp.where(real, b, 0), grads, new)
    model_state = jax.tree.map(
      lambda a, b: jnp.where(real, b, a), model_state, new_state
    )
    metrics = jax.tree.map(lambda m: jnp.where(real, m, 0), metrics)
    return (grads, model_state, used + real), metrics

  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (grads, model_state, used), metrics = jax.lax.scan(
    one,
    (zeros, state.model_state, jnp.float32(0)),
    (jnp.arange(count), micro),
  )
  used = jnp.maximum(used, 1)
  mean = jax.tree.map(lambda g: g / used, grads)
  return mean, model_state, jax.tree.map(lambda m: jnp.sum(m) / used, metrics)
