"""Scores of predictions, from which epochs are chosen; once, on the host."""

import numpy as np

from jaxser.data.corpus import Table
from jaxser.evaluation import metrics


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
    values = [*ccc, np.mean(ccc)]
    return dict(zip(metrics.METRICS[task], map(float, values), strict=True))
  labels = table.labels[rows]
  predicted, classes = np.argmax(predictions, -1), predictions.shape[-1]
  confusion = metrics.confusion(labels, predicted, classes)
  values = metrics.values(task, confusion).tolist()
  value = dict(zip(metrics.METRICS[task], values, strict=True))
  likelihood = predictions[np.arange(len(rows)), labels].astype(np.float64)
  tiny = np.finfo(np.float32).tiny
  return {**value, 'loss': float(-np.mean(np.log(likelihood + tiny)))}
