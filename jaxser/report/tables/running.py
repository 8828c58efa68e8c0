"""Runs the cells that have not finished, one after another, in this process."""

import gc
import sys
import traceback
from collections.abc import Callable, Sequence

import jax

from jaxser import train
from jaxser.core import errors
from jaxser.engine import interruption
from jaxser.report.tables.state import State


def run_all(
  states: Sequence[State],
  *,
  changed: Callable[[], None],
  report: Callable[[str], None],
) -> None:
  """Runs every cell that is ready or was interrupted.

  An error ends its own cell only; it is kept in the state.

  Args:
    states: of the cells to run; those in another state are left as they are.
    changed: called after every cell that ran.
    report: called with lines for the user.

  Raises:
    Interrupted: on Ctrl-C or SIGTERM, after the position was saved.
  """
  waiting = [state for state in states if state.kind in ('ready', 'started')]
  for number, state in enumerate(waiting, 1):
    verb = 'continues' if state.kind == 'started' else 'starts'
    report(f'[{number}/{len(waiting)}] {state.cell.name} {verb}')
    state.kind = 'started'
    try:
      train.run(state.config, state.folder, command=state.command)
      state.read()
    except interruption.Interrupted:
      raise
    except errors.UserError as error:
      state.fail(error)
    except Exception as error:
      # A bug, or memory: the other cells should not pay for it.
      traceback.print_exc(file=sys.stderr)
      state.fail(f'{type(error).__name__}: {error}')
    if state.kind == 'failed':
      report(f'{state.cell.name} failed: {state.error}')
    changed()
    # The programs and arrays of a cell are of no use to the next one.
    gc.collect()
    jax.clear_caches()
