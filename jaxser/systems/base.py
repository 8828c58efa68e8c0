"""What a system is: a network, a loss and a prediction, as pure functions."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Batch = Mapping[str, Array]
Tree = Any


class Progress(NamedTuple):
  """Where training stands; two scalars, traced, so they never recompile.

  Attributes:
    step: int32 [], optimiser steps taken so far.
    epoch: int32 [], epochs completed so far.
  """

  step: Array
  epoch: Array


class System:
  """Interface of TIM-Net, DSNet, EmoSphere-SER and of a user's own system.

  A system holds only hashable settings (subclasses are frozen dataclasses), so
  that it can be a static argument of a jitted function. It never touches files,
  devices or the optimiser. One batch is a dict of arrays:

    features  float32 [batch, frames, bins] or [batch, samples], zero padded
    length    int32 [batch], valid frames or samples
    label     int32 [batch], class, -1 where the corpus has none
    vad       float32 [batch, 3], valence, arousal, dominance on the corpus scale
    mask      float32 [batch], 1 for an utterance, 0 for a padding row
    speaker   int32 [batch], number of the speaker, -1 for a padding row
    row       int32 [batch], position of the row in the global batch

  With `needs_neutral`, training batches also hold neutral_features and
  neutral_length, a neutral utterance of the same speaker.

  Contract, tested for every system:

  - Padding rows and padded frames change no loss, no statistic, no metric.
  - Randomness depends only on `rng` and `row`, so any sharding draws the same.
  - The loss and the metrics are shares: their sum over the devices that share a
    batch is the global value. What needs the whole batch, such as statistics
    and CCC, uses `jaxser.ops.collectives`.
  - Every method is safe under jit, vmap (over folds and seeds) and pmap.
  """

  task: str = 'classification'
  """Either 'classification' (scores) or 'regression' (VAD)."""

  sphere: Mapping[str, Any] | None = None
  """How predicted VAD is cut into regions, see `jaxser.evaluation.regions`."""

  needs_neutral: bool = False
  """Whether training rows come with a neutral utterance of their speaker."""

  region_output: str | None = None
  """Output of `predict`, [batch, regions], that scores regions; None: none."""

  embeddings: tuple[str, ...] = ('embedding',)
  """Outputs of `predict`, [batch, width], that are worth a look: the report
  probes them and draws them in two dimensions."""

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    """Returns fresh (params, state) for batches shaped like `batch`."""
    raise TypeError(f'{type(self).__name__} does not define init()')

  def prepare(self, state: Tree, vad: Array, label: Array) -> Tree:
    """Puts into the state what is counted on the training side, on the host.

    Args:
      state: from `init`.
      vad: float32 [n, 3] of the training utterances, NaN where unknown.
      label: int32 [n], their classes, -1 where unknown.
    """
    del vad, label
    return state

  def loss(
    self,
    params: Tree,
    state: Tree,
    batch: Batch,
    rng: Array,
    progress: Progress,
    *,
    phase: Hashable = 'main',
  ) -> tuple[Array, dict[str, Any]]:
    """Returns (loss share, {'state': new state, 'metrics': {name: share}})."""
    raise TypeError(f'{type(self).__name__} does not define loss()')

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Returns the answer and every named intermediate in evaluation mode.

    Classification: 'scores' [batch, classes], probabilities. Regression: 'vad'
    [batch, 3] on the scale of the corpus. Both: 'embedding' [batch, width].
    """
    raise TypeError(f'{type(self).__name__} does not define predict()')

  def phase(self, epoch: int) -> Hashable:
    """Static part of the loss in this epoch; each value is compiled once."""
    del epoch
    return 'main'

  def frozen(self, params: Tree, phase: Hashable) -> Tree | None:
    """True where a parameter is not trained in this phase; None: nowhere."""
    del params, phase
    return None
