"""Progress for people: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TextIO

import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
  """Counts epochs over all folds and seeds, or another unit."""

  def __init__(
    self,
    total: int,
    stream: TextIO | None = None,
    *,
    show: bool = True,
    unit: str = 'epoch',
  ):
    """Starts at zero of `total` units; shows nothing unless `show`."""
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
    if self._lines and (due or self._done == self._total):
      self._last_line = now
      self.note(
        f'{self._done}/{self._total} {self._unit}s, {now - self._start:.0f} s: '
        f'{text}'
      )

  def note(self, text: str) -> None:
    """Prints a line without disturbing the bar."""
    if self._show:
      self._bar.write(text, file=self._stream)
      self._stream.flush()

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()
