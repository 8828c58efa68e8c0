"""Finds material that is too large or not ours to commit: goldens, corpora.

The folder is `../shared` beside the checkout, or `$JAXSER_SHARED`. A test that
needs a file from it skips, naming the file, where the folder is absent.
"""

import os
import pathlib

import pytest

ROOT = pathlib.Path(
  os.environ.get('JAXSER_SHARED')
  or pathlib.Path(__file__).resolve().parents[2] / 'shared'
)


def require(relative: str) -> pathlib.Path:
  """Returns the path of a shared file or folder, or skips the calling test."""
  path = ROOT / relative
  if not path.exists():
    pytest.skip(
      f'needs {relative} from the shared folder (set JAXSER_SHARED to its path)'
    )
  return path
