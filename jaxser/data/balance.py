"""Classes of unequal size: weights of the loss, and how often rows are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def class_weights(
  setting: Any, labels: np.ndarray, classes: Sequence[str]
) -> np.ndarray | None:
  """Returns what each class weighs in the loss, float32 [classes].

  Args:
    setting: config.class_weight. 'none' returns None. 'balanced' is n / (classes
      count) as in scikit-learn, over the classes that occur. Else numbers in the
      order of the classes, or of some by name, while others weigh 1.
    labels: int [n], of the training split, -1 where there is none.
    classes: their names.

  Raises:
    ValueError: for any other setting.
  """
  if setting == 'none':
    return None
  if setting == 'balanced':
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    share = counts.sum() / np.count_nonzero(counts)
    return (share / np.maximum(counts, 1)).astype(np.float32)
  names = f'{len(classes)} classes {", ".join(classes)}'
  if isinstance(setting, Mapping):
    unknown = ', '.join(map(str, sorted(setting.keys() - set(classes))))
    if unknown:
      raise ValueError(f'there is no class {unknown} among the {names}')
    setting = [setting.get(name, 1) for name in classes]
  if isinstance(setting, str) or not isinstance(setting, Sequence):
    raise ValueError(
      f"it must be 'none', 'balanced', or numbers for the {names}"
    )
  if len(setting) != len(classes):
    raise ValueError(f'these are {len(setting)} numbers for the {names}')
  numbers = all(isinstance(weight, int | float) for weight in setting)
  if not numbers or not all(0 < weight < np.inf for weight in setting):
    raise ValueError('every weight must be a number greater than 0')
  return np.array(setting, np.float32)


def probabilities(labels: np.ndarray) -> np.ndarray:
  """Returns float64 [n] that sum to 1, equally for every class that occurs.

  Rows without a class, -1, are never drawn.
  """
  counts = np.bincount(labels[labels >= 0])
  equal = 1 / (np.count_nonzero(counts) * counts[labels])
  return np.where(labels >= 0, equal, 0)
