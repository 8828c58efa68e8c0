"""What a system is: a Flax module with a loss and a prediction."""

import dataclasses
import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from jaxser.core.errors import ConvertError
from jaxser.ops.losses import cross_entropy

Batch = Mapping[str, Array]
Tree = Any


class Progress(NamedTuple):
  """Optimiser steps and epochs so far, int32 [], traced: they never recompile."""

  step: Array
  epoch: Array


class System(nn.Module):
  """Interface of TIM-Net, DSNet, EmoSphere-SER and of a user's own system.

  A system is a Flax module whose fields are its settings, hashable. A subclass
  defines `__call__`, `loss` and `predict`, and whatever else differs from the
  defaults below. One batch is a dict of arrays:

    features  float32 [batch, frames, bins] or [batch, samples], zero padded
    length    int32 [batch], valid frames or samples
    label     int32 [batch], class, -1 where the corpus has none
    vad       float32 [batch, 3], valence, arousal, dominance on the corpus scale
    mask      float32 [batch], 1 for an utterance, 0 for a padding row
    speaker   int32 [batch], number of the speaker, -1 for a padding row
    row       int32 [batch], position of the row in the global batch

  For each of its `references` a batch also holds NAME_features, NAME_length and
  NAME_speaker. With `weighs_classes` it may hold weight float32 [batch]; with
  mixup of classes it holds partner_label int32 [batch] and share float32
  [batch], the part of the row's own label.

  Contract, tested for every system:

  - Padding rows and padded frames change no loss, no statistic, no metric.
  - Randomness depends only on `rng` and `row`, so any sharding draws the same.
  - The loss and the metrics are per-device partial sums. What needs the whole
    batch, such as statistics and CCC, uses `jaxser.ops.collectives`.
  - Every method is safe under jit, vmap (over folds and seeds) and pmap.
  """

  # Either 'classification' (scores) or 'regression' (VAD).
  task: ClassVar[str] = 'classification'
  # Utterances that stand beside each training row. 'neutral': one of the
  # first neutral ones of its speaker, drawn anew in each epoch; 'neutral1',
  # 'neutral2', ...: these themselves; 'dev' and 'test': one of that split, by
  # turns.
  references: ClassVar[tuple[str, ...]] = ()
  # Whether `predict` needs the speaker's first neutral utterance, 'neutral'.
  predicts_with_neutral: ClassVar[bool] = False
  # Whether `loss` takes targets that config.augment.mixup has mixed: classes
  # by `label_loss`, or 'vad' and no label.
  mixup: ClassVar[bool] = False
  # Whether `loss` looks at `row_weights`, which config.class_weight sets.
  weighs_classes: ClassVar[bool] = False
  # First names of the parameters of the encoder, where the others, its heads,
  # may have a learning rate of their own.
  encoders: ClassVar[tuple[str, ...]] = ()
  # Outputs of `predict`, [batch, width], that are worth a look: the report
  # probes them and draws them in two dimensions.
  embeddings: ClassVar[tuple[str, ...]] = ('embedding',)
  # 'exact': no padded frame enters any number. 'published': padding counts,
  # so every batch must have the one length of training.
  padding: ClassVar[str] = 'exact'
  # Fewest samples or frames of an utterance that give a prediction.
  min_length: ClassVar[int] = 1
  # How predicted VAD is cut into regions, see `jaxser.evaluation.results`.
  sphere: ClassVar[Mapping[str, Any] | None] = None
  # Origin of the sphere on the VAD scale; None is the middle of the scale.
  centre: ClassVar[tuple[float, float, float] | None] = None
  # Output of `predict`, [batch, regions], that scores regions; None: none.
  region_output: ClassVar[str | None] = None
  # Sentences that must stand wherever results are shown.
  notes: ClassVar[tuple[str, ...]] = ()
  # Where defined, a run is trained on the host: `fit(inputs, table, train,
  # dev)` returns (params, state); see `jaxser.systems.baseline`.
  fit: ClassVar[Callable[..., tuple[Tree, Tree]] | None] = None

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    """Returns the system of config.model for a corpus; here, one with classes."""
    return cls(num_classes=num_classes(corpus), **model)

  def validate(self) -> None:
    """Raises ValueError for settings that no network can have."""

  def check(self, corpus: Any, lengths: np.ndarray) -> None:
    """Raises ValueError on a corpus that the system cannot learn from.

    Lengths, int [n], are the frames or samples of its utterances.
    """

  def check_recording(self) -> None:
    """Raises ValueError if nothing can be predicted of a recording alone."""

  def pretrained(
    self, model: Mapping[str, Any]
  ) -> Callable[[Tree], Tree] | None:
    """Returns what puts the weights that config.model names into parameters."""
    return None

  def load_foreign(self, path: os.PathLike[str] | str) -> list[tuple[Any, Any]]:
    """Returns (params, state) of each model in a file of another program."""
    raise ConvertError(
      f'{path}: {type(self).__name__} reads no files of other programs; give '
      'the work folder of an earlier run.'
    )

  def settings(self) -> dict[str, Any]:
    """Returns the fields by name, from which the system can be made again."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ('parent', 'name')
    }

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    """Returns fresh (params, state) for batches shaped like `batch`."""

    # As one program, in which activations are not computed.
    @jax.jit
    def create(rng, batch):
      return nn.Module.init(self, rng, batch, train=False)

    state = dict(create(rng, dict(batch)))
    return state.pop('params'), state

  def prepare(self, state: Tree, vad: Array, label: Array) -> Tree:
    """Puts into the state what is counted on the training split, on the host.

    Of its vad [n, 3], NaN where unknown, and label int32 [n], -1 where unknown.
    """
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
    """Returns (loss, {'state': new state, 'metrics': {name: value}})."""
    raise NotImplementedError(f'{type(self).__name__} does not define loss()')

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Returns predictions and every named intermediate in evaluation mode.

    Classification: 'scores' [batch, classes], probabilities. Regression: 'vad'
    [batch, 3] on the scale of the corpus. Both: 'embedding' [batch, width].
    """
    name = type(self).__name__
    raise NotImplementedError(f'{name} does not define predict()')

  def phase(self, epoch: int) -> Hashable:
    """Returns the static part of the loss in this epoch, compiled once each."""
    return 'main'

  def updates(self, phase: Hashable) -> tuple[Hashable, ...]:
    """Returns the updates of one step, in turn, as phases of loss and frozen."""
    return (phase,)

  def frozen(self, params: Tree, phase: Hashable) -> Tree | None:
    """Returns True where a parameter is not trained; None: all are trained."""
    return None


