"""Stopping cleanly on Ctrl-C and SIGTERM: at the next step, after saving."""

import collections
import signal
from types import FrameType, TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.engine import distributed


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
  """Notes SIGINT and SIGTERM while active; a second Ctrl-C stops at once.

  Attributes:
    signum: the signal that this process got, or None.
  """

  _SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self) -> None:
    self.signum: int | None = None
    self._previous: dict[int, object] = {}
    self._agreement = _Agreement() if distributed.several() else None

  def asked(self) -> int | None:
    """The signal to stop for, or None; to be asked before every step.

    With several processes, a signal to any of them stops all. They must ask
    equally often, and get the same answer each time.
    """
    if self._agreement is None:
      return self.signum
    return self._agreement.largest(self.signum or 0) or None

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


class _Agreement:
  """The largest of all processes' numbers, without waiting for the devices.

  The answer is that of the call before, which is there by now: so a step is
  under way while the next one is sent.
  """

  def __init__(self) -> None:
    mesh = Mesh(np.array(jax.devices()), ('all',))
    self._each = NamedSharding(mesh, PartitionSpec('all'))
    self._largest = jax.jit(
      jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    self._sent: collections.deque[jax.Array] = collections.deque()

  def largest(self, number: int) -> int:
    """Sends a number; the largest of those sent one call earlier, or 0."""
    mine = np.full(jax.local_device_count(), number, np.int32)
    self._sent.append(
      self._largest(jax.make_array_from_process_local_data(self._each, mine))
    )
    return int(self._sent.popleft()) if len(self._sent) > 1 else 0
