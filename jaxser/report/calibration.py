"""Calibration: is the program right as often as it is sure?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxser.evaluation.predictions import Prediction
from jaxser.report import charts, text
from jaxser.report.markup import Markup, element, join
from jaxser.report.run import Run
from jaxser.report.section import Section, selections

BINS = 10


class Reliability(NamedTuple):
  """Predictions by their confidence, the highest of their scores.

  Attributes:
    counts: predictions per bin, [BINS]; bin i holds confidences in
      (i / BINS, (i + 1) / BINS].
    confidence: mean confidence per bin, NaN where it is empty.
    accuracy: share that is right per bin, NaN where it is empty.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def ece(self) -> float:
    """Expected calibration error, 0 to 1 (Guo et al. 2017, equation 3).

    The mean over predictions of |accuracy - confidence| of their bin. Few
    predictions make it larger than it is.
    """
    gap = np.abs(self.accuracy - self.confidence)
    return float(np.nansum(self.counts * gap) / self.counts.sum())

  @property
  def excess(self) -> float:
    """Mean confidence minus accuracy: positive where too sure, -1 to 1."""
    gap = self.confidence - self.accuracy
    return float(np.nansum(self.counts * gap) / self.counts.sum())


def reliability(predictions: Sequence[Prediction]) -> Reliability:
  """Sorts predictions of classes into bins of equal width by confidence."""
  confidence = np.array([max(p.scores) for p in predictions], np.float64)
  right = np.array([p.prediction == p.target for p in predictions], np.float64)
  index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  counts = np.bincount(index, minlength=BINS)
  known = np.where(counts > 0, counts, np.nan)
  return Reliability(
    counts,
    np.bincount(index, confidence, BINS) / known,
    np.bincount(index, right, BINS) / known,
  )


def diagram(title: str, found: Reliability, number: int) -> Markup:
  """Accuracy against confidence; a dot's area is its share of predictions."""
  width, height = 300, 312
  marks = [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
  x = charts.Scale(0, 100, 42, width - 12)
  y = charts.Scale(0, 100, height - 42, 26)
  dots, words = [], []
  for count, sure, right in zip(*found, strict=True):
    if not count:
      continue
    radius = 2 + 14 * np.sqrt(count / found.counts.sum())
    dots.append(
      element(
        'circle',
        cx=f'{float(x(100 * sure)):.1f}',
        cy=f'{float(y(100 * right)):.1f}',
        r=f'{radius:.1f}',
        class_='bubble',
      )
    )
    words.append(
      f'{100 * sure:.0f} % sure, {100 * right:.0f} % right ({count})'
    )
  equal = element(
    'line', x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_='equal'
  )
  return charts.drawing(
    width,
    height,
    f'{title}: right against sure',
    f'{told(found)} {"; ".join(words)}.',
    number,
    charts.axes(x, y, marks, marks, 'confidence, per cent', 'right, per cent'),
    equal,
    *dots,
  )


def told(found: Reliability) -> str:
  """'ECE 8.1 per cent; too sure by 7.9 points.'"""
  excess = 100 * found.excess
  word = 'too sure' if excess > 0 else 'not sure enough'
  return (
    f'ECE {100 * found.ece:.1f} per cent; {word} by {abs(excess):.1f} points.'
  )


ABOUT = (
  'A dot on the dashed line is right as often as it is sure; below it the '
  'program is too sure. Its area is its share of the predictions. ECE: mean '
  f'distance from the line, {BINS} bins of equal width; few predictions make '
  'it larger than it is.'
)


def calibration(run: Run, numbers: charts.Numbers) -> Section | None:
  """A reliability diagram per selection."""
  if run.results['task'] != 'classification':
    return None
  drawings = []
  for name, label in selections(run):
    found = reliability([p for p in run.predictions if p.selection == name])
    caption = join(
      [element('b', text.headline(text.short(name))), '. ', told(found)]
    )
    drawings.append(
      element(
        'figure',
        diagram(label, found, numbers()),
        element('figcaption', caption),
      )
    )
  return Section(
    'calibration',
    'Calibration',
    join(
      [
        element('p', ABOUT, class_='soft'),
        element('div', *drawings, class_='grid-of charts'),
      ]
    ),
  )
