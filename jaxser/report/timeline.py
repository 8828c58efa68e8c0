"""Answers over time as one self-contained HTML page."""

import os
from collections.abc import Sequence

import numpy as np

import jaxser
from jaxser.core import files
from jaxser.models.predictor import Recording
from jaxser.models.saved import Description
from jaxser.ops.spherical import VAD
from jaxser.report import charts
from jaxser.report.markup import Markup, element, join, scrolling, table
from jaxser.report.style import STYLE

MOST_RECORDINGS = 50
"""A page shows at most this many recordings."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_WIDTH, _HEIGHT = 720, 250
# Seven hues that differ in light and in dark; each line has its dashes too.
_STYLE = """
.lines path { fill: none; stroke-width: 2; }
.lines .l0 { stroke: #0b78c4; } .lines .l1 { stroke: #d1660a; }
.lines .l2 { stroke: #2f8f4e; } .lines .l3 { stroke: #b3409a; }
.lines .l4 { stroke: #8a6d1f; } .lines .l5 { stroke: #c93545; }
.lines .l6 { stroke: #6a63c9; } .lines .l7 { stroke: #4f8a8b; }
.lines .l8 { stroke: #7d7d7d; }
.lines .l1, .lines .l4 { stroke-dasharray: 7 3; }
.lines .l2, .lines .l5 { stroke-dasharray: 2 2; }
.lines .l3, .lines .l6 { stroke-dasharray: 9 3 2 3; }
"""
_HUES = 9


def write(
  path: os.PathLike[str] | str,
  recordings: Sequence[Recording],
  description: Description,
) -> None:
  """Writes a page with one chart and one table per recording."""
  numbers = charts.Numbers()
  shown = [r for r in recordings if not r.error][:MOST_RECORDINGS]
  sections = [_section(r, description, numbers) for r in shown]
  left = len(recordings) - len(shown)
  note = f' {left} recordings are not shown.' if left else ''
  about = description.content
  page = element(
    'html',
    element(
      'head',
      element('meta', charset='utf-8'),
      element(
        'meta', name='viewport', content='width=device-width, initial-scale=1'
      ),
      element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
      element('title', 'Emotion over time'),
      element('link', rel='icon', href='data:,'),
      element('style', Markup(STYLE + _STYLE)),
    ),
    element(
      'body',
      element('h1', 'Emotion over time'),
      element(
        'p',
        f'{about["system"]} trained on {about["corpus"]}, '
        f'{description.workdir}.{note}',
        class_='soft',
      ),
      element('main', join(sections, '\n')),
      element('footer', f'jaxser {jaxser.__version__}'),
    ),
    lang='en',
  )
  files.write_text(path, f'<!DOCTYPE html>\n{page}\n')


def _section(
  recording: Recording, description: Description, numbers: charts.Numbers
) -> Markup:
  regression = description.system.task == 'regression'
  names = VAD if regression else description.classes
  values = np.array(
    [s.vad if regression else s.scores for s in recording.segments]
  )
  limits = description.vad_range if regression else (0.0, 1.0)
  if limits is None:
    limits = (float(values.min()), float(values.max()))
  rows = [
    [
      f'{s.start:.1f} - {s.end:.1f} s',
      s.region if regression else s.emotion,
      *(f'{v:.2f}' if regression else f'{100 * v:.1f} %' for v in row),
    ]
    for s, row in zip(recording.segments, values, strict=True)
  ]
  label = f'Segments of {recording.name}'
  header = ['time', 'region' if regression else 'emotion', *names]
  return element(
    'section',
    element('h2', recording.name),
    _legend(names),
    _chart(recording, names, values, limits, regression, numbers()),
    element(
      'details',
      element('summary', f'{len(rows)} segments as a table'),
      scrolling(table(label, header, rows, class_='long'), label),
    ),
  )


def _legend(names: Sequence[str]) -> Markup:
  items = [
    element(
      'li',
      element(
        'svg',
        element('path', d='M0 5H28', class_=f'l{i % _HUES}'),
        viewBox='0 0 28 10',
        aria_hidden='true',
        class_='lines',
      ),
      name,
    )
    for i, name in enumerate(names)
  ]
  return element('ul', *items, class_='legend')


def _chart(
  recording: Recording,
  names: Sequence[str],
  values: np.ndarray,
  limits: tuple[float, float],
  regression: bool,
  number: int,
) -> Markup:
  """A step per segment: what was said holds for all of it."""
  marks = charts.ticks(*limits)
  times = charts.ticks(0.0, max(recording.seconds, 1e-3), 8)
  x = charts.Scale(0.0, max(recording.seconds, 1e-3), 46, _WIDTH - 12)
  y = charts.Scale(marks[0], marks[-1], _HEIGHT - 42, 26)
  # The last segment may begin before the one before it ends.
  starts = np.array([s.start for s in recording.segments])
  ends = np.append(starts[1:], recording.segments[-1].end)
  at = np.stack([x(starts), x(ends)], axis=1).reshape(-1)
  lines = []
  for i in range(len(names)):
    levels = np.repeat(y(values[:, i]), 2)
    points = zip(at, levels, strict=True)
    path = 'M' + 'L'.join(f'{a:.1f} {b:.1f}' for a, b in points)
    lines.append(element('path', d=path, class_=f'l{i % _HUES}'))
  means = ', '.join(
    f'{name} {v:.2f}' for name, v in zip(names, values.mean(0), strict=True)
  )
  said = recording.overall.region if regression else recording.overall.emotion
  return charts.drawing(
    _WIDTH,
    _HEIGHT,
    f'{recording.name} over time',
    f'{len(values)} segments in {recording.seconds:.1f} s; on the whole {said}; '
    f'means: {means}.',
    number,
    charts.axes(
      x,
      y,
      [t for t in times if t <= recording.seconds],
      marks,
      'seconds',
      'value' if regression else 'probability',
    ),
    element('g', *lines, class_='lines'),
  )
