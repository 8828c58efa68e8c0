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
  """State of `scale_by_epoch`.

  Attributes:
    epoch_steps: float32 [], steps of an epoch, which runs of a stack may have
      different numbers of.
  """

  epoch_steps: jax.Array


def over_epochs(rule: Any, epochs: int) -> optax.Schedule | None:
  """Returns epochs trained, with their fraction -> factor on the learning rate.

  None where it is 1 throughout; a plateau is followed by `Plateau`.

  Args:
    rule: config.schedule.
    epochs: of the run.
  """
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
  """The rule "drop after patience, stop after stop_patience" of one run.

  Attributes:
    best: best development score so far, None before the first.
    waited: epochs since the last improvement or drop.
    since_best: epochs since the last improvement.
    scale: factor on the learning rate.
    stopped: whether training is over.
  """

  best: float | None = None
  waited: int = 0
  since_best: int = 0
  scale: float = 1.0
  stopped: bool = False

  def update(
    self, score: float, *, factor: float, patience: int, stop_patience: int
  ) -> None:
    """Takes note of an epoch's development score; greater is better.

    Args:
      score: the score.
      factor: the learning rate is multiplied by it.
      patience: epochs without improvement before a drop; 0 never drops.
      stop_patience: epochs without improvement before stopping; 0 never stops.
    """
    if better(score, self.best):
      self.best, self.waited, self.since_best = score, 0, 0
    else:
      self.waited += 1
      self.since_best += 1
    if patience and self.waited >= patience:
      self.waited = 0
      self.scale = float(np.float32(self.scale) * np.float32(factor))
    if stop_patience and self.since_best >= stop_patience:
      self.stopped = True
