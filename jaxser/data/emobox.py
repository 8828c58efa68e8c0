"""Folds of EmoBox (Ma et al., arXiv 2406.07162; github.com/emo-box/EmoBox).

    data/CORPUS/fold_N/CORPUS_{train,test}_fold_N.jsonl, N from 1
    data/CORPUS/label_map.json, not of every corpus

A line has "wav", the path of a recording, and "emo", its label. A recording is
the utterance whose path ends alike, in as many folders as it takes.
"""

import collections
import json
import pathlib
import re
import sys
from collections.abc import Callable

import numpy as np

from jaxser.core.errors import UserError
from jaxser.data.corpus import Corpus


def read_folds(
  corpus: Corpus, folder: str
) -> list[tuple[int, np.ndarray, np.ndarray]]:
  """Reads the folds of a corpus, and says what they hold on standard error.

  `folder` is `data` of EmoBox, or the folder of the corpus in it.

  Returns:
    (number from 0, training rows, test rows) of every fold.

  Raises:
    UserError: there is no fold, an utterance is not in the corpus or lacks in
      one of the folds, or has another label.
  """
  root = pathlib.Path(folder).expanduser()
  if (root / corpus.name.replace('_', '')).is_dir():
    root /= corpus.name.replace('_', '')
  names = (path.name for path in root.glob('fold_*'))
  numbers = sorted(int(n[5:]) for n in names if n[5:].isdigit())
  if not folder or not numbers:
    raise UserError(
      f'--config.emobox_dir={folder}: has no fold_1 for {corpus.name}; give the '
      'data folder of EmoBox (github.com/emo-box/EmoBox), or data/CORPUS in it.'
    )
  find, path = _finder(corpus.table.paths), root / 'label_map.json'
  pairs = json.loads(path.read_text('utf-8')) if path.exists() else {}
  labels = {name.lower(): value.lower() for name, value in pairs.items()}
  folds = []
  for n in numbers:
    names = (
      f'fold_{n}/*_{split}_fold_{n}.jsonl' for split in ('train', 'test')
    )
    rows = (_read(root, name, corpus, find, labels) for name in names)
    folds.append((n - 1, *rows))
  used = [np.concatenate(rows) for _, *rows in folds]
  everyone = np.unique(np.concatenate(used))
  for n, rows in zip(numbers, used, strict=True):
    lacking = np.setdiff1d(everyone, rows)
    if len(lacking):
      raise UserError(
        f'{root}/fold_{n} lacks {len(lacking)} utterances of the other folds, '
        f'the first is {str(corpus.table.ids[lacking[0]])!r}.'
      )
  print(
    f'EmoBox: {len(folds)} folds of {corpus.name} with {len(everyone)} of '
    f'{len(corpus.table)} utterances.',
    file=sys.stderr,
  )
  return folds


def _read(
  folder: pathlib.Path,
  pattern: str,
  corpus: Corpus,
  find: Callable[[str], int | None],
  labels: dict[str, str],
) -> np.ndarray:
  """Returns the rows of one split; adds to `labels` what it learns."""
  try:
    (path,) = folder.glob(pattern)
    lines = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    pairs = [(line['wav'], line['emo']) for line in lines]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{folder / pattern}: is no fold of EmoBox ({type(error).__name__}: '
      f'{error}).'
    ) from error
  rows = [find(wav) for wav, _ in pairs]
  found = list(zip(pairs, rows, strict=True))
  if unknown := [wav for (wav, _), row in found if row is None]:
    raise UserError(
      f'{path}: {len(unknown)} of {len(pairs)} utterances are not in '
      f'{corpus.name}, the first is {unknown[0]!r}. Is this the EmoBox folder of '
      'that corpus, and is all of it prepared?'
    )
  for (wav, label), row in found:
    own = [*corpus.classes, ''][corpus.table.labels[row]]
    # Without a map a label is what its first utterance is.
    theirs = labels.setdefault(label.lower(), own)
    if theirs != own:
      raise UserError(
        f'{path}: {wav!r} is {label!r}, which is {theirs!r}; in {corpus.name} it '
        f'is {own!r}.'
      )
  return np.array(rows, np.int64)


def _finder(paths: np.ndarray) -> Callable[[str], int | None]:
  """Returns path -> row of the only one of `paths` that ends alike, or None."""

  def parts(path: str) -> list[str]:
    return re.sub(r'\.[A-Za-z]\w{2,3}$', '', path).split('/')[::-1]

  named = collections.defaultdict(list)
  for row, path in enumerate(paths.tolist()):
    named[parts(path)[0]].append((row, parts(path)))

  def find(path: str) -> int | None:
    wanted = parts(path)
    found = named.get(wanted[0], [])
    for depth in range(2, len(wanted) + 1):
      if len(found) > 1:
        found = [x for x in found if x[1][:depth] == wanted[:depth]]
    return found[0][0] if len(found) == 1 else None

  return find
