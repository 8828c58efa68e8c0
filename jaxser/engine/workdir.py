"""Whose run a work folder holds, and that only one process writes into it."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxser.core import command_line, files
from jaxser.core import config as config_lib
from jaxser.core.config import Config
from jaxser.core.errors import ConfigError, UserError
from jaxser.core.files import Path
from jaxser.systems import registry

# Of these any is a result, weight or checkpoint of a run.
_KEPT = (
  *('results.json', 'predictions.jsonl', 'folds/*.json*'),
  *('models/*.safetensors', 'checkpoints/*/*'),
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class DiskError(UserError):
  """A work folder cannot be written any more."""


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Keeps other processes out of a work folder, which it makes."""
  path = pathlib.Path(workdir) / '.lock'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open('a+')
  except OSError as error:
    raise ConfigError(
      f'--workdir={workdir} cannot be written ({error.strerror or error}); give '
      'a folder that can be made, or one of your own.'
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise ConfigError(
        f'--workdir={workdir} is in use: {file.read().strip()}. Wait until that '
        'run ends, stop it, or give another --workdir.'
      ) from error
    file.truncate(0)
    started = time.strftime('%Y-%m-%d %H:%M:%S')
    holder = f'process {os.getpid()} on {socket.gethostname()}'
    file.write(f'{holder} since {started}\n')
    file.flush()
    yield


@contextlib.contextmanager
def writing(workdir: Path) -> Iterator[None]:
  """Turns a disk that fills up, in here, into one message."""
  try:
    yield
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise DiskError(
      f'{workdir} can no longer be written ({error.strerror}); free disk space '
      'and run the same command again to continue.'
    ) from error


def check_identity(workdir: Path, config: Config, fingerprints, folds) -> None:
  """Checks, writing nothing, that a folder holds no other run than this."""
  check_config(workdir, config)
  if _is_free(workdir):
    return
  before = _read(workdir, 'model.json').get('stores', fingerprints)
  if before != fingerprints:
    raise ConfigError(
      f'{workdir} holds a run on the dataset {_listed(before)}; prepared now is '
      f'{_listed(fingerprints)}. Its labels or features have changed since: '
      'give another --workdir, or prepare the dataset of that run again.'
    )
  before = _read(workdir, 'folds.json').get('folds', folds['folds'])
  for there, here in zip(before, folds['folds'], strict=False):
    if there != here:
      raise ConfigError(
        f'{workdir} holds a run with another fold {there.get("fold")} '
        f'({_sizes(there)}) than this one ({_sizes(here)}); give another '
        f'--workdir, or --config.folds={workdir}/folds.json.'
      )
  if len(before) != len(folds['folds']):
    raise ConfigError(
      f'{workdir} holds a run with {len(before)} folds, this one has '
      f'{len(folds["folds"])}; give another --workdir.'
    )


def check_config(workdir: Path, config: Config) -> None:
  """Checks, writing nothing, that a folder holds no run of another config."""
  before = {} if _is_free(workdir) else _read(workdir, 'config.json')
  if not before:
    return
  now = config_lib.to_json(config)
  found = config_lib.difference(before, now, defaults(config.system))
  differing = [
    f'{name}: there {there!r}, now {here!r}'
    for name, there, here in sorted(found)
    if name not in config_lib.FREE
  ]
  if differing:
    raise ConfigError(
      f'{workdir} holds a run of another config ({"; ".join(differing)}).'
      ' Give another --workdir, or the same config to continue that run.'
    )


def defaults(system: str) -> dict[str, Any]:
  """Returns what fields are that a config of an older version lacks, flat."""
  common = command_line.load_module(command_line.find_recipe('common'))
  config = common.base_config(system, common.ARGUMENTS)
  model = {
    field.name: field.default
    for field in dataclasses.fields(registry.find(system))
    if field.default is not dataclasses.MISSING
  }
  return config_lib.flatten({**config.to_dict(), 'model': model})


def _is_free(workdir: Path) -> bool:
  return not any(any(pathlib.Path(workdir).glob(name)) for name in _KEPT)


def _read(workdir: Path, name: str) -> dict[str, Any]:
  path = pathlib.Path(workdir) / name
  return files.read_json(path) if path.exists() else {}


def _listed(fingerprints: Mapping[str, str]) -> str:
  return ', '.join(f'{name} {value}' for name, value in fingerprints.items())


def _sizes(fold: Mapping[str, Any]) -> str:
  splits = ('train', 'dev', 'test')
  return ', '.join(f'{len(fold.get(split, ()))} {split}' for split in splits)
