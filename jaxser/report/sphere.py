"""The sphere of valence, arousal and dominance, drawn from a direction.

Coordinates here are (valence, arousal, dominance) around neutral, 1 being the
end of the scale. Drawings are orthographic: what is nearer does not look
larger, so that a chart can be read like a map.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from jaxser.evaluation.predictions import DIMENSIONS
from jaxser.report import charts
from jaxser.report.markup import Markup, element

COLOURS = 8
"""Regions that have a colour of their own; others take them in turns."""
DOTS = 400
"""Points of a drawing; of more, so many are chosen evenly."""

_SIZE, _TOP = 300, 24
_STEPS = 72  # Segments of a circle.
_AXIS = 1.2  # Where an axis ends.


@dataclasses.dataclass(frozen=True)
class View:
  """A direction to look from.

  Attributes:
    name: for people.
    right, up: unit vectors on the drawing's axes, in (V, A, D).
  """

  name: str
  right: tuple[float, float, float]
  up: tuple[float, float, float]

  @property
  def axes(self) -> np.ndarray:
    """[3, 3]: right, up, and towards the viewer."""
    right, up = np.array(self.right), np.array(self.up)
    return np.stack([right, up, np.cross(right, up)])


def _turned(azimuth: float, height: float) -> tuple[tuple, tuple]:
  """Right and up of a viewer at these degrees around and above the front."""
  a, h = math.radians(azimuth), math.radians(height)
  right = (math.cos(a), 0.0, -math.sin(a))
  up = (-math.sin(a) * math.sin(h), math.cos(h), -math.cos(a) * math.sin(h))
  return right, up


VIEWS = (
  View('from the side', *_turned(32, 24)),
  View('valence and arousal', (1, 0, 0), (0, 1, 0)),
  View('valence and dominance', (1, 0, 0), (0, 0, 1)),
)


def borders(regions: str | float) -> list[np.ndarray]:
  """Closed or open curves [points, 3] on the unit sphere between regions."""
  around = np.linspace(0, 2 * math.pi, _STEPS + 1)
  if regions == 'octants':
    curves = []
    for axis in range(3):
      circle = np.stack([np.cos(around), np.sin(around)], -1)
      curves.append(np.insert(circle, axis, 0.0, axis=1))
    return curves
  # Late, as pages of classes are made without JAX.
  from jaxser.ops import spherical

  step = math.radians(float(regions))
  places = []
  for k in range(1, round(math.pi / step)):
    places.append((around, np.full_like(around, k * step)))
  down = np.linspace(0, math.pi, _STEPS // 2 + 1)
  for k in range(round(2 * math.pi / step)):
    places.append((np.full_like(down, k * step), down))
  return [
    np.asarray(
      spherical.spherical_to_cartesian(
        np.stack([np.ones_like(polar), azimuth, polar], -1).astype(np.float32)
      )
    )
    for azimuth, polar in places
  ]


def _pieces(curve: np.ndarray, depth: np.ndarray) -> list[tuple[bool, slice]]:
  """Runs of a curve in front of the centre (True) and behind it."""
  front = depth >= 0
  cuts = [0, *(np.flatnonzero(np.diff(front)) + 1), len(curve)]
  return [
    (bool(front[a]), slice(max(a - 1, 0), b))
    for a, b in itertools.pairwise(cuts)
  ]


def draw(
  title: str,
  view: View,
  points: np.ndarray,
  colours: np.ndarray,
  regions: str | float,
  reach: float,
  description: str,
  number: int,
) -> Markup:
  """The unit sphere with its regions, and points in their colours.

  Args:
    title: of the drawing.
    view: where it is looked at from.
    points: [n, 3] around neutral, (valence, arousal, dominance).
    colours: int [n], region of each point, which gives its colour.
    regions: what the borders are of.
    reach: distance from the centre to the edge of the drawing, at least 1.
    description: in words.
    number: of the drawing on its page.
  """
  middle, scale = _SIZE / 2, (_SIZE / 2 - 20) / max(reach, _AXIS)

  def placed(values):
    x, y, depth = view.axes @ np.asarray(values, np.float64).T
    return middle + scale * x, _TOP + middle - scale * y, depth

  parts = [
    element(
      'circle',
      cx=f'{middle:.1f}',
      cy=f'{_TOP + middle:.1f}',
      r=f'{scale:.1f}',
      class_='globe',
    )
  ]
  lines: dict[bool, list[str]] = {False: [], True: []}
  for curve in borders(regions):
    x, y, depth = placed(curve)
    for front, part in _pieces(curve, depth):
      lines[front].append(_path(x[part], y[part]))
  chosen = np.unique(
    np.linspace(0, len(points) - 1, min(len(points), DOTS)).round()
  ).astype(int)
  x, y, depth = placed(points[chosen])
  dots: dict[tuple[bool, int], list[str]] = {}
  for i, colour in enumerate(colours[chosen] % COLOURS):
    key = bool(depth[i] >= 0), int(colour)
    dots.setdefault(key, []).append(f'M{x[i]:.1f} {y[i]:.1f}h0')
  for front in (False, True):
    behind = '' if front else ' behind'
    parts.append(
      element('path', d=''.join(lines[front]), class_=f'globe{behind}')
    )
    for (near, colour), marks in sorted(dots.items()):
      if near == front:
        kind = f'dotted kind{colour}{behind}'
        parts.append(element('path', d=''.join(marks), class_=kind))
  parts.append(_names(placed))
  name = element('text', title, x=2, y=15, class_='name')
  return charts.drawing(
    _SIZE,
    _SIZE + _TOP,
    f'{title}, {view.name}',
    description,
    number,
    element('g', name, class_='axes'),
    *parts,
  )


def _path(x: np.ndarray, y: np.ndarray) -> str:
  return 'M' + 'L'.join(f'{a:.1f} {b:.1f}' for a, b in zip(x, y, strict=True))


def _names(
  placed: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Markup:
  """The three dimensions at the positive ends of their axes.

  One that points at the viewer is told in the title instead.
  """
  parts = []
  centre = placed(np.zeros((1, 3)))
  for axis, name in enumerate(DIMENSIONS):
    ends = placed(np.eye(3)[axis : axis + 1] * _AXIS)
    length = math.hypot(ends[0][0] - centre[0][0], ends[1][0] - centre[1][0])
    if length < 20:
      continue
    x, y = ends[0][0], ends[1][0]
    right, below = x > centre[0][0] + 20, y > centre[1][0] + 20
    parts += [
      element(
        'line',
        x1=f'{centre[0][0]:.1f}',
        y1=f'{centre[1][0]:.1f}',
        x2=f'{x:.1f}',
        y2=f'{y:.1f}',
        class_='tick',
      ),
      element(
        'text',
        f'{name} +',
        x=f'{min(x + 40, _SIZE - 2) if right else x:.1f}',
        y=f'{y + 14 if below else y - 6:.1f}',
        text_anchor='end' if right else 'middle',
      ),
    ]
  return element('g', *parts, class_='axes')
