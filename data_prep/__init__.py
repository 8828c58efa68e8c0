"""From audio files to a feature store: parsers, features, the demo corpus."""

import os
import pathlib
import sys
import tempfile

from data_prep.errors import UserError


def default_data_dir() -> pathlib.Path:
  """Returns where stores lie unless told otherwise.

  That is $JAXSER_DATA_DIR, else ~/jaxser_data; where there is no home, a folder
  for temporary files, and a line on standard error says so.
  """
  if chosen := os.environ.get('JAXSER_DATA_DIR'):
    return expanded(chosen)
  try:
    return pathlib.Path.home() / 'jaxser_data'
  except RuntimeError:
    folder = pathlib.Path(tempfile.gettempdir(), f'jaxser_data_{os.getuid()}')
    print(
      f'There is no home folder (HOME is not set), so data lies in {folder}; '
      '--data_dir or JAXSER_DATA_DIR name another.',
      file=sys.stderr,
    )
    return folder


def expanded(path: os.PathLike[str] | str) -> pathlib.Path:
  """Returns a path with its ~ expanded, as no shell does in --data_dir=~/x."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise UserError(
      f'{path}: ~ stands for no folder here (HOME is not set); write the whole '
      'path.'
    ) from error
