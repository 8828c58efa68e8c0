"""Stopping cleanly on Ctrl-C and SIGTERM, before the next step."""

import collections
import contextlib
import signal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.engine import distributed


class Interrupted(Exception):
  """Training was asked to stop and has saved its position."""

  def __init__(self, signum: int):
    super().__init__(
      f'stopped by {signal.Signals(signum).name}; the position is saved, run '
      'the same command to continue'
    )
    self.exit_code = 128 + signum  # 130 after Ctrl-C, 143 after SIGTERM.


class Watch:
  """Knows whether training is to stop; from `watch`."""

  def __init__(self) -> None:
    self.signum: int | None = None  # The signal that this process got.
    self._agreement = _Agreement() if distributed.several() else None

  def asked(self) -> int | None:
    """Returns the signal to stop for, of any process; all ask equally often."""
    if self._agreement is None:
      return self.signum
    return self._agreement.largest(self.signum or 0) or None

  def note(self, signum: int, frame: object) -> None:
    """Handles a signal; a second one stops at once."""
    del frame
    if self.signum is not None:
      raise KeyboardInterrupt
    self.signum = signum


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """Notes SIGINT and SIGTERM in here instead of ending the process.

  Raises Interrupted at the end for one that nobody has acted on.
  """
  watching, signals = Watch(), (signal.SIGINT, signal.SIGTERM)
  previous = {n: signal.signal(n, watching.note) for n in signals}
  try:
    yield watching
    # Of several processes the second call knows what came before the first.
    _, signum = watching.asked(), watching.asked()
    if signum is not None:
      raise Interrupted(signum)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


class _Agreement:
  """The largest of all processes' numbers, without waiting for the devices.

  It is that of the call before, which is there by now: so a step is under way
  while the next one is sent.
  """

  def __init__(self) -> None:
    mesh = Mesh(np.array(jax.devices()), ('all',))
    self._each = NamedSharding(mesh, PartitionSpec('all'))
    everywhere = NamedSharding(mesh, PartitionSpec())
    self._largest = jax.jit(jnp.max, out_shardings=everywhere)
    self._sent: collections.deque[jax.Array] = collections.deque()

  def largest(self, number: int) -> int:
    """Sends a number; the largest of those sent one call earlier, or 0."""
    local = np.full(jax.local_device_count(), number, np.int32)
    sent = jax.make_array_from_process_local_data(self._each, local)
    self._sent.append(self._largest(sent))
    return int(self._sent.popleft()) if len(self._sent) > 1 else 0
