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
    self._unit = unit
    self._stream = stream or sys.stderr
    self._total, self._done = total, 0
    self._start, self._last_line = time.monotonic(), 0.0
    self._bar, self._show = None, show
    if show and self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=total, unit=f' {unit}', file=self._stream, dynamic_ncols=True
      )

  def skip(self, epochs: int) -> None:
    """Counts epochs that an earlier run did."""
    self._done += epochs
    if self._bar is not None:
      self._bar.update(epochs)

  def advance(self, text: str, count: int = 1) -> None:
    """Counts one epoch or more; `text` says where and how good."""
    self._done += count
    if self._bar is not None:
      self._bar.set_postfix_str(text)
      self._bar.update(count)
      return
    now = time.monotonic()
    if (
      now - self._last_line >= _SECONDS_BETWEEN_LINES
      or self._done == self._total
    ):
      self._last_line = now
      self._print(
        f'{self._done}/{self._total} {self._unit}s, {now - self._start:.0f} s: {text}'
      )

  def note(self, text: str) -> None:
    """Prints a line without disturbing the bar."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      self._print(text)

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()

  def _print(self, text: str) -> None:
    if self._show:
      print(text, file=self._stream, flush=True)
