"""Give a new store its name when it is whole, and make it once."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from data_prep.errors import UserError

_T = TypeVar('_T')


class StoreError(UserError):
  """A store is missing, incomplete or ambiguous, or cannot be written."""


def write_once(
  final: pathlib.Path,
  make: Callable[[pathlib.Path], _T],
  *,
  report: Callable[[str], object],
  overwrite: bool = False,
  replaced: Sequence[pathlib.Path] = (),
) -> _T | None:
  """Writes a store under a temporary name and renames it, unless it is there."""

  def there() -> bool:
    if overwrite or not is_whole(final):
      return False
    report(f'{final} is already prepared; nothing to do.')
    return True

  # Before anything is written: the folder may be read-only.
  if there():
    return None
  try:
    final.parents[1].mkdir(parents=True, exist_ok=True)
    with _lock(final.parent, report):
      # Another process may have prepared it while this one waited.
      if there():
        return None
      temporary = final.parent.with_name(f'.{final.parent.name}.tmp')
      # What an earlier process left when it was killed.
      for left in (temporary, *temporary.parent.glob('.*.old')):
        shutil.rmtree(left, ignore_errors=True)
      try:
        made = make(temporary / final.name)
        removed = [final, *replaced] if overwrite else []
        _publish(temporary, final.parent, [path.parent for path in removed])
      finally:
        shutil.rmtree(temporary, ignore_errors=True)
  except OSError as error:
    raise StoreError(
      f'cannot write {error.filename or final}: {error.strerror or error}; '
      'nothing was left behind. Make room or choose another --data_dir, then '
      'run the same command again.'
    ) from error
  return made


@contextlib.contextmanager
def _lock(
  store: pathlib.Path, report: Callable[[str], object]
) -> Iterator[None]:
  """Holds off other processes that prepare the same store.

  The lock goes with the process that holds it, however that one ends.
  """
  path = store.with_name(f'.{store.name}.lock')
  while True:
    file = open(path, 'w')  # noqa: SIM115  Kept open as long as it is held.
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      report(f'waiting for another process that prepares {store.name} ...')
      fcntl.flock(file, fcntl.LOCK_EX)
    # Another process may have held, and then removed, the file we waited for.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        break
    file.close()
  try:
    yield
  finally:
    path.unlink(missing_ok=True)
    file.close()


def _publish(
  temporary: pathlib.Path, store: pathlib.Path, removed: list[pathlib.Path]
) -> None:
  """Gives a complete store its name, and takes others away."""
  old = []
  for path in removed:
    if path.exists():
      # Renamed before it is deleted, so that no half of it keeps its name.
      old.append(path.with_name(f'.{path.name}.old'))
      os.replace(path, old[-1])
  os.rename(temporary, store)
  # Makes the new name itself durable.
  folder = os.open(store.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
  for path in old:
    shutil.rmtree(path, ignore_errors=True)


def is_whole(path: pathlib.Path) -> bool:
  """Returns whether the store is there; StoreError if only a part of it is."""
  if not path.parent.exists():
    return False
  if problem := _problem(path):
    raise StoreError(
      f'{path} is not a complete store: {problem}. Make it again with '
      '--overwrite, or delete the folder.'
    )
  return True


def _problem(path: pathlib.Path) -> str:
  """Returns what is wrong with a store, as far as is seen cheaply."""
  try:
    info = json.loads((path / 'store.json').read_text('utf-8'))
    shards = {s['name']: s['file_bytes'] for s in info['shards']}
  except FileNotFoundError:
    return 'it has no store.json'
  except (ValueError, KeyError, TypeError) as error:
    return f'its store.json is damaged ({error})'
  for name in ('manifest.tsv', 'dataset_info.json', 'features.json', *shards):
    if not (path / name).is_file():
      return f'it has no {name}'
  for name, size in shards.items():
    if (found := (path / name).stat().st_size) != size:
      return f'{name} has {found} bytes and should have {size}'
  return ''
