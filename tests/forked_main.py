"""`python -m jaxser.main` in a process that need not import everything anew.

A server imports the program once, without touching a device, and forks: the many
starts of a test then take as long as the program runs, without its imports.
"""

import multiprocessing
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

_SERVER = multiprocessing.get_context('forkserver')
_SERVER.set_forkserver_preload(
  [
    'data_prep.prepare',
    'jaxser.engine.checkpoints',
    'jaxser.engine.loop',
    'jaxser.engine.train',
    'jaxser.main',
    'tests.forked_main',
  ]
)


class Started:
  """A running program; `process` has pid, exitcode, kill() and join()."""

  def __init__(
    self,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    printed: pathlib.Path,
  ):
    """Starts it.

    Args:
      arguments: of the command line.
      environment: variables that differ from this process'.
      printed: file for all that it prints.
    """
    self._printed = printed
    self.process = _SERVER.Process(
      target=_run, args=(list(arguments), dict(environment), str(printed))
    )
    self.process.start()

  @property
  def running(self) -> bool:
    """Whether it has not ended yet."""
    return self.process.exitcode is None

  @property
  def printed(self) -> str:
    """What it has printed until now."""
    return self._printed.read_text('utf-8') if self._printed.exists() else ''

  def end(self) -> int:
    """Waits for the end and returns the exit code."""
    self.process.join()
    return self.process.exitcode


def _run(arguments, environment, printed):
  os.environ.update(environment)
  file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  from jaxser import main
  from jaxser.core import command_line

  sys.argv = ['main', *arguments]  # Results record the command.
  sys.exit(command_line.run(main.main, main.FLAGS))
