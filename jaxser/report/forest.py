"""Figures with their intervals below each other, on one scale."""

import dataclasses
from collections.abc import Sequence

from jaxser.report import charts
from jaxser.report.markup import Markup, element

_ROW = 26
_LETTERS = 22
"""A label longer than this is cut in the drawing; the text has it whole."""


@dataclasses.dataclass(frozen=True)
class Mark:
  """One line of the chart.

  Attributes:
    label: what it is.
    value: the figure; None draws the label and the reference only.
    low, high: its interval, None where there is none.
    reference: a figure to compare with, e.g. the paper's; None without one.
  """

  label: str
  value: float | None
  low: float | None = None
  high: float | None = None
  reference: float | None = None


def forest(
  title: str,
  marks: Sequence[Mark],
  axis: str,
  number: int,
  *,
  zero: bool = False,
  reference: str = 'paper',
  digits: int = 2,
) -> Markup:
  """A dot with its interval per line, and a ring for the reference.

  Args:
    title: of the chart.
    marks: top to bottom, at least one of them with a value or reference.
    axis: name and unit of the figures.
    number: of the chart on its page.
    zero: whether to draw a line at zero, for differences.
    reference: what the references are called in the text alternative.
    digits: decimals of the text alternative.
  """
  known = [
    x
    for m in marks
    for x in (m.value, m.low, m.high, m.reference)
    if x is not None
  ]
  known += [0.0] if zero else []
  steps = charts.ticks(min(known), max(known))
  width, height = 460, 16 + _ROW * len(marks) + 40
  longest = max(min(len(mark.label), _LETTERS) for mark in marks)
  left = 16 + 7.5 * longest
  x = charts.Scale(steps[0], steps[-1], left, width - 14)
  bottom = height - 40
  parts, words = [], []
  for step in steps:
    at = f'{float(x(step)):.1f}'
    parts += [
      element('line', x1=at, x2=at, y1=8, y2=bottom, class_='grid'),
      element('text', f'{step:g}', x=at, y=bottom + 16, text_anchor='middle'),
    ]
  parts.append(
    element(
      'text',
      axis,
      x=(x.start + x.end) / 2,
      y=bottom + 33,
      text_anchor='middle',
    )
  )
  lines = []
  if zero:
    at = f'{float(x(0.0)):.1f}'
    lines.append(element('line', x1=at, x2=at, y1=8, y2=bottom, class_='equal'))
  for row, mark in enumerate(marks):
    y = 8 + _ROW * (row + 0.5)
    shown = mark.label
    if len(shown) > _LETTERS:
      shown = shown[: _LETTERS - 1] + '…'
    lines.append(
      element(
        'text',
        shown,
        x=left - 8,
        y=y,
        dy='0.35em',
        text_anchor='end',
        class_='label',
      )
    )
    lines += _drawn(mark, x, y)
    words.append(_told(mark, reference, digits))
  return charts.drawing(
    width,
    height,
    title,
    '; '.join(words) + '.',
    number,
    element('g', *parts, class_='axes'),
    element('g', *lines, class_='forest'),
  )


def _drawn(mark: Mark, x: charts.Scale, y: float) -> list[Markup]:
  parts = []
  if mark.low is not None and mark.high is not None:
    low, high = (f'{float(x(v)):.1f}' for v in (mark.low, mark.high))
    parts.append(element('line', x1=low, x2=high, y1=y, y2=y, class_='whisker'))
  if mark.reference is not None:
    at = f'{float(x(mark.reference)):.1f}'
    parts.append(element('circle', cx=at, cy=y, r=6, class_='ring'))
  if mark.value is not None:
    at = f'{float(x(mark.value)):.1f}'
    parts.append(element('circle', cx=at, cy=y, r=4, class_='dot test'))
  return parts


def _told(mark: Mark, reference: str, digits: int) -> str:
  """'EMODB: 85.79 (80.10 to 90.20), paper 95.17'."""
  words = []
  if mark.value is None:
    words.append('no figure')
  elif mark.low is None or mark.high is None:
    words.append(f'{mark.value:.{digits}f}')
  else:
    words.append(
      f'{mark.value:.{digits}f} ({mark.low:.{digits}f} to '
      f'{mark.high:.{digits}f})'
    )
  if mark.reference is not None:
    words.append(f'{reference} {mark.reference:.{digits}f}')
  return f'{mark.label}: {", ".join(words)}'
