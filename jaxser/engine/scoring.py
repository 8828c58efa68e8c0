"""Scores of predictions, from which epochs are chosen; once, on the host."""

import numpy as np

from jaxser.data.corpus import Table
from jaxser.evaluation import metrics
from jaxser.evaluation.predictions import DIMENSIONS


def score(
  task: str, predictions: np.ndarray, table: Table, rows: np.ndarray
) -> dict[str, float]:
  """Returns UAR, WAR, F1 and cross-entropy, or CCC, as fractions.

  Args:
    task: 'classification' or 'regression'.
    predictions: scores [n, classes] or VAD [n, 3].
    table: of the corpus.
    rows: int [n], whose predictions they are.
  """
  if task == 'regression':
    known = np.isfinite(table.vad[rows]).all(-1)
    ccc = metrics.concordance(table.vad[rows][known], predictions[known])
    scores = {
      f'ccc_{name}': float(value)
      for name, value in zip(DIMENSIONS, ccc, strict=True)
    }
    return {**scores, 'ccc_mean': float(np.mean(ccc))}
  labels = table.labels[rows]
  confusion = metrics.Confusion.empty(predictions.shape[-1])
  value = confusion.add(labels, np.argmax(predictions, -1)).value()
  likelihood = predictions[np.arange(len(rows)), labels].astype(np.float64)
  tiny = np.finfo(np.float32).tiny
  return {**value, 'loss': float(-np.mean(np.log(likelihood + tiny)))}
