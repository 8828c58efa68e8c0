"""Predictions over time as a page: one chart and one table per recording."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.evaluation.predictions import DIMENSIONS
from jaxser.report import figures, pages
from jaxser.report.run import PathLike

MOST_RECORDINGS = 50
"""A page shows at most this many recordings."""


def write(path: PathLike, recordings: Sequence[Any], description: Any) -> None:
  """Writes the page of recordings (each a `jaxser.models.output.Recording`).

  `description` is the `jaxser.models.saved.Description` of the model.
  """
  shown = [r for r in recordings if not r.error][:MOST_RECORDINGS]
  about = '{system} trained on {corpus}, '.format_map(description.content)
  about += f'{description.workdir}.'
  if len(shown) < len(recordings):
    about += f' {len(recordings) - len(shown)} recordings are not shown.'
  page = pages.render(
    'timeline.html',
    title='Emotion over time',
    about=about,
    timelines=[_timeline(recording, description) for recording in shown],
  )
  files.write_text(path, page)


def _timeline(recording: Any, description: Any) -> dict[str, Any]:
  segments, vad = recording.pieces, bool(recording.vad)
  names = DIMENSIONS if vad else description.classes
  values = np.array([[*(s.vad or s.scores).values()] for s in segments])
  limits = (0.0, 1.0)
  if vad:
    limits = description.vad_range or (float(values.min()), float(values.max()))
  # The last segment may begin before the one before it ends.
  edges = np.array([*(s.start for s in segments), segments[-1].end])
  whole = recording.region or recording.emotion
  means = zip(names, values.mean(0), strict=True)
  words = (
    f'{recording.name}: {len(values)} segments in {recording.seconds:.1f} s; on the whole '
    f'{whole}; means: {", ".join(f"{name} {v:.2f}" for name, v in means)}.'
  )
  title = f'{"Value" if vad else "Probability"} over time'
  return {
    'name': recording.name,
    'legend': [(n, f'k{i % figures.KINDS}') for i, n in enumerate(names)],
    'chart': figures.timeline(title, edges, values, limits, words),
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