def label_loss(logits: Array, batch: Batch, smoothing: float = 0.0) -> Array:
  """Returns the cross-entropy [batch] of logits [batch, classes].

  With mixup: share ce(label) + (1 - share) ce(partner_label).
  """
  own = cross_entropy(logits, batch['label'], smoothing)
  if 'share' not in batch:
    return own
  other = cross_entropy(logits, batch['partner_label'], smoothing)
  return batch['share'] * own + (1 - batch['share']) * other


def row_weights(batch: Batch) -> Array:
  """Returns the weight of each row's class, else its mask, float32 [batch]."""
  return batch.get('weight', batch['mask'])


def num_classes(corpus: Any) -> int:
  """Returns the number of classes of a corpus, which has some."""
  if not corpus.classes:
    raise ValueError(
      f'corpus {corpus.name!r} has no classes, only valence, arousal and '
      'dominance; choose one that has, such as demo, emodb or iemocap'
    )
  return len(corpus.classes)


def require(system: System, *rules: tuple[str, bool, str]) -> None:
  """Raises ValueError for the first (field, whether it holds, what must)."""
  for name, holds, wanted in rules:
    if not holds:
      raise ValueError(
        f'{type(system).__name__}: {name}={getattr(system, name)!r}; it must be '
        f'{wanted}.'
      )
