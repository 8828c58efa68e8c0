"""Learning rate and stopping guided by the development score.

A schedule is a small pytree and a pure update at the end of an epoch, so that
the same rule runs on the host, inside a scan, and resumes from a checkpoint.
"""

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

# Scores closer than this are equal: one engine has them in float32, the other
# in float64, and both must see the same tie.
TIE = 1e-6


def better(score: Array, best: Array) -> Array:
  """Whether a score is an improvement, rounding aside; numbers or arrays."""
  return score > best + TIE


class Plateau(struct.PyTreeNode):
  """State of the rule "drop after patience, stop after stop_patience".

  Attributes:
    best: float32 [], best development score so far.
    waited: int32 [], epochs since the last improvement or drop.
    since_best: int32 [], epochs since the last improvement.
    scale: float32 [], factor on the learning rate.
    stopped: bool [], whether training is over.
  """

  best: Array
  waited: Array
  since_best: Array
  scale: Array
  stopped: Array

  @classmethod
  def create(cls) -> 'Plateau':
    """The state before the first epoch."""
    return cls(
      best=jnp.float32(-jnp.inf),
      waited=jnp.int32(0),
      since_best=jnp.int32(0),
      scale=jnp.float32(1),
      stopped=jnp.bool_(False),
    )

  def update(
    self, score: Array, *, factor: float, patience: int, stop_patience: int
  ) -> 'Plateau':
    """State after an epoch with this development score (greater is better).

    Args:
      score: float [], development score.
      factor: the learning rate is multiplied by it.
      patience: epochs without strict improvement before a drop; 0 never drops.
      stop_patience: epochs without strict improvement before stopping; 0 never
        stops.
    """
    improved = better(score, self.best)
    waited = jnp.where(improved, 0, self.waited + 1)
    since_best = jnp.where(improved, 0, self.since_best + 1)
    drop = (waited >= patience) & (patience > 0)
    return Plateau(
      best=jnp.where(improved, score, self.best).astype(jnp.float32),
      waited=jnp.where(drop, 0, waited),
      since_best=since_best,
      scale=jnp.where(drop, self.scale * factor, self.scale),
      stopped=self.stopped
      | ((since_best >= stop_patience) & (stop_patience > 0)),
    )
