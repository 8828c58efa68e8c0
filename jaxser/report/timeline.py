"""Predictions over time as a page: one chart and one table per recording."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.evaluation.predictions import DIMENSIONS, PathLike
from jaxser.models import builtin
from jaxser.report import figures, pages, text

MOST_RECORDINGS = 50  # On a page.
MOST_SEGMENTS = 12  # Of a chart as narrow as a phone.


def write(path: PathLike, recordings: Sequence[Any], description: Any) -> None:
  files.write_text(path, page(recordings, description))


def describe(description: Any) -> str:
  """Returns a sentence on the model that predicted."""
  own = '{system} trained on {corpus}, '.format_map(description.content)
  return (
    f'{builtin.about(description.workdir) or own + str(description.workdir)}.'
  )


def page(
  recordings: Sequence[Any],
  description: Any,
  waveforms: Sequence[np.ndarray | None] = (),
  header: bool = True,
) -> str:
  """Returns the page of recordings, over their waveforms where given."""
  shown = [r for r in recordings if not r.error][:MOST_RECORDINGS]
  model = describe(description)
  if len(shown) < len(recordings):
    model += f' {len(recordings) - len(shown)} recordings are not shown.'
  waves = itertools.chain(waveforms, itertools.repeat(None))
  lines = [
    _timeline(r, description, w) for r, w in zip(shown, waves, strict=False)
  ]
  return pages.render(
    'timeline.html',
    title='Emotion over time',
    about=model if header else '',
    timelines=lines,
  )


def _timeline(
  recording: Any, description: Any, waveform: np.ndarray | None
) -> dict[str, Any]:
  segments, vad = recording.pieces, bool(recording.vad)
  names = DIMENSIONS if vad else description.classes
  values = np.array([[*(s.vad or s.scores).values()] for s in segments])
  limits = (0.0, 1.0)
  if vad:
    limits = description.vad_range or (float(values.min()), float(values.max()))
  # The last segment may begin before the one before it ends.
  edges = np.array([*(s.start for s in segments), segments[-1].end])
  whole = recording.region or recording.emotion or ''
  means = list(zip(names, values.mean(0).tolist(), strict=True))
  short = len(values) <= MOST_SEGMENTS
  pieces = f'{text.count(len(values), "segment")} of {recording.seconds:.1f} s'
  words = (
    f'{recording.name}, {pieces}: {whole}{"; " * bool(whole)}mean '
    f'{", ".join(f"{name} {v:.2f}" for name, v in means)}.'
  )
  title = f'{"Value" if vad else "Probability"} over time'
  return {
    'name': recording.name,
    'legend': [(n, f'k{i % figures.KINDS}') for i, n in enumerate(names)],
    'overall': whole,
    'vad': vad,
    'means': means,
    'pieces': pieces,
    'short': short,
    'warnings': recording.warnings,
    'chart': (figures.short_timeline if short else figures.timeline)(
      title, edges, values, limits, words, waveform, recording.seconds
    ),
    'points': values,
    'sphere': description.system.sphere if vad else None,
    'header': ['time', 'region' if vad else 'emotion', *names],
    'rows': [
      [
        f'{s.start:.1f} - {s.end:.1f} s',
        s.region if vad else s.emotion,
        *(f'{v:.2f}' if vad else f'{100 * v:.1f} %' for v in row),
      ]
      for s, row in zip(segments, values, strict=True)
    ],
  }
