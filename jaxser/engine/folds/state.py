"""What the compiled program of many trainings is made from, changes and needs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct

from jaxser.engine import schedule
from jaxser.engine import step as step_lib

Array = jax.Array
Tree = Any

# Best epochs by selection, with the side of the fold that chooses them.
SIDES = {'dev': 'best_on_dev', 'test': 'best_on_test'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What of a config the program depends on, beside system and optimiser."""

  epochs: int
  eval_every: int
  accumulate: int
  selection_metric: str
  plateau: bool
  plateau_metric: str
  factor: float
  patience: int
  stop_patience: int

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict) -> 'Settings':
    """Reads a resolved config."""
    rule = config.schedule
    return cls(
      epochs=config.epochs,
      eval_every=config.eval_every,
      accumulate=config.accumulate,
      selection_metric=config.selection_metric,
      plateau=rule.name == 'plateau',
      plateau_metric=rule.metric,
      factor=rule.factor,
      patience=rule.patience,
      stop_patience=rule.stop_patience,
    )


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes of a program's arguments.

  Attributes:
    trainings: slots, a multiple of the grid's groups.
    epochs: most epochs of a call.
    steps: of the training with most of them.
    batch: rows of a step, padded for the grid.
    utterances: of the corpus.
    features: of one utterance, [frames, bins] or [samples].
    sides: (name, batches, rows) of 'dev' and 'test' as far as they are scored
      in every epoch.
  """

  trainings: int
  epochs: int
  steps: int
  batch: int
  utterances: int
  features: tuple[int, ...]
  sides: tuple[tuple[str, int, int], ...]


class Best(struct.PyTreeNode):
  """The weights of the epoch with the best score so far, and when it was."""

  weights: tuple[Tree, Tree]
  score: Array
  epoch: Array


class Training(struct.PyTreeNode):
  """All that changes in a training; its key is kept as its raw words.

  Attributes:
    state: parameters, optimiser and so on.
    plateau: of the schedule.
    best: by side, see `SIDES`.
    epoch: int32 [], epochs trained.
  """

  state: step_lib.TrainState
  plateau: schedule.Plateau
  best: dict[str, Best]
  epoch: Array


class Task(struct.PyTreeNode):
  """What does not change in a training.

  Attributes:
    steps: int32 [], steps per epoch; 0 for a slot without a training.
    sides: by side, int32 [batches, rows], rows of the corpus, -1 for padding.
    scored: by side, bool [], whether there is such a side.
  """

  steps: Array
  sides: dict[str, Array]
  scored: dict[str, Array]


def start(state: step_lib.TrainState, sides: tuple[str, ...]) -> Training:
  """A training before its first epoch."""
  weights = (state.params, state.model_state)
  return Training(
    state=state.replace(rng=jax.random.key_data(state.rng)),
    plateau=schedule.Plateau.create(),
    best={
      name: Best(weights, jnp.float32(-jnp.inf), jnp.int32(0)) for name in sides
    },
    epoch=jnp.int32(0),
  )
