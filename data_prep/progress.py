"""Progress for people: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TextIO

import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
  """Counts epochs over all folds and seeds, files, or another unit."""

  def __init__(
    self,
    total: int,
    stream: TextIO | None = None,
    *,
    show: bool = True,
    unit: str = 'epoch',
    patience: float = 0.0,
  ):
    """Starts at zero of `total` units; shows nothing unless `show`.

    Lines begin after `patience` seconds: what takes less is not worth one.
    """
    self._stream = stream or sys.stderr
    self._lines = show and not self._stream.isatty()
    self._bar = tqdm.tqdm(
      total=total,
      unit=f' {unit}',
      file=self._stream,
      dynamic_ncols=True,
      disable=self._lines or not show,
    )
    self._show, self._unit, self._total, self._done = show, unit, total, 0
    self._start, self._last_line = time.monotonic(), 0.0
    self._patience = patience

  def skip(self, count: int) -> None:
    """Counts units that an earlier run did."""
    self._done += count
    self._bar.update(count)

  def advance(self, text: str, count: int = 1) -> None:
    """Counts one unit or more; `text` says where and how good."""
    self._bar.set_postfix_str(text, refresh=False)
    self.skip(count)
    now = time.monotonic()
    due = now - self._last_line >= _SECONDS_BETWEEN_LINES
    late = now - self._start >= self._patience
    if self._lines and late and (due or self._done == self._total):
      self._last_line = now
      self.note(
        f'{self._done}/{self._total} {self._unit}s, {now - self._start:.0f} s: '
        f'{text}'
      )

  def note(self, text: str) -> None:
    """Prints a line of progress."""
    if self._show:
      self.print(text, self._stream)

  def print(self, text: str, stream: TextIO) -> None:
    """Prints a line anywhere; a bar on the same terminal steps aside."""
    self._bar.write(text, file=stream)
    stream.flush()

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()
