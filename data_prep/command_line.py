"""Runs a command: absl flags, mistakes as one message, exit codes."""

import errno
import io
import os
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence

from absl import flags

from data_prep import expanded as expand_home
from data_prep.errors import UserError

_HELP = {'--help', '-help', '--helpfull', '--helpshort', '-h', '-?'}
# What the owner of a disk can mend; any other OSError is a bug of ours.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

Parse = Callable[[flags.FlagValues, Sequence[str]], list[str]]


class UsageError(UserError):
  """A command line is wrong; the message says how and names --help."""


def run(
  main: Callable[[list[str]], int | None],
  values: flags.FlagValues,
  argv: Sequence[str] | None = None,
  *,
  positional: str = '',
  about: Callable[[], str] | None = None,
  parse: Parse | None = None,
  bare: bool = False,
) -> int:
  """Parses a command line, calls main and returns the exit code.

  --help, or no argument at all unless `bare`, prints the docstring of main's
  module and the flags. A `UserError` is printed as one line, without a traceback.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  _open_streams()

  def program() -> int | None:
    if _HELP & set(argv) or not (argv or bare):
      text = about() if about else sys.modules[main.__module__].__doc__ or ''
      print(help_text(text, values))
      return 0
    arguments = (parse or parse_flags)(values, argv)
    if arguments and not positional:
      raise UsageError(
        f'unexpected argument {arguments[0]!r}; every argument is '
        '--NAME=VALUE. See --help.'
      )
    return main(arguments)

  try:
    return exit_code(program)
  except KeyboardInterrupt:
    print('\nStopped.', file=sys.stderr)
    return 130


def exit_code(function: Callable[[], int | None]) -> int:
  """Calls a program; prints what a user can mend, and returns the exit code."""
  try:
    return function() or 0
  except UserError as error:
    return fail(str(error))
  except BrokenPipeError:
    # The reader (head, say) has seen enough; nothing may be flushed at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except OSError as error:
    if error.errno not in _DISK:
      raise
    return fail(
      f'{error.filename or "the output"} cannot be read or written '
      f'({error.strerror}).'
    )


def quiet_tensorflow() -> None:
  """Keeps TensorFlow, if it is imported later, from printing at every start.

  It only reads ahead, stores and writes event files here, so that turning its
  faster matrix products off, which it would announce, changes nothing.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def fail(message: str) -> int:
  """Prints what is wrong; returns the exit code of a mistake, 2."""
  print(f'Error: {message}', file=sys.stderr)
  return 2


def parse_flags(
  values: flags.FlagValues, argv: Sequence[str], *, known_only: bool = False
) -> list[str]:
  """Parses arguments without the program's name; returns the positional ones.

  Every call starts from the defaults. With `known_only`, flags that `values`
  does not have are returned, too.
  """
  values.set_gnu_getopt()  # Flags may follow positional arguments.
  for name in values:
    values[name].unparse()
  try:
    return values(['', *argv], known_only=known_only)[1:]
  except flags.Error as error:
    end = '' if str(error).endswith('?') else '.'
    raise UsageError(f'{error}{end} See --help.') from error


def help_text(about: str, values: flags.FlagValues) -> str:
  """Returns what a command does, and its flags."""
  lines = values.get_help(include_special_flags=False).splitlines()
  # Without the names of the modules that define them.
  shown = '\n'.join(line for line in lines if line.startswith(' '))
  return f'{textwrap.dedent(about).strip()}\n\nFlags:\n{shown}'


def define_path(
  name: str,
  default: str | None,
  text: str,
  flag_values: flags.FlagValues,
) -> flags.FlagHolder[pathlib.Path | None]:
  """Defines a flag of a file or folder, whose `~` means the home folder."""
  return flags.DEFINE(
    _PathParser(), name, default, text, flag_values, flags.ArgumentSerializer()
  )


class _PathParser(flags.ArgumentParser[pathlib.Path]):
  """Turns text into a path, and '' into None."""

  def parse(self, argument: str | pathlib.Path) -> pathlib.Path | None:
    return expand_home(argument) if argument else None

  def flag_type(self) -> str:
    return 'path'


def _open_streams() -> None:
  """Replaces standard streams that are closed; escapes what is not UTF-8."""
  for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    elif mode == 'w' and isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
