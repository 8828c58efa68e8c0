"""Tables and messages: what manifests and the label files of corpora share."""

import csv
import os
import pathlib
import re
from collections.abc import Sequence

from data_prep.errors import UserError

_GENDERS = {'f': 'female', 'm': 'male', 'w': 'female'}
_SPLITS = {
  'training': 'train',
  'development': 'dev',
  'validation': 'dev',
  'valid': 'dev',
  'val': 'dev',
  'test1': 'test',
}
_SHOWN = 10  # Problems listed in one message.


class CorpusError(UserError):
  """Audio or its labels are not as they should be.

  The message names the file, the value, the rule, and what to do.
  """


def natural_key(text: str) -> tuple[object, ...]:
  """Sort key under which 'a2' precedes 'a10', and case decides last."""
  # Splitting at a group alternates text and digits, so types always match.
  parts = re.split(r'(\d+)', text.casefold())
  return tuple(int(p) if i % 2 else p for i, p in enumerate(parts)), text


def normal_gender(text: str) -> str:
  """'F', 'm', 'Female', ... as 'female' or 'male'; others in lower case."""
  text = text.strip().lower()
  return _GENDERS.get(text, text)


def normal_split(text: str) -> str:
  """'Train', 'Development', 'Test1', ... as 'train', 'dev', 'test'."""
  text = text.strip().lower()
  return _SPLITS.get(text, text)


def number(text: str) -> float | None:
  """A number, or None for '' and 'NaN'; raises ValueError for other text."""
  text = text.strip()
  if text.lower() in ('', 'nan'):
    return None
  return float(text)


def listed(
  items: Sequence[str], shown: int = _SHOWN, indent: str = '  '
) -> str:
  """Items one a line, the first few of them, with a count of the rest."""
  lines = [f'{indent}{item}' for item in items[:shown]]
  if len(items) > shown:
    lines.append(f'{indent}... and {len(items) - shown:,} more')
  return '\n'.join(lines)


def read_table(
  path: str | os.PathLike[str],
  required: Sequence[str],
  delimiter: str = '\t',
) -> list[dict[str, str]]:
  """Reads a table with a header; values are stripped, absent ones ''.

  Raises:
    CorpusError: The file is missing or not text, a required column is missing
      or there are no rows.
  """
  path = pathlib.Path(path)
  try:
    with open(path, encoding='utf-8-sig', newline='') as file:
      reader = csv.DictReader(file, delimiter=delimiter)
      rows = [
        {key: (row[key] or '').strip() for key in reader.fieldnames}
        for row in reader
      ]
      columns = list(reader.fieldnames or ())
  except FileNotFoundError as error:
    raise CorpusError(f'{path}: there is no such file.') from error
  except IsADirectoryError as error:
    raise CorpusError(f'{path}: is a folder; name the table in it.') from error
  except UnicodeDecodeError as error:
    raise CorpusError(
      f'{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save '
      'the table as UTF-8.'
    ) from error
  absent = [name for name in required if name not in columns]
  if absent:
    kind = 'tab' if delimiter == '\t' else repr(delimiter)
    raise CorpusError(
      f'{path}: column {", ".join(map(repr, absent))} is missing; the first '
      f'line has {columns}, separated by {kind}. Required: '
      f'{", ".join(required)}.'
    )
  if not rows:
    raise CorpusError(
      f'{path}: has a header and no rows, so there is nothing to prepare.'
    )
  return rows
