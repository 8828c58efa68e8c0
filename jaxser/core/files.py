"""Writes files so that nothing half-written ever has a final name."""

import errno
import json
import os
import pathlib
import tempfile
from typing import Any

from jaxser.core.errors import UserError

Path = os.PathLike[str] | str


def write_bytes(path: Path, data: bytes) -> None:
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


def write_text(path: Path, text: str) -> None:
  """Writes UTF-8, and lone surrogates of file names as JSON escapes them."""
  write_bytes(path, text.encode('utf-8', 'backslashreplace'))


def write_json(path: Path, content: Any) -> None:
  write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object that this package wrote."""
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


def check_writable(path: Path) -> None:
  """Makes the folder; raises OSError if the file cannot be written there."""
  path = pathlib.Path(path)
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=path.parent):
    pass
