"""What is predicted of recordings: for people, for programs, for pandas.

A format of `WRITERS` is a generator of lines, which come with the recordings.
Nothing here imports JAX.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxser.evaluation.predictions import DIMENSIONS

_WIDEST_NAME = 44


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Prediction:
  """What the models predict, on average, of a part of a recording.

  Attributes:
    start, end: seconds of the recording.
    emotion: the most probable class; '' for a regression.
    scores: class -> probability; empty for a regression.
    region: where on the sphere `vad` lies, in words; '' for classes.
    vad: valence, arousal, dominance -> value on the scale of the corpus; empty
      for classes.
    embeddings: [models, width]; spaces of different models do not compare.
    error: why there is no prediction, else ''.
  """

  start: float = 0.0
  end: float = 0.0
  emotion: str = ''
  scores: dict[str, float] = dataclasses.field(default_factory=dict)
  region: str = ''
  vad: dict[str, float] = dataclasses.field(default_factory=dict)
  embeddings: np.ndarray | None = None
  error: str = ''

  def as_dict(self) -> dict[str, Any]:
    """Returns what JSON holds; numbers have six significant digits."""
    content = {'start': round(self.start, 3), 'end': round(self.end, 3)}
    if self.error:
      return {**content, 'error': self.error}
    values = (self.vad or self.scores).items()
    values = {name: float(f'{value:.6g}') for name, value in values}
    if self.vad:
      return {**content, **values, 'region': self.region}
    return {**content, 'emotion': self.emotion, 'scores': values}

  def cells(self) -> list[str]:
    """Returns the numbers as people read them."""
    cells = [f'{value:.2f}' for value in self.vad.values()]
    return cells + [f'{100 * value:.1f} %' for value in self.scores.values()]

  def __repr__(self) -> str:
    if self.error:
      return self.error
    pairs = zip(self.vad or self.scores, self.cells(), strict=True)
    return f'{self.emotion or self.region} ({", ".join(map(" ".join, pairs))})'


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Recording(Prediction):
  """The prediction of a whole recording; of segments the mean over them.

  Attributes:
    name: as given.
    seconds: duration; what was used of it lies between `start` and `end`.
    segments: one prediction each; none without segmenting.
    warnings: what makes predictions doubtful.
  """

  name: str
  seconds: float = 0.0
  segments: tuple[Prediction, ...] = ()
  warnings: tuple[str, ...] = ()

  @property
  def pieces(self) -> tuple[Prediction, ...]:
    """The segments, or else the whole, as far as they have a prediction."""
    return tuple(p for p in self.segments or (self,) if not p.error)

  def as_dict(self) -> dict[str, Any]:
    """Returns what JSON holds."""
    if self.error:
      return {'file': self.name, 'error': self.error}
    content = {'file': self.name, 'seconds': round(self.seconds, 3)}
    content |= super().as_dict()
    if self.warnings:
      content['warnings'] = list(self.warnings)
    if self.segments:
      content['segments'] = [segment.as_dict() for segment in self.segments]
    return content

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yields the row of a table, or one for each segment."""
    whole = self.as_dict()
    for part in whole.pop('segments', [whole]):
      row = {'file': self.name, 'seconds': whole.get('seconds'), **part}
      row.pop('warnings', None)
      scores = row.pop('scores', {})
      yield {**row, **scores, 'error': part.get('error', '')}

  def to_pandas(self) -> Any:
    """Returns a `pandas.DataFrame` of one row, or one for each segment."""
    return Recordings([self]).to_pandas()

  def __repr__(self) -> str:
    lines = [self.error or f'{self.name}: {super().__repr__()}']
    for part in self.segments:
      lines.append(f'  {part.start:.1f} - {part.end:.1f} s: {part!r}')
    return '\n'.join([*lines, *(f'  Warning: {w}.' for w in self.warnings)])


