"""Answers for people (a table) and for programs (CSV, JSON, JSON lines)."""

import csv
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import tqdm

from jaxser.models.predictor import Answer, Recording
from jaxser.models.saved import Description, Training
from jaxser.ops.spherical import VAD

FORMATS = ('table', 'csv', 'json', 'jsonl')
_WIDEST_NAME = 44
_SECONDS_BETWEEN_LINES = 10.0


def as_dict(answer: Answer, classes: Sequence[str]) -> dict[str, Any]:
  """An answer as JSON holds it; numbers have six significant digits."""
  content: dict[str, Any] = {
    'start': round(answer.start, 3),
    'end': round(answer.end, 3),
  }
  if answer.scores is not None:
    values = zip(classes, _digits(answer.scores), strict=True)
    content |= {'emotion': answer.emotion, 'scores': dict(values)}
  if answer.vad is not None:
    content |= dict(zip(VAD, _digits(answer.vad), strict=True))
    content['region'] = answer.region
  return content


def _digits(values: Sequence[float]) -> list[float]:
  return [float(f'{float(value):.6g}') for value in values]


def recording_dict(
  recording: Recording, classes: Sequence[str], segmented: bool
) -> dict[str, Any]:
  """A recording as JSON holds it."""
  if recording.error:
    return {'file': recording.name, 'error': recording.error}
  content = {
    'file': recording.name,
    'seconds': round(recording.seconds, 3),
    **as_dict(recording.answer, classes),
  }
  if segmented:
    content['segments'] = [as_dict(s, classes) for s in recording.segments]
  return content


class Writer:
  """Writes recordings as they come; a subclass per format."""

  def __init__(
    self,
    stream: TextIO,
    description: Description,
    trainings: Sequence[Training],
    names: Sequence[str],
    segmented: bool,
  ):
    """Writes what comes before the first recording.

    Args:
      stream: where to.
      description: of the model.
      trainings: of the members.
      names: of all recordings, for the width of a table.
      segmented: whether every segment is to be shown.
    """
    self._stream = stream
    self._description, self._trainings = description, trainings
    self._classes = description.classes
    self._regression = description.system.task == 'regression'
    self._segmented = segmented
    # A segment's times take more room than a short name.
    least = 20 if segmented else 4
    self._width = min(_WIDEST_NAME, max([least, *map(len, names)]))
    self.begin()

  def begin(self) -> None:
    """Writes the head."""

  def write(self, recording: Recording) -> None:
    """Writes one recording."""
    raise TypeError(f'{type(self).__name__} does not define write()')

  def close(self) -> None:
    """Writes the end."""

  def _print(self, text: str) -> None:
    # A bar on the same terminal steps aside.
    with tqdm.tqdm.external_write_mode(file=self._stream):
      self._stream.write(text + '\n')
      self._stream.flush()


class Table(Writer):
  """Columns for people; failures are told at the end, on stderr."""

  def begin(self) -> None:
    names = VAD if self._regression else self._classes
    self._columns = [max(7, len(name)) for name in names]
    cells = [f'{n:>{w}}' for n, w in zip(names, self._columns, strict=True)]
    last = ['region'] if self._regression else []
    first = [] if self._regression else [f'{"emotion":<{self._emotion}}']
    head = [f'{"file":<{self._width}}', *first, *cells, *last]
    self._print('  '.join(head).rstrip())

  @property
  def _emotion(self) -> int:
    return max([7, *map(len, self._classes)])

  def write(self, recording: Recording) -> None:
    if recording.error:
      return
    self._row(_shortened(recording.name, self._width), recording.answer)
    if self._segmented:
      for segment in recording.segments:
        span = f'{segment.start:.1f} - {segment.end:.1f} s'
        self._row(f'  {span}'[: self._width], segment)

  def _row(self, name: str, answer: Answer) -> None:
    if self._regression:
      values = [f'{value:.2f}' for value in answer.vad]
      first, last = [], [answer.region]
    else:
      values = [f'{100 * value:.1f} %' for value in answer.scores]
      first, last = [f'{answer.emotion:<{self._emotion}}'], []
    cells = [f'{v:>{w}}' for v, w in zip(values, self._columns, strict=True)]
    row = [f'{name:<{self._width}}', *first, *cells, *last]
    self._print('  '.join(row).rstrip())


def _shortened(name: str, width: int) -> str:
  """The end of a path tells more than its beginning."""
  return name if len(name) <= width else '…' + name[-(width - 1) :]


class Csv(Writer):
  """One row per recording, or per segment; failures have an error."""

  def begin(self) -> None:
    said = [*VAD, 'region'] if self._regression else ['emotion', *self._classes]
    self._names = ['file', 'seconds', 'start', 'end', *said, 'error']
    self._table = csv.DictWriter(
      self._stream, self._names, restval='', lineterminator='\n'
    )
    self._table.writeheader()

  def write(self, recording: Recording) -> None:
    content = recording_dict(recording, self._classes, self._segmented)
    segments = content.pop('segments', [{}])
    for segment in segments:
      row = {**content, **segment}
      row |= row.pop('scores', {})
      self._table.writerow(row)
    self._stream.flush()


class JsonLines(Writer):
  """One object per recording, failures too."""

  def write(self, recording: Recording) -> None:
    content = recording_dict(recording, self._classes, self._segmented)
    self._print(json.dumps(content, ensure_ascii=False, allow_nan=False))


class Json(Writer):
  """One document: the model, the recordings, the failures."""

  def begin(self) -> None:
    self._found: dict[str, list] = {'recordings': [], 'failures': []}

  def write(self, recording: Recording) -> None:
    kind = 'failures' if recording.error else 'recordings'
    content = recording_dict(recording, self._classes, self._segmented)
    self._found[kind].append(content)

  def close(self) -> None:
    about = self._description.content
    model = {
      'folder': str(self._description.workdir),
      'system': about['system'],
      'corpus': about['corpus'],
      'fingerprint': about['fingerprint'],
      'members': [t._asdict() for t in self._trainings],
    }
    if self._regression:
      model['vad_range'] = list(self._description.vad_range or ())
    else:
      model['classes'] = list(self._classes)
    content = {'model': model, **self._found}
    self._print(json.dumps(content, indent=2, ensure_ascii=False))


WRITERS: dict[str, type[Writer]] = {
  'table': Table,
  'csv': Csv,
  'json': Json,
  'jsonl': JsonLines,
}


class Progress:
  """A bar on a terminal, a line now and then elsewhere, both on stderr."""

  def __init__(self, total: int, stream: TextIO | None = None):
    """Starts at none of `total` recordings."""
    self._stream = stream or sys.stderr
    self._total, self._done, self._failed = total, 0, 0
    self._start = self._last = time.monotonic()
    self._bar = None
    if self._stream.isatty() and total > 1:
      self._bar = tqdm.tqdm(
        total=total, unit=' files', file=self._stream, dynamic_ncols=True
      )

  def advance(self, failed: bool) -> None:
    """Counts one recording."""
    self._done += 1
    self._failed += failed
    if self._bar is not None:
      if self._failed:
        self._bar.set_postfix_str(f'{self._failed} failed', refresh=False)
      self._bar.update()
      return
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_LINES:
      self._last = now
      print(
        f'{self._done} of {self._total} files, {self._failed} failed, '
        f'{now - self._start:.0f} s',
        file=self._stream,
        flush=True,
      )

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()
