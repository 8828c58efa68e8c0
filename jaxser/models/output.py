"""Predictions for people (a table) and for programs (CSV, JSON, JSON lines).

Every format is a generator of lines, which come with the recordings.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jaxser.models.predictor import Prediction, Predictor, Recording
from jaxser.ops.spherical import VAD

_WIDEST_NAME = 44


def _digits(values: Iterable[float]) -> list[float]:
  return [float(f'{float(value):.6g}') for value in values]


def as_dict(prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
  """Returns what JSON holds; numbers have six significant digits."""
  content = {n: round(getattr(prediction, n), 3) for n in ('start', 'end')}
  if prediction.error:
    content['error'] = prediction.error
  if prediction.scores is not None:
    values = zip(classes, _digits(prediction.scores), strict=True)
    content |= {'emotion': prediction.emotion, 'scores': dict(values)}
  if prediction.vad is not None:
    content |= dict(zip(VAD, _digits(prediction.vad), strict=True))
    content['region'] = prediction.region
  return content


def recording_dict(
  recording: Recording, predictor: Predictor
) -> dict[str, Any]:
  """Returns what JSON holds of a recording."""
  if recording.error:
    return {'file': recording.name, 'error': recording.error}
  classes = predictor.description.classes
  content = {
    'file': recording.name,
    'seconds': round(recording.seconds, 3),
    **as_dict(recording.overall, classes),
  }
  if recording.warnings:
    content['warnings'] = list(recording.warnings)
  if predictor.extractor.segment:
    content['segments'] = [as_dict(s, classes) for s in recording.segments]
  return content


def table(
  recordings: Iterable[Recording], predictor: Predictor, names: Sequence[str]
) -> Iterator[str]:
  """Yields columns for people; what could not be used is left out."""
  segmented = predictor.extractor.segment > 0
  classes, regression = _columns(predictor)
  # A segment's times take more room than a short name.
  width = max([20 if segmented else 4, *map(len, names)])
  width = min(_WIDEST_NAME, width)
  widths = [max(7, len(name)) for name in classes]
  emotion = max([7, *map(len, classes)])

  def line(first: str, word: str, cells: Iterable[str]) -> str:
    numbers = [f'{c:>{w}}' for c, w in zip(cells, widths, strict=False)]
    words = [f'{first:<{width}}', f'{word:<{emotion}}', *numbers]
    if regression:
      words.append(words.pop(1))
    return '  '.join(words).rstrip()

  def row(first: str, prediction: Prediction) -> str:
    if prediction.error:
      return line(first, prediction.error.partition(':')[0], ())
    if regression:
      values = [f'{value:.2f}' for value in prediction.vad]
      return line(first, prediction.region, values)
    values = [f'{100 * value:.1f} %' for value in prediction.scores]
    return line(first, prediction.emotion, values)

  yield line('file', 'region' if regression else 'emotion', classes)
  for recording in recordings:
    if recording.error:
      continue
    name = recording.name
    # The end of a path tells more than its beginning.
    if len(name) > width:
      name = '…' + name[-(width - 1) :]
    yield row(name, recording.overall)
    for segment in recording.segments if segmented else ():
      span = f'  {segment.start:.1f} - {segment.end:.1f} s'
      yield row(span[:width], segment)


def csv_rows(
  recordings: Iterable[Recording], predictor: Predictor, names: Sequence[str]
) -> Iterator[str]:
  """Yields one row per recording, or per segment; failures have an error."""
  del names
  classes, regression = _columns(predictor)
  outputs = [*classes, 'region'] if regression else ['emotion', *classes]
  fields = ['file', 'seconds', 'start', 'end', *outputs, 'error']

  def line(row: dict[str, Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator='')
    table.writerow([row.get(field, '') for field in fields])
    return text.getvalue()

  yield line(dict(zip(fields, fields, strict=True)))
  for recording in recordings:
    content = recording_dict(recording, predictor)
    for segment in content.get('segments', [content]):
      row = {**content, **segment}
      if 'error' in segment:  # Of this segment there is nothing else to say.
        row = {n: row.get(n, '') for n in ('file', 'seconds', 'start', 'end')}
        row['error'] = segment['error']
      yield line({**row, **row.get('scores', {})})


def json_lines(
  recordings: Iterable[Recording], predictor: Predictor, names: Sequence[str]
) -> Iterator[str]:
  """Yields one object per recording, failures too."""
  del names
  for recording in recordings:
    content = recording_dict(recording, predictor)
    yield json.dumps(content, ensure_ascii=False, allow_nan=False)


def json_document(
  recordings: Iterable[Recording], predictor: Predictor, names: Sequence[str]
) -> Iterator[str]:
  """Yields one document: the model, the recordings, the failures."""
  del names
  found: dict[str, list] = {'recordings': [], 'failures': []}
  for recording in recordings:
    kind = 'failures' if recording.error else 'recordings'
    found[kind].append(recording_dict(recording, predictor))
  description = predictor.description
  model = {
    'folder': str(description.workdir),
    **{n: description.content[n] for n in ('system', 'corpus', 'fingerprint')},
    'members': [model.training._asdict() for model in predictor.models],
  }
  if description.system.task == 'regression':
    model['vad_range'] = list(description.vad_range or ())
  else:
    model['classes'] = list(description.classes)
  yield json.dumps({'model': model, **found}, indent=2, ensure_ascii=False)


def _columns(predictor: Predictor) -> tuple[Sequence[str], bool]:
  """Returns the names of the numbers, and whether they are VAD."""
  regression = predictor.description.system.task == 'regression'
  return (VAD if regression else predictor.description.classes), regression


WRITERS: dict[str, Callable[..., Iterator[str]]] = {
  'table': table,
  'csv': csv_rows,
  'json': json_document,
  'jsonl': json_lines,
}
