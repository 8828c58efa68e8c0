"""Stopping cleanly on Ctrl-C and SIGTERM: at the next step, after saving."""

import signal
from types import FrameType, TracebackType


class Interrupted(Exception):
  """Training was asked to stop and has saved its position.

  Attributes:
    exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
  """

  def __init__(self, signum: int):
    super().__init__(
      f'stopped by {signal.Signals(signum).name}; the position is saved, the '
      'same command continues'
    )
    self.exit_code = 128 + signum


class Watch:
  """Notes SIGINT and SIGTERM while active; a second Ctrl-C stops at once."""

  _SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self) -> None:
    self.signum: int | None = None
    self._previous: dict[int, object] = {}

  def _note(self, signum: int, frame: FrameType | None) -> None:
    del frame
    if self.signum is not None:
      raise KeyboardInterrupt
    self.signum = signum

  def __enter__(self) -> 'Watch':
    for number in self._SIGNALS:
      self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
