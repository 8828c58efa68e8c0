"""metrics.jsonl and TensorBoard: what happened in every epoch of every fold."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxser.core import files

Row = Mapping[str, Any]


def in_words(rows: Sequence[Row], metric: str) -> str:
  """Mean loss and score of some rows, as far as they have them."""
  found = []
  for name in ('loss', metric):
    if name in rows[0]:
      value = sum(row[name] for row in rows) / len(rows)
      percent = name in ('uar', 'war', 'f1')
      found.append(
        f'{name} {100 * value:.1f} %' if percent else f'{name} {value:.3f}'
      )
  return ', '.join(found)


class Curves:
  """Appends rows to metrics.jsonl and, where asked, TensorBoard events.

  A row is {"seed", "fold", "epoch", "split", name: value, ...}.
  """

  def __init__(
    self,
    workdir: os.PathLike[str] | str,
    *,
    tensorboard: bool = True,
    write: bool = True,
  ):
    """Continues the file of an interrupted run; `keep` then trims it.

    Args:
      workdir: folder of the run.
      tensorboard: write TensorBoard's files, too.
      write: False on processes that leave writing to another one.
    """
    self._workdir = pathlib.Path(workdir)
    self.path = self._workdir / 'metrics.jsonl'
    self._tensorboard, self._write = tensorboard, write
    self._writers: dict[str, Any] = {}

  def keep(self, rows: Iterable[Row]) -> None:
    """Makes the file hold exactly these rows: those before a checkpoint."""
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    if self._write:
      files.write_text(self.path, text)

  def read(self) -> list[dict[str, Any]]:
    """Rows of the file; a line cut off by a kill is left out."""
    rows = []
    if self.path.exists():
      for line in self.path.read_text('utf-8').splitlines():
        try:
          rows.append(json.loads(line))
        except ValueError:
          # Only the last line can be cut: it is the one being appended.
          break
    return rows

  def add(self, rows: Iterable[Row]) -> None:
    """Appends rows, one epoch of one fold."""
    if not self._write:
      return
    rows = list(rows)
    with open(self.path, 'a', encoding='utf-8') as file:
      file.write(''.join(json.dumps(row) + '\n' for row in rows))
    if self._tensorboard:
      for row in rows:
        self._write_event(row)

  def _write_event(self, row: Row) -> None:
    import tensorflow as tf

    name = f'{run_name(row["seed"], row["fold"])}/{row["split"]}'
    if name not in self._writers:
      folder = self._workdir / 'tensorboard' / name
      self._writers[name] = tf.summary.create_file_writer(str(folder))
    with self._writers[name].as_default(step=row['epoch']):
      for key, value in row.items():
        if key not in ('seed', 'fold', 'epoch', 'split'):
          tf.summary.scalar(key, value)

  def close(self) -> None:
    """Flushes and closes the TensorBoard files."""
    for writer in self._writers.values():
      writer.close()
    self._writers.clear()


def run_name(seed: int, fold: int) -> str:
  """The name under which one training's files lie."""
  return f'seed{seed}-fold{fold:02d}'
