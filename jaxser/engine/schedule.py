"""Learning rate and early stopping guided by the development score."""

import dataclasses

import numpy as np

# Scores closer than this are equal: devices that add in another order must see
# the same tie.
TIE = 1e-6


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
