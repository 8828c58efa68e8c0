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
# Names are kept to the byte; from all other cells outer blanks are taken.
_NAMES = ('id', 'path')
# A quote in these is a slip that would make another speaker or class.
_PLAIN = ('speaker', 'label', 'gender', 'split')


class CorpusError(UserError):
  """Audio or its labels are not as they should be.

  The message names the file, the value, the rule, and what to do.
  """


def natural_key(text: str) -> tuple[object, ...]:
  """Returns a sort key under which 'a2' precedes 'a10'; case decides last."""
  # Splitting at a group alternates text and digits, so types always match.
  parts = re.split(r'(\d+)', text.casefold())
  return tuple(int(p) if i % 2 else p for i, p in enumerate(parts)), text


def normal_gender(text: str) -> str:
  """Spells 'F', 'm', 'Female', ... as 'female' or 'male', others small."""
  text = text.strip().lower()
  return _GENDERS.get(text, text)


def normal_split(text: str) -> str:
  """Spells 'Train', 'Development', 'Test1', ... as 'train', 'dev', 'test'."""
  text = text.strip().lower()
  return _SPLITS.get(text, text)


def number(text: str) -> float | None:
  """Reads a number, or None for '' and 'NaN'; ValueError for other text."""
  text = text.strip()
  return None if text.lower() in ('', 'nan') else float(text)


def listed(
  items: Sequence[str], shown: int = _SHOWN, indent: str = '  '
) -> str:
  """Lists the first items, one a line, with a count of the rest."""
  lines = [f'{indent}{item}' for item in items[:shown]]
  if len(items) > shown:
    lines.append(f'{indent}... and {len(items) - shown:,} more')
  return '\n'.join(lines)


def read_table(
  path: str | os.PathLike[str], required: Sequence[str]
) -> list[tuple[int, dict[str, str]]]:
  """Reads a table with a header, one line per row: tabs, or commas in a .csv.

  No cell spans lines, so that no quote can swallow a row. In a table with tabs
  a quote is an ordinary character, unless a cell is quoted as a whole.
  """
  path = pathlib.Path(path)
  delimiter = ',' if path.suffix.lower() == '.csv' else '\t'
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except FileNotFoundError as error:
    raise CorpusError(f'{path}: there is no such file.') from error
  except IsADirectoryError as error:
    raise CorpusError(f'{path}: is a folder; name the table in it.') from error
  except UnicodeDecodeError as error:
    raise CorpusError(
      f'{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save '
      'the table as UTF-8.'
    ) from error
  lines = [
    (line, _cells(text, delimiter, f'{path}: line {line}'))
    for line, text in enumerate(re.split(r'\r\n|\r|\n', text), start=1)
    if line == 1 or text
  ]
  columns = [name.strip() for name in lines[0][1]]
  absent = [name for name in required if name not in columns]
  twice = sorted({name for name in columns if columns.count(name) > 1})
  kind = 'tab' if delimiter == '\t' else repr(delimiter)
  if absent:
    raise CorpusError(
      f'{path}: column {", ".join(map(repr, absent))} is missing; the first '
      f'line has {columns}, separated by {kind}. Required: '
      f'{", ".join(required)}.'
    )
  if twice:
    raise CorpusError(
      f'{path}: has more than one column {", ".join(map(repr, twice))}; leave '
      'one of each.'
    )
  if len(lines) == 1:
    raise CorpusError(
      f'{path}: has a header and no rows, so there is nothing to prepare.'
    )
  rows = []
  for line, cells in lines[1:]:
    if any(cells[len(columns) :]):
      raise CorpusError(
        f'{path}: line {line} has {len(cells)} cells and the header '
        f'{len(columns)}, separated by {kind}.'
      )
    if len(cells) < len(columns) and cells[-1].startswith('"'):
      raise CorpusError(
        f'{path}: line {line} ends inside of a quoted cell; close the quote, '
        'and keep every row on one line.'
      )
    cells += [''] * (len(columns) - len(cells))
    row = dict(zip(columns, cells, strict=False))
    for name in _PLAIN:
      if '"' in row.get(name, ''):
        raise CorpusError(
          f'{path}: line {line}: {name} {row[name]!r} has a quote in it; close '
          'the quote or take it out.'
        )
    rows.append(
      (line, {k: v if k in _NAMES else v.strip() for k, v in row.items()})
    )
  return rows


def _cells(line: str, delimiter: str, place: str) -> list[str]:
  """Splits a line into its cells."""
  try:
    if delimiter == '\t':
      cells = line.split('\t')
      for index, cell in enumerate(cells):
        if re.fullmatch(r'"([^"]|"")*"', cell):
          cells[index] = cell[1:-1].replace('""', '"')
    else:
      cells = next(csv.reader([line], delimiter=delimiter, strict=True), [''])
  except csv.Error as error:
    raise CorpusError(
      f'{place} cannot be read ({error}); a quoted cell begins and ends with a '
      'quote, has its own quotes doubled, and stays on one line.'
    ) from error
  if max(map(len, cells)) > csv.field_size_limit():
    raise CorpusError(
      f'{place} has a cell of {max(map(len, cells)):,} characters; shorten it '
      f'to {csv.field_size_limit():,}.'
    )
  return cells
