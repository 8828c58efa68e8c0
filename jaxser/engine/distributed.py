"""Several processes as one: they join, agree, and end together.

Every process runs the same program on its own devices. Process 0 writes the
files; checkpoints are written by all. The exit codes that a launcher needs are

  143, 130   asked to stop by SIGTERM or Ctrl-C, saved: run it again
  75, 134    another process was lost (75 said by this program, 134 by JAX's
             coordination service, which ends the process itself): run it again
  2          a mistake of the user: running it again changes nothing
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxser.core.errors import UserError

_T = TypeVar('_T')

MODES = ('off', 'auto')
EXIT_LOST = 75
# Codes that all processes end with alike, so that they can take their leave.
_ORDERLY = (0, 130, 143)
# What the ends of a broken connection say: Gloo, NCCL, gRPC, coordination.
_LOST = re.compile(
  r'gloo|nccl|socket|connection|unavailable|deadline|barrier|heartbeat'
  r'|coordination|preempted',
  re.IGNORECASE,
)


class DistributedError(UserError):
  """Processes cannot join into one run; says why and what to do."""


def initialize(
  mode: str = 'off',
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  lost_after: int = 30,
) -> None:
  """Joins this process to the others; must precede every other use of JAX."""
  given = [x is not None for x in (coordinator, num_processes, process_id)]
  if any(given) and not all(given):
    raise DistributedError(
      '--coordinator=HOST:PORT, --num_processes=N and --process_id=I go '
      f'together; given were {coordinator!r}, {num_processes}, {process_id}. '
      'launch/local.sh sets all three.'
    )
  if coordinator is not None:
    if not re.fullmatch(r'[^\s:]+:\d+', coordinator):
      raise DistributedError(
        f'--coordinator={coordinator} must be HOST:PORT, such as '
        '127.0.0.1:23456.'
      )
    assert num_processes is not None  # With the others, as checked above.
    assert process_id is not None
    if not 0 <= process_id < num_processes:
      raise DistributedError(
        f'--process_id={process_id} must be from 0 to {num_processes - 1}, as '
        f'--num_processes={num_processes}.'
      )
  elif mode == 'off':
    return
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # Gloo pairs the sums of two programs in the order in which they come, which
  # differs where a CPU runs both at once: a step, and whether to stop.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  # Its handler would keep SIGTERM from the program, which has its own way of
  # agreeing on where to stop (`jaxser.engine.interruption`).
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=lost_after,
    )
  except ValueError as error:
    raise DistributedError(
      f'--distributed={mode}: no cluster was found ({error}). Give '
      '--coordinator, --num_processes and --process_id, or leave it out to run '
      'one process.'
    ) from error


def is_main() -> bool:
  """Returns whether this process writes files and messages."""
  return jax.process_index() == 0


def several() -> bool:
  return jax.process_count() > 1


def barrier(name: str) -> None:
  if several():
    multihost_utils.sync_global_devices(name)


def main_first(function: Callable[[], _T], name: str) -> _T:
  """Calls on process 0 first what others then find; returns its value."""
  if is_main():
    value = function()
  barrier(name)
  return value if is_main() else function()


def of_all(values: np.ndarray) -> np.ndarray:
  """Returns what every process holds, on all of them.

  Where processes could decide differently, on what they see in a shared folder
  or on free memory, they must decide on the same numbers.
  """
  values = np.atleast_1d(values)
  if not several():
    return values[None]
  # JAX would cut 64 bits to 32.
  words = np.frombuffer(values.tobytes(), np.uint8)
  found = np.asarray(multihost_utils.process_allgather(words))
  return found.reshape(-1).view(values.dtype).reshape(-1, *values.shape)


def from_main(values: np.ndarray) -> np.ndarray:
  """Returns what process 0 holds, on all processes; see `of_all`."""
  return of_all(values)[0].reshape(np.shape(values))


def run(function: Callable[[], int]) -> int:
  """Calls a program that returns its exit code, and ends all processes alike.

  An error on one process must end the others, which wait for it. JAX takes an
  orderly leave at exit, which waits for all; so with several processes, one
  that failed ends at once, and the others then notice that it is lost.
  """
  try:
    code = function()
  except KeyboardInterrupt:
    if not jax.distributed.is_initialized():
      raise
    code = 128 + signal.SIGINT
  except Exception as error:
    if not jax.distributed.is_initialized():
      raise
    code = _explain(error)
  else:
    if code in _ORDERLY or not jax.distributed.is_initialized():
      return code
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _explain(error: Exception) -> int:
  """Prints what went wrong on one of several; returns the exit code."""
  if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
    first = str(error).strip().splitlines()[0][:300]
    print(
      '\nError: another process of this run was lost, so this one ends '
      f'({first}). The same commands continue from the last checkpoint.',
      file=sys.stderr,
    )
    return EXIT_LOST
  traceback.print_exception(error)
  return 1
