"""Writes files so that nothing half-written ever has a final name."""

import errno
import json
import os
import pathlib
import tempfile
from typing import Any

from jaxser.core.errors import UserError


def write_bytes(path: os.PathLike[str] | str, data: bytes) -> None:
  """Writes to a temporary name in the same folder, then renames."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def write_text(path: os.PathLike[str] | str, text: str) -> None:
  """Writes UTF-8 text whole or not at all.

  A file name that is not UTF-8 holds lone surrogates (`os.fsdecode`); they are
  written as JSON escapes them, so that JSON gives the same name back.
  """
  write_bytes(path, text.encode('utf-8', 'backslashreplace'))


def write_json(path: os.PathLike[str] | str, content: Any) -> None:
  """Writes JSON for people and machines, with a final newline."""
  write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def read_json(path: os.PathLike[str] | str) -> dict[str, Any]:
  """Reads a JSON object that this package wrote.

  Raises:
    UserError: the file is empty, damaged or holds something else.
    OSError: it cannot be read.
  """
  data = pathlib.Path(path).read_bytes()
  try:
    content = json.loads(data)
  except ValueError as error:
    raise UserError(
      f'{path}: is {"damaged" if data else "empty"} ({error}); restore it, or '
      'use another folder.'
    ) from error
  if not isinstance(content, dict):
    raise UserError(
      f'{path}: holds a {type(content).__name__}, not the fields of a JSON '
      'object; restore it, or use another folder.'
    )
  return content


def check_writable(path: os.PathLike[str] | str) -> None:
  """Checks, before hours of work, that a file can be written there.

  Makes the folder, as `write_bytes` will, and leaves the file as it is.

  Raises:
    OSError: if it cannot.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=path.parent):
    pass
