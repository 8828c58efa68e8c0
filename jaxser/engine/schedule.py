"""Learning rates that follow the epoch, or the development score."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Scores closer than this are equal: devices that add in another order must see
# the same tie.
TIE = 1e-6


class EpochState(NamedTuple):
  """State of `scale_by_epoch`; runs of a stack may differ in it."""

  epoch_steps: jax.Array  # float32 [], steps of an epoch.


def over_epochs(rule: Any, epochs: int) -> optax.Schedule | None:
  """Returns epochs trained -> factor on the learning rate, None for 1."""
  warmup, rest = rule.warmup_epochs, epochs - rule.warmup_epochs
  if rule.name == 'cosine':
    main = optax.cosine_decay_schedule(1.0, rest)
  elif rule.name == 'linear':
    main = optax.linear_schedule(1.0, 0.0, rest)
  elif warmup:
    main = optax.constant_schedule(1.0)
  else:
    return None
  rise = optax.linear_schedule(0.0, 1.0, warmup)
  return optax.join_schedules([rise, main], [warmup])


def scale_by_epoch(
  schedule: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
  """Returns a transformation whose `update` takes `step`, the steps taken."""

  def update(updates, state, params=None, *, step, **extra):
    del params, extra
    factor = schedule(step / state.epoch_steps)
    return jax.tree.map(lambda u: u * factor, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: EpochState(jnp.float32(1)), update
  )


def better(score: float, best: float | None) -> bool:
  """Returns whether a score is an improvement, rounding aside."""
  return best is None or score > best + TIE


@dataclasses.dataclass
class Plateau:
  """The rule "drop after patience, stop after stop_patience" of one run."""

  best: float | None = None  # Development score so far.
  waited: int = 0  # Epochs since the last improvement or drop.
  since_best: int = 0  # Epochs since the last improvement.
  scale: float = 1.0  # Factor on the learning rate.
  stopped: bool = False

  def update(self, score: float, rule: Any) -> None:
    """Takes note of an epoch's development score; patience 0 is endless."""
    if better(score, self.best):
      self.best, self.waited, self.since_best = score, 0, 0
    else:
      self.waited += 1
      self.since_best += 1
    if rule.patience and self.waited >= rule.patience:
      self.waited = 0
      self.scale = float(np.float32(self.scale) * np.float32(rule.factor))
    if rule.stop_patience and self.since_best >= rule.stop_patience:
      self.stopped = True
