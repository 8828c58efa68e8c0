"""The pure training step of one run."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

from jaxser.core import optimizers
from jaxser.core.errors import ConfigError
from jaxser.engine import schedule
from jaxser.engine.augmentation import Augmentation
from jaxser.ops.collectives import psum
from jaxser.systems.base import Array, Batch, Progress, System, Tree


class TrainState(struct.PyTreeNode):
  """All that changes while a model is trained; passed in and out of the step.

  Attributes:
    step: int32 [], optimizer steps taken.
    params: parameters.
    model_state: statistics such as BatchNorm's.
    opt_state: optimizer state.
    rng: uint32 [2], words of the run's PRNG key; the step folds its number in.
    lr_scale: float32 [], factor on the learning rate, set by the plateau rule.
    class_weights: float32 [classes], what classes weigh in the loss, or None.
    ema: `optax.EmaState` of (params, model_state), or None.
  """

  step: Array
  params: Tree
  model_state: Tree
  opt_state: Tree
  rng: Array
  lr_scale: Array
  class_weights: Array | None = None
  ema: optax.EmaState | None = None


def make_optimizer(
  config: ml_collections.ConfigDict, system: System
) -> optax.GradientTransformationExtraArgs:
  """Returns the optimizer of `config.optimizer` and `config.schedule`.

  Parameters that are trained in the same updates share one optimizer, whose
  moments and count of steps rest in all others. What is never trained has none.

  Args:
    config: of the run.
    system: what is trained.

  Returns:
    A transformation whose `update` also takes `phase`, the update that is made,
    and `step`, the steps taken.

  Raises:
    ConfigError: if heads are to have a learning rate of their own, and the
      system has no encoder.
  """
  options = config.optimizer.to_dict()
  optimizer, of_heads = optimizers.create(options), None
  if rate := options['head_learning_rate']:
    if not system.encoders:
      raise ConfigError(
        f'--config.optimizer.head_learning_rate={rate}: {type(system).__name__} '
        'has no encoder here whose learning rate could be another; leave it at 0.'
      )
    of_heads = optimizers.create(options, rate)
  epochs = dict.fromkeys(map(system.phase, range(config.epochs)))
  phases = list(
    dict.fromkeys(u for phase in epochs for u in system.updates(phase))
  )

  def label(path, *frozen):
    trained = [
      str(p) for p, rests in zip(phases, frozen, strict=True) if not rests
    ]
    if not trained:
      return 'frozen'
    name = 'trained' if len(trained) == len(phases) else '+'.join(trained)
    is_head = of_heads and path[0].key not in system.encoders
    return f'{name}/head' if is_head else name

  def grouped(params):
    none = jax.tree.map(lambda _: False, params)
    frozen = [system.frozen(params, phase) or none for phase in phases]
    labels = jax.tree_util.tree_map_with_path(label, *frozen)
    groups = {'trained': optimizer, 'frozen': optax.set_to_zero()}
    for name in jax.tree.leaves(labels):
      when, _, head = name.partition('/')
      rule = of_heads if head else optimizer
      if when != 'trained':
        rule = _resting(rule, when.split('+'))
      groups.setdefault(name, rule)
    return optax.multi_transform(groups, labels)

  by_group = optax.GradientTransformationExtraArgs(
    lambda params: grouped(params).init(params),
    lambda grads, state, params, **extra: grouped(params).update(
      grads, state, params, **extra
    ),
  )
  parts = [by_group]
  if options['clip_norm']:
    parts.insert(0, optax.clip_by_global_norm(options['clip_norm']))
  follow = schedule.over_epochs(config.schedule, config.epochs)
  if follow is not None:
    parts.append(schedule.scale_by_epoch(follow))
  return optax.chain(*parts) if len(parts) > 1 else by_group


def _resting(
  optimizer: optax.GradientTransformation, phases: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer that changes nothing in other phases than these."""
  inner = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, *, phase, **extra):
    if str(phase) in phases:
      return inner.update(grads, state, params, phase=phase, **extra)
    return jax.tree.map(jnp.zeros_like, grads), state

  return optax.GradientTransformationExtraArgs(inner.init, update)


def create_state(
  system: System,
  optimizer: optax.GradientTransformation,
  rng: Array,
  batch: Batch,
) -> TrainState:
  """Returns a fresh training state for batches shaped like `batch`."""
  init_rng, train_rng = jax.random.split(rng)
  params, model_state = system.init(init_rng, batch)
  return TrainState(
    step=jnp.int32(0),
    params=params,
    model_state=model_state,
    opt_state=optimizer.init(params),
    rng=jax.random.key_data(train_rng),
    lr_scale=jnp.float32(1),
  )


