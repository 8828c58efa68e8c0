"""The pure training step of one run."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxser.core import optimizers
from jaxser.core.config import Config, ConfigError
from jaxser.core.optimizers import Optimizer
from jaxser.engine import schedule, sharding
from jaxser.engine.augmentation import Augmentation
from jaxser.ops.collectives import psum
from jaxser.systems.base import Array, Batch, Progress, System, Tree

Metrics = dict[str, Array]


class TrainState(struct.PyTreeNode):
  """All that changes while a model is trained; in and out of the step."""

  step: Array  # int32 [], optimizer steps taken.
  params: Tree
  model_state: Tree  # Statistics such as BatchNorm's.
  opt_state: Tree
  rng: Array  # uint32 [2], words of the run's key.
  lr_scale: Array  # float32 [], the plateau rule's factor on the learning rate.
  class_weights: Array | None = None  # float32 [classes], of the loss.
  ema: optax.EmaState | None = None  # Of (params, model_state).


def make_optimizer(config: Config, system: System) -> Optimizer:
  """Returns the optimizer of `config.optimizer` and `config.schedule`.

  Parameters that are trained in the same updates share one optimizer, whose
  moments rest in all others. What is never trained has none. Its `update` also
  takes `phase`, the update that is made, and `step`, the steps taken.
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
  updates = [update for phase in epochs for update in system.updates(phase)]
  phases = list(dict.fromkeys(updates))

  def label(path, *frozen):
    pairs = zip(phases, frozen, strict=True)
    trained = [str(phase) for phase, rests in pairs if not rests]
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

  def update(grads, state, params, **extra):
    return grouped(params).update(grads, state, params, **extra)

  by_group = Optimizer(lambda params: grouped(params).init(params), update)
  parts = [by_group]
  if options['clip_norm']:
    parts.insert(0, optax.clip_by_global_norm(options['clip_norm']))
  follow = schedule.over_epochs(config.schedule, config.epochs)
  if follow is not None:
    parts.append(schedule.scale_by_epoch(follow))
  return optax.chain(*parts) if len(parts) > 1 else by_group


def _resting(optimizer: Optimizer, phases: Sequence[str]) -> Optimizer:
  """Returns an optimizer that changes nothing in other phases than these."""
  inner = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, *, phase, **extra):
    if str(phase) in phases:
      return inner.update(grads, state, params, phase=phase, **extra)
    return jax.tree.map(jnp.zeros_like, grads), state

  return Optimizer(inner.init, update)


def create_state(
  system: System, optimizer: Optimizer, rng: Array, batch: Batch
) -> TrainState:
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
  optimizer: Optimizer,
  state: TrainState,
  batch: Batch,
  epoch: Array,
  *,
  accumulate: int = 1,
  augment: Augmentation | None = None,
  phase: Hashable = 'main',
  ema: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Takes one step: the updates of the system's phase, one after the other.

  Where the axis of `jaxser.ops.collectives` is bound, `batch` is this device's
  part of the global batch and the result is the same on every device. The batch
  is augmented and cut into `accumulate` micro-batches (row i belongs to i %
  accumulate) whose gradients are averaged. `epoch`, int32 [], epochs completed,
  is traced, so that runs with other numbers of steps share one compiled step.

  Returns the state and {'loss', 'rows', ...} of the global batch; 'loss' is the
  sum over the updates. Of what they train 'grad_norm' is the norm of the
  gradient, and 'update_ratio' that of the change over that of the parameters
  before it.
  """
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  progress = Progress(state.step, jnp.asarray(epoch, jnp.int32))
  if augment is not None:
    batch = augment(batch, rng)
  if state.class_weights is not None:
    label = batch['label']
    weight = jnp.where(label < 0, 0, state.class_weights[label])
    batch = {**batch, 'weight': weight * batch['mask']}
  metrics: dict[str, jax.Array] = {}
  before: Any = None
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


def _update(system, optimizer, state, batch, rng, progress, accumulate, phase):
  """Returns state, metrics, and norms of gradient, change and parameters."""

  def gradients(model_state, batch, rng):
    """Per-device partial sums of gradients and metrics; new statistics."""
    loss_fn = jax.value_and_grad(system.loss, has_aux=True)
    (loss, aux), grads = loss_fn(
      state.params, model_state, batch, rng, progress, phase=phase
    )
    return grads, aux['state'], {**aux['metrics'], 'loss': loss}

  if accumulate > 1:
    gradients = _accumulated(gradients, accumulate, state.params)
  grads, model_state, metrics = gradients(state.model_state, batch, rng)
  frozen, trained = system.frozen(state.params, phase), state.params
  if frozen is None:
    grads = psum(grads)
  else:
    # Gradients that nobody uses need not be sent to other devices.
    grads = jax.tree.map(
      lambda g, still: jnp.zeros_like(g) if still else psum(g), grads, frozen
    )
    trained = jax.tree.map(
      lambda p, still: jnp.zeros_like(p) if still else p, trained, frozen
    )
  metrics = psum({**metrics, 'rows': jnp.sum(batch['mask'])})
  updates, opt_state = optimizer.update(
    grads, state.opt_state, state.params, phase=phase, step=state.step
  )
  updates = jax.tree.map(lambda u: u * state.lr_scale, updates)
  # The same on every device, as the gradients have been summed.
  norms = tuple(map(_norm, (grads, updates, trained)))
  params = optax.apply_updates(state.params, updates)
  state = state.replace(
    params=params, model_state=model_state, opt_state=opt_state
  )
  return state, metrics, norms


def _norm(tree: Tree) -> Array:
  """Returns the norm over all leaves.

  Small leaves are joined first, as a CPU's compiler takes each sum by itself.
  """
  leaves = jax.tree.leaves(tree)
  small = [x.ravel() for x in leaves if x.size < sharding.LARGE]
  large = [x for x in leaves if x.size >= sharding.LARGE]
  return optax.tree.norm([*large, jnp.concatenate(small)] if small else large)


def _accumulated(gradients: Callable, count: int, params: Tree) -> Callable:
  """Returns means over the micro-batches that have a real row, per device."""

  def accumulated(model_state, batch, rng):
    # Strided, not contiguous: each device then keeps its own rows.
    def cut(x):
      return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

    def one(carry, item):
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

    zeros = jax.tree.map(jnp.zeros_like, params)
    (grads, model_state, used), metrics = jax.lax.scan(
      one,
      (zeros, model_state, jnp.float32(0)),
      (jnp.arange(count), jax.tree.map(cut, dict(batch))),
    )
    used = jnp.maximum(used, 1)
    grads = jax.tree.map(lambda g: g / used, grads)
    return grads, model_state, jax.tree.map(lambda m: m.sum() / used, metrics)

  return accumulated


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

  def one(mean, last):
    return mean if jnp.issubdtype(last.dtype, jnp.inexact) else last

  mean_so_far: Any = state.ema
  means = optax.tree.bias_correction(mean_so_far.ema, ema, mean_so_far.count)
  return jax.tree.map(one, means, (state.params, state.model_state))