class Recordings(list[Recording]):
  """Predictions of several recordings, one to a line where they are printed."""

  def to_pandas(self) -> Any:
    """Returns a `pandas.DataFrame`: a row per recording, or per segment.

    Columns are those of `jaxser.predict --format=csv`.
    """
    import pandas

    rows = [row for recording in self for row in recording.rows()]
    return pandas.DataFrame(rows, columns=[*max(rows, key=len, default=())])

  def __repr__(self) -> str:
    return '\n'.join(map(repr, self))


def table(
  recordings: Iterable[Recording], predictor: Any, names: Sequence[str]
) -> Iterator[str]:
  """Yields columns for people; what could not be used is left out."""
  columns, regression = _columns(predictor)
  # A segment's times take more room than a short name.
  narrowest = 20 if predictor.extractor.segment else 4
  width = min(_WIDEST_NAME, max([narrowest, *map(len, names)]))
  widest = max([7, *map(len, columns)])

  def line(first: str, word: str, cells: Iterable[str]) -> str:
    pairs = zip(cells, columns, strict=False)
    numbers = [f'{cell:>{max(7, len(name))}}' for cell, name in pairs]
    word = f'{word:<{widest}}'
    words = [*numbers, word] if regression else [word, *numbers]
    return '  '.join([f'{first:<{width}}', *words]).rstrip()

  def row(first: str, prediction: Prediction) -> str:
    word = prediction.error.partition(':')[0] or prediction.emotion
    return line(first, word or prediction.region, prediction.cells())

  yield line('file', 'region' if regression else 'emotion', columns)
  for recording in recordings:
    if recording.error:
      continue
    name = recording.name
    # The end of a path tells more than its beginning.
    if len(name) > width:
      name = '…' + name[-(width - 1) :]
    yield row(name, recording)
    for segment in recording.segments:
      span = f'  {segment.start:.1f} - {segment.end:.1f} s'
      yield row(span[:width], segment)


def csv_rows(
  recordings: Iterable[Recording], predictor: Any, names: Sequence[str]
) -> Iterator[str]:
  """Yields one row per recording, or per segment; failures have an error."""
  columns, regression = _columns(predictor)
  outputs = [*columns, 'region'] if regression else ['emotion', *columns]
  fields = ['file', 'seconds', 'start', 'end', *outputs, 'error']

  def line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='').writerow(cells)
    return text.getvalue()

  yield line(fields)
  for recording in recordings:
    for row in recording.rows():
      yield line(row.get(field) for field in fields)


def json_lines(
  recordings: Iterable[Recording], predictor: Any, names: Sequence[str]
) -> Iterator[str]:
  """Yields one object per recording, failures too."""
  for recording in recordings:
    yield json.dumps(recording.as_dict(), ensure_ascii=False, allow_nan=False)


def json_document(
  recordings: Iterable[Recording], predictor: Any, names: Sequence[str]
) -> Iterator[str]:
  """Yields one document: the model, the recordings, the failures."""
  found: dict[str, list] = {'recordings': [], 'failures': []}
  for recording in recordings:
    kind = 'failures' if recording.error else 'recordings'
    found[kind].append(recording.as_dict())
  description = predictor.description
  scale = 'vad_range' if _columns(predictor)[1] else 'classes'
  model = {
    'folder': str(description.workdir),
    **{n: description.content[n] for n in ('system', 'corpus', 'fingerprint')},
    'members': [model.training._asdict() for model in predictor.models],
    scale: description.content[scale],
  }
  yield json.dumps({'model': model, **found}, indent=2, ensure_ascii=False)


def _columns(predictor: Any) -> tuple[Sequence[str], bool]:
  """Returns the names of the numbers, and whether they are VAD."""
  if predictor.description.system.task == 'regression':
    return DIMENSIONS, True
  return predictor.description.classes, False


WRITERS: dict[str, Callable[..., Iterator[str]]] = {
  'table': table,
  'csv': csv_rows,
  'json': json_document,
  'jsonl': json_lines,
}
