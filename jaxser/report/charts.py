"""Charts as SVG text: they scale, follow the colour scheme and can be read out.

Colours and fonts come from the style sheet of the page, by class. Every chart
has a title and a description with its main figures.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxser.report.markup import Markup, element

POINTS = 240
"""A curve is drawn through at most this many epochs."""
DOTS = 1500
"""A scatter shows at most this many points."""


class Numbers:
  """Hands out numbers, for ids that are unique on a page."""

  def __init__(self):
    self._next: Iterator[int] = itertools.count(1)

  def __call__(self) -> int:
    return next(self._next)


@dataclasses.dataclass(frozen=True)
class Scale:
  """Maps data in [low, high] to [start, end] on the drawing."""

  low: float
  high: float
  start: float
  end: float

  def __call__(self, values: np.ndarray) -> np.ndarray:
    share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
    return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
  """Round numbers from at or below `low` to at or above `high`."""
  if not high > low:
    low, high = low - 0.5, high + 0.5
  raw = (high - low) / wanted
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
  first = math.floor(low / step + 1e-9)
  last = math.ceil(high / step - 1e-9)
  return [round(i * step, 10) for i in range(first, last + 1)]


def _label(value: float) -> str:
  return f'{value:g}'


def _path(x: np.ndarray, y: np.ndarray) -> str:
  return 'M' + 'L'.join(f'{a:.1f} {b:.1f}' for a, b in zip(x, y, strict=True))


def drawing(
  width: int,
  height: int,
  title: str,
  description: str,
  number: int,
  *parts: Markup,
) -> Markup:
  """An SVG element with its text alternatives."""
  title_id, text_id = f'chart-{number}-title', f'chart-{number}-text'
  return element(
    'svg',
    element('title', title, id=title_id),
    element('desc', description, id=text_id),
    *parts,
    xmlns='http://www.w3.org/2000/svg',
    viewBox=f'0 0 {width} {height}',
    role='img',
    aria_labelledby=f'{title_id} {text_id}',
    class_='chart',
  )


def axes(
  x: Scale,
  y: Scale,
  x_ticks: Sequence[float],
  y_ticks: Sequence[float],
  x_name: str,
  y_name: str,
) -> Markup:
  """Grid lines, figures and names of both axes."""
  parts = []
  for value in y_ticks:
    at = f'{float(y(value)):.1f}'
    parts += [
      element('line', x1=x.start, x2=x.end, y1=at, y2=at, class_='grid'),
      element(
        'text',
        _label(value),
        x=x.start - 6,
        y=at,
        dy='0.35em',
        text_anchor='end',
      ),
    ]
  for value in x_ticks:
    at = f'{float(x(value)):.1f}'
    parts += [
      element('line', x1=at, x2=at, y1=y.start, y2=y.start + 4, class_='tick'),
      element(
        'text', _label(value), x=at, y=y.start + 17, text_anchor='middle'
      ),
    ]
  middle = (x.start + x.end) / 2
  parts += [
    element(
      'line', x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_='tick'
    ),
    element('text', x_name, x=middle, y=y.start + 34, text_anchor='middle'),
    element('text', y_name, x=4, y=14, class_='name'),
  ]
  return element('g', *parts, class_='axes')


@dataclasses.dataclass(frozen=True)
class Curve:
  """Values of several runs at the same epochs; NaN where a run has none.

  Attributes:
    name: of the split; also the class that gives it its colour.
    epochs: [epochs], increasing.
    values: [runs, epochs]; every epoch has at least one value.
  """

  name: str
  epochs: np.ndarray
  values: np.ndarray

  def quartiles(self) -> np.ndarray:
    """Lower quartile, median and upper quartile over runs, [3, epochs]."""
    return np.nanquantile(self.values, (0.25, 0.5, 0.75), axis=0)


def _thinned(size: int) -> np.ndarray:
  """Positions of at most POINTS of `size` epochs; first and last stay."""
  return np.unique(np.linspace(0, size - 1, min(size, POINTS)).round()).astype(
    int
  )


def learning_curves(
  title: str,
  unit: str,
  curves: Sequence[Curve],
  number: int,
  limits: tuple[float, float] | None = None,
) -> Markup:
  """Medians over runs against epochs, with the band between the quartiles.

  `limits` are the lowest and highest value of all charts to be compared.
  """
  width, height = 360, 250
  bands = [curve.quartiles() for curve in curves]
  epochs = np.concatenate([curve.epochs for curve in curves])
  if limits is None:
    limits = min(b.min() for b in bands), max(b.max() for b in bands)
  y_ticks = ticks(*limits)
  first, last = float(epochs.min()), float(epochs.max())
  x = Scale(first, last if last > first else first + 1, 46, width - 12)
  y = Scale(y_ticks[0], y_ticks[-1], height - 42, 26)
  x_ticks = [
    t for t in ticks(first, x.high) if x.low <= t <= x.high and t % 1 == 0
  ]
  parts, words = [], []
  for curve, band in zip(curves, bands, strict=True):
    chosen = _thinned(len(curve.epochs))
    at, (low, middle, high) = x(curve.epochs[chosen]), y(band[:, chosen])
    if len(curve.values) > 1 and len(chosen) > 1:
      outline = (
        np.concatenate([at, at[::-1]]),
        np.concatenate([low, high[::-1]]),
      )
      parts.append(
        element('path', d=f'{_path(*outline)}Z', class_=f'band {curve.name}')
      )
    if len(chosen) > 1:
      parts.append(
        element('path', d=_path(at, middle), class_=f'line {curve.name}')
      )
    else:
      parts.append(
        element(
          'circle',
          cx=f'{at[0]:.1f}',
          cy=f'{middle[0]:.1f}',
          r=4,
          class_=f'dot {curve.name}',
        )
      )
    words.append(
      f'{curve.name}: {band[1, -1]:.4g} at epoch {curve.epochs[-1]:g}'
      + (
        f' (quartiles {band[0, -1]:.4g} to {band[2, -1]:.4g})'
        if len(curve.values) > 1
        else ''
      )
    )
  runs = max(len(curve.values) for curve in curves)
  of = f'median of {runs} runs' if runs > 1 else 'one run'
  return drawing(
    width,
    height,
    f'{title} by epoch',
    f'{of}; {"; ".join(words)}.',
    number,
    axes(x, y, x_ticks, y_ticks, 'epoch', f'{title}{unit}'),
    *parts,
  )


def scatter(
  title: str,
  targets: np.ndarray,
  predictions: np.ndarray,
  limits: tuple[float, float],
  description: str,
  number: int,
) -> Markup:
  """True against predicted values on one scale, with the line of equality.

  `limits` are the lowest and highest value of all charts to be compared.
  """
  width, height = 300, 312
  rows = np.unique(
    np.linspace(0, len(targets) - 1, min(len(targets), DOTS)).round()
  ).astype(int)
  marks = ticks(*limits)
  x = Scale(marks[0], marks[-1], 36, width - 12)
  y = Scale(marks[0], marks[-1], height - 42, 26)
  dots = [
    element('path', d=f'M{a:.1f} {b:.1f}h0')
    for a, b in zip(x(targets[rows]), y(predictions[rows]), strict=True)
  ]
  equal = element(
    'line', x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_='equal'
  )
  return drawing(
    width,
    height,
    f'{title}: predicted against true',
    description,
    number,
    axes(x, y, marks, marks, 'true', f'{title}, predicted'),
    equal,
    element('g', *dots, class_='dots'),
  )
