"""Optimizers by name: those of optax, and Adam as Keras has it."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxser.core.errors import ConfigError

Optimizer = optax.GradientTransformationExtraArgs

# They need the loss again, a random key, or are deprecated.
_LEFT_OUT = ('lbfgs', 'noisy_sgd', 'optimistic_adam')
# Fields of config.optimizer that are no arguments of an optax optimizer.
_OWN = ('name', 'learning_rate', 'head_learning_rate', 'clip_norm')
_SHARED = ('b1', 'b2', 'eps', 'weight_decay')


def adam_keras(
  learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> Optimizer:
  """Returns Adam with epsilon where Keras puts it, and its default epsilon.

      p = p - learning_rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

  The paper's and optax's epsilon is added to sqrt(v / (1 - b2^t)).
  """

  def init(params):
    zeros = optax.tree.zeros_like(params)
    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(grads, state, params=None):
    count = state.count + 1
    mu = optax.tree.update_moment(grads, state.mu, b1, 1)
    nu = optax.tree.update_moment(grads, state.nu, b2, 2)
    scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
    updates = jax.tree.map(
      lambda m, v: (scale * m / (jnp.sqrt(v) + eps)).astype(m.dtype), mu, nu
    )
    return updates, optax.ScaleByAdamState(count, mu, nu)

  scale = optax.scale_by_learning_rate(learning_rate)
  return optax.chain(optax.GradientTransformation(init, update), scale)


@functools.cache
def _named() -> Mapping[str, Callable[..., Optimizer]]:
  """Returns adam_keras and what optax has that first takes a learning rate."""
  found = {'adam_keras': adam_keras}
  for name, function in vars(optax).items():
    if isinstance(function, types.FunctionType | functools.partial):
      first = next(iter(_parameters(function)), '')
      out = name in _LEFT_OUT or name.startswith(('_', 'scale_by'))
      if first == 'learning_rate' and not out:
        found[name] = function
  return dict(sorted(found.items()))


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
  return inspect.signature(function).parameters


def check(options: Mapping[str, Any], given: Collection[str] = ()) -> None:
  """Checks config.optimizer; `given` are the fields that the user named."""
  name = options['name']
  if name not in _named():
    raise ConfigError(
      f'--config.optimizer.name={name!r} is not valid; choose one of '
      f'{", ".join(map(repr, _named()))}.'
    )
  takes = _parameters(_named()[name])
  # Recipes have the shared fields for the optimizers that take them.
  silent = {*_OWN, *(set(_SHARED) - set(given))}
  for field, value in options.items():
    shown = f'--config.optimizer.{field}={value!r}'
    if field in takes and field not in _OWN:
      if wanted := _wanted(takes[field], value):
        raise ConfigError(f'{shown} must be {wanted}.')
    elif field not in silent:
      raise ConfigError(
        f'{shown}: {name} takes no such argument; it takes {", ".join(takes)}.'
      )
  for field in _OWN[1:]:
    if not options.get(field, 0) >= 0:
      raise ConfigError(
        f'--config.optimizer.{field}={options[field]} must be at least 0.'
      )
  try:
    create(options)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'--config.optimizer: {name}: {error}') from error


def _wanted(parameter: inspect.Parameter, value: Any) -> str:
  """Returns what an argument must be, or '' if the value is that."""
  default, annotation = parameter.default, parameter.annotation
  kinds = (annotation, *typing.get_args(annotation))
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if isinstance(default, bool):
    return '' if isinstance(value, bool) else 'True or False'
  if 'dtype' in parameter.name:
    return '' if value is None or isinstance(value, str) else 'as bfloat16'
  if int in kinds and float not in kinds:
    return '' if number and isinstance(value, int) else 'an integer'
  if isinstance(default, int | float) or float in kinds:
    there = number or (value is None and default is None)
    return '' if there else 'a number'
  if isinstance(default, str):
    return '' if isinstance(value, str) else f'a name such as {default!r}'
  return 'left out: no config can hold it'


def create(
  options: Mapping[str, Any], learning_rate: float | None = None
) -> Optimizer:
  """Returns the optimizer of config.optimizer, without its clipping."""
  function = _named()[options['name']]
  names = _parameters(function).keys() - set(_OWN)
  arguments = {name: x for name, x in options.items() if name in names}
  rate = options['learning_rate'] if learning_rate is None else learning_rate
  return function(float(rate), **arguments)