def train_step(
  system: System,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  epoch: Array,
  *,
  accumulate: int = 1,
  augment: Augmentation | None = None,
  phase: Hashable = 'main',
  ema: float = 0.0,
) -> tuple[TrainState, dict[str, Array]]:
  """Takes one step: the updates of the system's phase, one after the other.

  Where the axis of `jaxser.ops.collectives` is bound, `batch` is this device's
  part of the global batch and the result is the same on every device.

  Args:
    system: what is trained.
    optimizer: from `make_optimizer`.
    state: before the step.
    batch: see `jaxser.systems.base.System`.
    epoch: int32 [], epochs completed; traced, so that runs with other numbers
      of steps share one compiled step.
    accumulate: the batch is cut into so many micro-batches (row i belongs to
      micro-batch i % accumulate) whose gradients are averaged.
    augment: changes the batch before that, or None.
    phase: static part of the loss.
    ema: part of the average of the weights that stays, where the state has one.

  Returns:
    The state after the step, and {'loss', 'rows', ...} of the global batch;
    'loss' is the sum over the updates. Of what they train 'grad_norm' is the
    norm of the gradient, and 'update_ratio' that of the change over that of the
    parameters before it.
  """
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  progress = Progress(state.step, jnp.asarray(epoch, jnp.int32))
  if augment is not None:
    batch = augment(batch, rng)
  if state.class_weights is not None:
    weight = jnp.where(
      batch['label'] < 0, 0, state.class_weights[batch['label']]
    )
    batch = {**batch, 'weight': weight * batch['mask']}
  metrics, before = {}, ()
  for number, update in enumerate(system.updates(phase)):
    key = jax.random.fold_in(rng, number) if number else rng
    state, found, norms = _update(
      system, optimizer, state, batch, key, progress, accumulate, update
    )
    if metrics:
      found['loss'] += metrics['loss']
      # As of one update of all, where each trains other parameters.
      norms = tuple(map(jnp.hypot, norms, before))
    metrics, before = metrics | found, norms
  gradient, change, weights = before
  tiny = jnp.finfo(jnp.float32).tiny
  metrics['grad_norm'] = gradient
  metrics['update_ratio'] = change / jnp.maximum(weights, tiny)
  if ema:
    kept = (state.params, state.model_state)
    _, average = _average(ema).update(kept, state.ema)
    state = state.replace(ema=average)
  return state.replace(step=state.step + 1), metrics


def _update(
  system: System,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  rng: Array,
  progress: Progress,
  accumulate: int,
  phase: Hashable,
) -> tuple[TrainState, dict[str, Array], tuple[Array, Array, Array]]:
  """Moves the parameters that a phase trains against its loss' gradient.

  Returns:
    The state, metrics, and norms of gradient, change and parameters before it.
  """

  def gradients(model_state, batch, rng):
    """Per-device partial sums of gradients and metrics; new statistics."""
    loss_fn = jax.value_and_grad(system.loss, has_aux=True)
    (loss, aux), grads = loss_fn(
      state.params, model_state, batch, rng, progress, phase=phase
    )
    return grads, aux['state'], {**aux['metrics'], 'loss': loss}

  if accumulate == 1:
    grads, model_state, metrics = gradients(state.model_state, batch, rng)
  else:
    grads, model_state, metrics = _accumulate(
      gradients, state, batch, rng, accumulate
    )
  # Gradients that nobody uses need not be sent to other devices.
  frozen = system.frozen(state.params, phase)
  if frozen is None:
    grads = psum(grads)
  else:
    grads = jax.tree.map(
      lambda g, still: jnp.zeros_like(g) if still else psum(g), grads, frozen
    )
  metrics = psum({**metrics, 'rows': jnp.sum(batch['mask'])})
  updates, opt_state = optimizer.update(
    grads, state.opt_state, state.params, phase=phase, step=state.step
  )
  updates = jax.tree.map(lambda u: u * state.lr_scale, updates)
  trained = state.params
  if frozen is not None:
    trained = jax.tree.map(
      lambda p, still: jnp.zeros_like(p) if still else p, trained, frozen
    )
  # The same on every device, as the gradients have been summed.
  norms = tuple(map(optax.tree.norm, (grads, updates, trained)))
  new_state = state.replace(
    params=optax.apply_updates(state.params, updates),
    model_state=model_state,
    opt_state=opt_state,
  )
  return new_state, metrics, norms


def _average(ema: float) -> optax.GradientTransformation:
  # float32 for statistics that are integers, too.
  return optax.ema(ema, accumulator_dtype=jnp.float32)


def with_average(state: TrainState, ema: float) -> TrainState:
  """Returns a fresh state that also averages weights, where `ema` is not 0."""
  if not ema:
    return state
  weights = (state.params, state.model_state)
  return state.replace(ema=_average(ema).init(weights))


def averaged(state: TrainState, ema: float) -> tuple[Tree, Tree]:
  """Returns the average of (params, model_state) over the steps so far.

  The weights after step i of n count (1 - ema) ema^(n - i) / (1 - ema^n), so
  that the initial ones do not count. Integers are the last ones.
  """
  means = optax.tree.bias_correction(state.ema.ema, ema, state.ema.count)
  return jax.tree.map(
    lambda mean, last: (
      mean if jnp.issubdtype(last.dtype, jnp.inexact) else last
    ),
    means,
    (state.params, state.model_state),
  )


def _accumulate(
  gradients, state: TrainState, batch: Batch, rng: Array, count: int
) -> tuple[Tree, Tree, dict[str, Array]]:
  """Means over the micro-batches that have at least one real row.

  Each device sums its own gradients, so devices communicate once per step.
  """
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
    new, new_state, metrics = gradients(
      model_state, part, jax.random.fold_in(rng, index)
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
