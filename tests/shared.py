"""Finds reference values, published weights and real corpora for tests.

Reference values are part of the checkout, in `tests/data`. What is too large or
not ours to publish lies in `../shared` beside the checkout, or in
`$JAXSER_SHARED`; a test that needs it skips, naming the file, without it.
"""

import os
import pathlib

import pytest

_FOLDERS = (
  pathlib.Path(__file__).parent / 'data',
  pathlib.Path(
    os.environ.get('JAXSER_SHARED')
    or pathlib.Path(__file__).resolve().parents[2] / 'shared'
  ),
)


def require(relative: str) -> pathlib.Path:
  """Returns the path of a file or folder, or skips the calling test."""
  for folder in _FOLDERS:
    if (folder / relative).exists():
      return folder / relative
  pytest.skip(
    f'needs {relative} from the shared folder (set JAXSER_SHARED to its path)'
  )
