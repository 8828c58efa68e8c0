"""Answers for every row of a side, and their scores."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxser.data import pipeline
from jaxser.engine.mesh import Placement
from jaxser.evaluation import metrics
from jaxser.evaluation.predictions import DIMENSIONS
from jaxser.systems.base import System, Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
  """Evaluates one system on rows of one corpus.

  Attributes:
    source: the corpus.
    placement: the devices.
    task: 'classification' or 'regression'.
    predict: the compiled prediction, from `Placement.compile_predict`.
    batch_size: rows per batch, padded for the devices.
  """

  source: pipeline.Source
  placement: Placement
  task: str
  predict: Callable[..., Tree]
  batch_size: int

  @classmethod
  def create(
    cls,
    system: System,
    source: pipeline.Source,
    placement: Placement,
    batch_size: int,
  ) -> 'Evaluator':
    """Compiles nothing yet; one compilation serves all folds."""
    answer = 'scores' if system.task == 'classification' else 'vad'
    return cls(
      source,
      placement,
      system.task,
      placement.compile_predict(system, answer),
      placement.padded(batch_size),
    )

  def answers(
    self, params: Tree, model_state: Tree, rows: np.ndarray
  ) -> np.ndarray:
    """Scores [n, classes] or VAD [n, 3] of these rows, in their order."""
    pending = []
    slots, order = pipeline.for_evaluation(self.source, rows, self.batch_size)
    for batch in pipeline.assemble(self.source, slots):
      batch = self.placement.put_batch(batch)
      pending.append(self.predict(params, model_state, batch))
    values = [self.placement.get_rows(value) for value in pending]
    return np.concatenate(values)[order]

  def score(self, answers: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """UAR, WAR, F1 and cross-entropy, or CCC, as fractions."""
    table = self.source.corpus.table
    if self.task == 'regression':
      known = np.isfinite(table.vad[rows]).all(-1)
      return agreement(
        metrics.concordance(table.vad[rows][known], answers[known])
      )
    labels = table.labels[rows]
    confusion = metrics.Confusion.empty(answers.shape[-1])
    value = confusion.add(labels, np.argmax(answers, -1)).value()
    likelihood = answers[np.arange(len(rows)), labels].astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    return {**value, 'loss': float(-np.mean(np.log(likelihood + tiny)))}


def agreement(ccc: np.ndarray) -> dict[str, float]:
  """CCC [3] of valence, arousal, dominance by name, and their mean."""
  scores = {
    f'ccc_{name}': float(value)
    for name, value in zip(DIMENSIONS, ccc, strict=True)
  }
  return {**scores, 'ccc_mean': float(np.mean(ccc))}
