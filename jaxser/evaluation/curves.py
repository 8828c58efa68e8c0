"""metrics.jsonl, speed.jsonl (what a clock says) and TensorBoard events."""

import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxser.core import files
from jaxser.evaluation.predictions import PathLike

Row = Mapping[str, Any]
SPEED = 'speed.jsonl'


def in_words(rows: Sequence[Row], metric: str) -> str:
  """Returns mean loss and score of some rows as text, where they have them."""
  texts = []
  for name in ('loss', metric):
    if name in rows[0]:
      value = sum(row[name] for row in rows) / len(rows)
      percent = name in ('uar', 'war', 'f1')
      shown = f'{100 * value:.1f} %' if percent else f'{value:.3f}'
      texts.append(f'{name} {shown}')
  return ', '.join(texts)


def run_name(seed: int, fold: int) -> str:
  """Returns the name under which one run's files lie."""
  return f'seed{seed}-fold{fold:02d}'


class Curves:
  """Appends rows to metrics.jsonl and, where asked, TensorBoard events."""

  def __init__(
    self, workdir: PathLike, *, tensorboard: bool = True, write: bool = True
  ):
    """Opens the curves of a run; `write` is False on all processes but one."""
    self._workdir = pathlib.Path(workdir)
    self.path = self._workdir / 'metrics.jsonl'
    self._tensorboard, self._write = tensorboard, write
    self._writers: dict[str, Any] = {}

  def keep(self, rows: Iterable[Row]) -> None:
    """Makes the file hold exactly these rows: those before a checkpoint."""
    if self._write:
      files.write_text(self.path, _lines(rows))

  def read(self, name: str = 'metrics.jsonl') -> list[dict[str, Any]]:
    """Returns the rows of a file but a last one cut off by a kill."""
    rows, path = [], self._workdir / name
    if path.exists():
      for line in path.read_text('utf-8').splitlines():
        try:
          rows.append(json.loads(line))
        except ValueError:
          break
    return rows

  def add(self, rows: Iterable[Row], name: str = 'metrics.jsonl') -> None:
    """Appends rows, one epoch of one fold, to a file."""
    if not self._write:
      return
    rows = list(rows)
    with open(self._workdir / name, 'a', encoding='utf-8') as file:
      file.write(_lines(rows))
    for row in rows if self._tensorboard else ():
      self._write_event(row)

  def _write_event(self, row: Row) -> None:
    # TensorFlow writes the same, but takes seconds and memory to import.
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    name = f'{run_name(row["seed"], row["fold"])}/{row["split"]}'
    values = [
      summary_pb2.Summary.Value(tag=key, simple_value=value)
      for key, value in row.items()
      if key not in ('seed', 'fold', 'epoch', 'split')
    ]
    now, summary = time.time(), summary_pb2.Summary(value=values)
    event = event_pb2.Event(wall_time=now, step=row['epoch'], summary=summary)
    if name not in self._writers:
      folder = self._workdir / 'tensorboard' / name
      folder.mkdir(parents=True, exist_ok=True)
      file = open(folder / f'events.out.tfevents.{time.time_ns()}', 'wb')  # noqa: SIM115
      self._writers[name] = record_writer.RecordWriter(file)
      version = event_pb2.Event(file_version='brain.Event:2')
      self._writers[name].write(version.SerializeToString())
    self._writers[name].write(event.SerializeToString())
    self._writers[name].flush()

  def close(self) -> None:
    for writer in self._writers.values():
      writer.close()
    self._writers.clear()


def _lines(rows: Iterable[Row]) -> str:
  return ''.join(json.dumps(row) + '\n' for row in rows)
