"""Finds test material: goldens of this repository, and what is not ours.

Goldens lie in `tests/data`. Corpora and published weights are too large or not
ours to commit: they are looked for in `../shared` beside the checkout, or in
`$JAXSER_SHARED`, and a test that needs a file from there skips, naming the
file, where the folder is absent.
"""

import os
import pathlib

import pytest

DATA = pathlib.Path(__file__).resolve().parent / 'data'
ROOT = pathlib.Path(
  os.environ.get('JAXSER_SHARED')
  or pathlib.Path(__file__).resolve().parents[2] / 'shared'
)


def require(relative: str) -> pathlib.Path:
  """Returns the path of a file or folder, or skips the calling test."""
  if relative.startswith('goldens/'):
    return DATA / relative
  path = ROOT / relative
  if not path.exists():
    pytest.skip(
      f'needs {relative} from the shared folder (set JAXSER_SHARED to its path)'
    )
  return path
