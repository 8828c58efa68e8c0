"""Regions of the sphere in which points lie.

    sphere = {"regions": "octants" or an angle in degrees, "vad_range": [lo, hi],
              "centre": [valence, arousal, dominance] or null for the middle}

is what results.json keeps of it. JAX is imported where it is used: results of
classes are read without it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def cube_of(points: Any, sphere: Mapping[str, Any]) -> np.ndarray:
  """Maps points [n, 3] on the corpus' scale to the cube [-1, 1] round neutral."""
  from jaxser.ops import spherical

  points = np.asarray(points, np.float32).reshape(-1, 3)
  lo, hi = sphere['vad_range']
  return np.asarray(spherical.to_cube(points, lo, hi, sphere['centre']))


def names(regions: str | float) -> tuple[str, ...]:
  """Returns what to call each region."""
  from jaxser.ops import spherical

  return spherical.region_names(regions)


def region_of(points: Any, sphere: Mapping[str, Any]) -> np.ndarray:
  """Returns the region, int [n], of points [n, 3] on the corpus' scale."""
  from jaxser.ops import spherical

  cube: Any = cube_of(points, sphere)
  return np.asarray(spherical.region_index(cube, sphere['regions']))
