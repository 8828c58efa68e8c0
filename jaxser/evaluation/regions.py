"""Regions of the sphere as classes: where predicted points lie, and true ones.

    sphere = {"regions": "octants" or an angle in degrees, "vad_range": [lo, hi],
              "centre": [valence, arousal, dominance] or null for the middle}

is what results.json keeps of it. Accuracy and macro-F1 are those of the region
in which the predicted valence, arousal and dominance lie, not of a region head
(`jaxser.engine.inspection` scores that): so every regression, also one without such a
head, can be compared.

JAX is imported where it is used: results of classes are read without it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.evaluation import intervals, metrics
from jaxser.evaluation.predictions import Prediction

METRICS = ('accuracy', 'macro_f1')


def cube_of(points: np.ndarray, sphere: Mapping[str, Any]) -> np.ndarray:
  """Points [n, 3] on the corpus' scale -> around neutral, in [-1, 1]."""
  from jaxser.ops import spherical

  points = np.asarray(points, np.float32).reshape(-1, 3)
  lo, hi = sphere['vad_range']
  return np.asarray(spherical.to_cube(points, lo, hi, sphere['centre']))


def names(regions: str | float) -> tuple[str, ...]:
  """What to call each region."""
  from jaxser.ops import spherical

  return spherical.region_names(regions)


def region_of(points: np.ndarray, sphere: Mapping[str, Any]) -> np.ndarray:
  """Region int [n] of points [n, 3] on the corpus' scale."""
  from jaxser.ops import spherical

  cube = cube_of(points, sphere)
  return np.asarray(spherical.region_index(cube, sphere['regions']))


def summarise(
  predictions: Sequence[Prediction],
  sphere: Mapping[str, Any],
  resamples: int,
) -> dict[str, Any]:
  """Agreement of true and predicted regions, in per cent.

  Args:
    predictions: of valence, arousal and dominance, of one selection.
    sphere: see the top of this module.
    resamples: of speakers, for the intervals.

  Returns:
    {'accuracy': {'value', 'low', 'high'}, 'macro_f1': likewise, 'confusion':
    [true][predicted]}; macro-F1 is over the regions that occur in the truth.
  """
  from jaxser.ops import spherical

  _, groups = intervals.group_confusions(
    region_of([p.target for p in predictions], sphere),
    region_of([p.prediction for p in predictions], sphere),
    [p.speaker or f'utterance {p.id}' for p in predictions],
    spherical.region_count(sphere['regions']),
  )

  def statistic(confusions):
    return np.stack([metrics.war(confusions), metrics.macro_f1(confusions)], -1)

  found = intervals.bootstrap_interval(statistic, groups, resamples=resamples)

  def rounded(value):
    return round(100 * float(value), 2) if np.isfinite(value) else None

  return {
    **{
      name: {
        'value': rounded(found.value[i]),
        'low': rounded(found.low[i]),
        'high': rounded(found.high[i]),
      }
      for i, name in enumerate(METRICS)
    },
    'confusion': groups.sum(0).tolist(),
  }
