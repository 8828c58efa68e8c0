"""Writing files so that nothing half-written ever has a final name."""

import errno
import json
import os
import pathlib
import tempfile
from typing import Any


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


def check_writable(path: os.PathLike[str] | str) -> None:
  """Finds out, before hours of work, whether a file can be written there.

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
