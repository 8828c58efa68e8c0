"""Who is trained on and who is tested: folds as a pure function of the table.

Every protocol yields folds of row numbers. They are written beside the results
by utterance id, and can be read back, so that others rerun exactly the same
split.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.core.errors import UserError
from jaxser.data.corpus import Corpus, Table

# Up to this many speakers each is a fold of its own; beyond, they are grouped.
MAX_SPEAKER_FOLDS = 12
# Utterances of each class that `published` develops on, of an official split.
PUBLISHED_DEV = 300
SPLITS = ('train', 'dev', 'test')
Folds = dict[str, Any]
"""What a folds file holds."""
_NONE = np.zeros(0, np.int64)


class ProtocolError(UserError):
  """A split cannot be made or read; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Fold:
  """Rows of one fold; `number` counts from 0; dev may be empty."""

  number: int
  train: np.ndarray
  dev: np.ndarray
  test: np.ndarray


def make_folds(
  corpus: Corpus,
  protocol: str,
  *,
  num_folds: int = 10,
  seed: int = 0,
  test_corpus: str = '',
  cross_corpus_train: str = 'all',
  every_class: bool = True,
  emobox_dir: str = '',
  emobox_dev: bool = True,
) -> list[Fold]:
  """Cuts the corpus into folds.

  - `published`: scikit-learn's shuffled KFold over utterances (TIM-Net). Of a
    regression with an official split, its training split trains,
    `PUBLISHED_DEV` utterances of each class of its development split develop,
    the others test (EmoSphere-SER, section 3.1).
  - `speaker_independent`: every speaker (or group, beyond 12 speakers) is
    tested once; the neighbour in sorted order develops (DSNet).
  - `official`: the corpus' own split column.
  - `cross_corpus`: all of `test_corpus` tests every fold. Of the other corpus
    train 'all'; 'held_out': all but the last speaker or group, who develops;
    'speakers': the folds of `speaker_independent` without their own test
    speakers (DSNet).
  - `emobox`: the folds in `emobox_dir`; with `emobox_dev` a tenth of each
    training split develops: speakers where the fold tests none of them, else
    utterances.
  - `all`: one fold that trains on every utterance and tests none.

  Of a classification each training split must have `every_class`.
  """
  table = corpus.table
  has_split = {'train', 'dev'} <= set(table.splits.tolist())
  if protocol == 'published' and has_split and not every_class:
    folds = _cut_dev_split(table, seed)
  elif protocol == 'published':
    folds = _random_folds(table, num_folds, seed)
  elif protocol == 'speaker_independent':
    folds = _speaker_folds(table, num_folds, seed)
  elif protocol == 'official':
    folds = _official_fold(table)
  elif protocol == 'cross_corpus':
    how = cross_corpus_train
    folds = _cross_corpus_folds(corpus, test_corpus, how, num_folds, seed)
  elif protocol == 'emobox':
    folds = _emobox_folds(corpus, emobox_dir, seed if emobox_dev else None)
  else:  # 'all'
    folds = [Fold(0, np.arange(len(table)), _NONE, _NONE)]
  check_folds(folds, corpus, every_class)
  return folds


def _cut_dev_split(table: Table, seed: int) -> list[Fold]:
  generator, dev = np.random.default_rng(seed), []
  whole = np.flatnonzero(table.splits == 'dev')
  for label in np.unique(table.labels[table.labels >= 0]):
    own = whole[table.labels[whole] == label]
    dev.extend(generator.permutation(own)[:PUBLISHED_DEV])
  test = np.setdiff1d(whole, dev)
  if not len(test) or not dev:
    raise ProtocolError(
      f'protocol=published develops on {PUBLISHED_DEV} utterances of each class '
      f'of the development split and tests the others; it has {len(whole)}, of '
      f'which {len(dev)} develop. Use protocol=official.'
    )
  train = np.flatnonzero(table.splits == 'train')
  return [Fold(0, train, np.sort(np.array(dev)), test)]


def _random_folds(table: Table, num_folds: int, seed: int) -> list[Fold]:
  if not 2 <= num_folds <= len(table):
    raise ProtocolError(
      f'num_folds={num_folds} must lie between 2 and the {len(table)} '
      'utterances of the corpus.'
    )
  # Imported here: it takes seconds, and only this protocol needs it.
  from sklearn import model_selection

  cut = model_selection.KFold(num_folds, shuffle=True, random_state=seed)
  splits = enumerate(cut.split(table.ids))
  return [Fold(n, train, _NONE, test) for n, (train, test) in splits]


def _speaker_groups(table: Table, count: int, seed: int) -> list[list[str]]:
  """Speakers sorted by name, alone or dealt into groups of similar size."""
  speakers = sorted(set(table.speakers.tolist()))
  if '' in speakers:
    row = int(np.flatnonzero(table.speakers == '')[0])
    raise ProtocolError(
      f'utterance {str(table.ids[row])!r} has no speaker, so speaker-independent '
      'folds cannot be made; fill the speaker column of the manifest.'
    )
  if len(speakers) <= MAX_SPEAKER_FOLDS:
    return [[speaker] for speaker in speakers]
  order = np.random.default_rng(seed).permutation(len(speakers))
  return [sorted(speakers[i] for i in order[g::count]) for g in range(count)]


def _speaker_folds(table: Table, count: int, seed: int) -> list[Fold]:
  groups = _speaker_groups(table, count, seed)
  if len(groups) < 3:
    raise ProtocolError(
      'speaker-independent folds need at least 3 speakers, one each to train, '
      f'to develop and to test; the corpus has {len(groups)}. Use '
      'protocol=published, whose random folds mix speakers, or '
      'protocol=official.'
    )
  group_of = {name: i for i, group in enumerate(groups) for name in group}
  number = np.array([group_of[name] for name in table.speakers.tolist()])
  folds = []
  for test in range(len(groups)):
    dev = test ^ 1  # The other one of the pair (0, 1), (2, 3), ...
    if dev == len(groups):  # An odd count leaves the last one without a pair.
      dev = test - 1
    splits = ~np.isin(number, (test, dev)), number == dev, number == test
    folds.append(Fold(test, *map(np.flatnonzero, splits)))
  return folds


def _official_fold(table: Table) -> list[Fold]:
  fold = Fold(0, *(np.flatnonzero(table.splits == split) for split in SPLITS))
  if not len(fold.train) or not len(fold.test):
    raise ProtocolError(
      "protocol=official needs utterances whose split is 'train' and 'test'; the "
      f'manifest has {sorted(set(table.splits.tolist()))}. Use '
      'protocol=speaker_independent instead.'
    )
  return [fold]


def _cross_corpus_folds(corpus, test_corpus, how, count, seed) -> list[Fold]:
  test = np.flatnonzero(corpus.parts == test_corpus)
  train, dev = np.flatnonzero(corpus.parts != test_corpus), _NONE
  if not len(test) or not len(train):
    raise ProtocolError(
      f'cross_corpus needs two corpora; {corpus.name!r} tested on '
      f'{test_corpus!r} leaves {len(train)} to train and {len(test)} to test.'
    )
  known = corpus.table.take(train)
  if how == 'speakers':
    folds = _speaker_folds(known, count, seed)
    return [Fold(f.number, train[f.train], train[f.dev], test) for f in folds]
  if how == 'held_out':
    groups = _speaker_groups(known, count, seed)
    held = np.isin(known.speakers, np.array(groups[-1]))
    train, dev = train[~held], train[held]
  return [Fold(0, train, dev, test)]


def _emobox_folds(corpus: Corpus, folder: str, seed: int | None) -> list[Fold]:
  """Reads EmoBox's folds; cuts development splits where a seed is given."""
  table, found = corpus.table, _read_emobox(corpus, folder)
  folds = [Fold(number, train, _NONE, test) for number, train, test in found]
  if seed is not None:
    folds = [_hold_out(fold, table, seed) for fold in folds]
  print(
    f'{len(shared_speakers(folds, table))} of {len({*table.speakers})} speakers '
    'are both trained on and tested.',
    file=sys.stderr,
  )
  return folds


# EmoBox (Ma et al., arXiv 2406.07162; github.com/emo-box/EmoBox) has
# CORPUS/fold_N/CORPUS_{train,test}_fold_N.jsonl, N from 1, and of some corpora
# CORPUS/label_map.json. A recording is the utterance whose path ends as "wav".
def _read_emobox(corpus: Corpus, folder: str) -> list[tuple[int, Any, Any]]:
  """Returns (number from 0, training rows, test rows) of every fold."""
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
    names = (f'fold_{n}/*_{part}_fold_{n}.jsonl' for part in ('train', 'test'))
    rows = (_read_split(root, name, corpus, find, labels) for name in names)
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


def _read_split(folder, pattern, corpus, find, labels) -> np.ndarray:
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
  unknown = [w for (w, _), row in zip(pairs, rows, strict=True) if row is None]
  if unknown:
    raise UserError(
      f'{path}: {len(unknown)} of {len(pairs)} utterances are not in '
      f'{corpus.name}, the first is {unknown[0]!r}. Is this the EmoBox folder of '
      'that corpus, and is all of it prepared?'
    )
  for (wav, label), row in zip(pairs, rows, strict=True):
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


def shared_speakers(folds: Sequence[Fold], table: Table) -> list[str]:
  """Returns the speakers that a fold both trains on and tests, sorted."""
  shared = set()
  for fold in folds:
    trained = {*table.speakers[fold.train], *table.speakers[fold.dev]}
    shared |= trained & {*table.speakers[fold.test]}
  return sorted(map(str, shared))


def _hold_out(fold: Fold, table: Table, seed: int) -> Fold:
  """Moves a tenth of the training split to the development split."""
  generator = np.random.default_rng([seed, fold.number])
  speakers, labels = table.speakers[fold.train], table.labels[fold.train]
  names = np.unique(speakers)
  if len(names) > 1 and not shared_speakers([fold], table):
    chosen = generator.permutation(names)[: -(-len(names) // 10)]
    held = np.isin(speakers, chosen)
  else:
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
      own = generator.permutation(np.flatnonzero(labels == label))
      held[own[: -(-len(own) // 10)]] = len(own) > 1
  return Fold(fold.number, fold.train[~held], fold.train[held], fold.test)


def check_folds(
  folds: Sequence[Fold], corpus: Corpus, every_class: bool = True
):
  """Refuses empty or overlapping splits, and a class that is not trained."""
  table = corpus.table
  for fold in folds:
    where = f'fold {fold.number}'
    splits = {name: getattr(fold, name) for name in SPLITS}
    tests_none = not len(fold.test) and len(fold.train) == len(table)
    for name in ('train', 'test'):
      if not len(splits[name]) and not tests_none:
        raise ProtocolError(f'{where} has no {name} utterance.')
    for (a, rows), (b, others) in itertools.combinations(splits.items(), 2):
      if len(both := np.intersect1d(rows, others)):
        raise ProtocolError(
          f'{where}: utterance {str(table.ids[both[0]])!r} is in {a} and in {b}.'
        )
    present = set(table.labels[fold.train].tolist())
    missing = [c for i, c in enumerate(corpus.classes) if i not in present]
    if missing and every_class:
      raise ProtocolError(
        f'{where}: no training utterance of class {", ".join(missing)}, so it '
        f'can never be predicted; {_advice(fold, table)}, or leave the class out '
        'of the manifest.'
      )


def _advice(fold: Fold, table: Table) -> str:
  """Returns what helps where a fold cannot train on a class."""
  if shared_speakers([fold], table):
    return 'use fewer folds, another fold_seed'
  counts = collections.Counter(table.speakers.tolist())
  speaker, fewest = counts.most_common()[-1]
  if 10 * fewest < np.median([*counts.values()]):
    return (
      f'speaker {speaker!r} has {fewest} of {len(table)} utterances: correct the '
      'name if it is that of another speaker, leave the speaker out, or use '
      'protocol=published, whose random folds mix speakers'
    )
  return 'use fewer folds, another fold_seed, protocol=published'


def folds_to_json(folds: Sequence[Fold], corpus: Corpus, **about: Any) -> Folds:
  ids, speakers = corpus.table.ids, corpus.table.speakers
  content = {'corpus': corpus.name, **about}
  if about.get('protocol') == 'emobox':
    content['shared_speakers'] = shared_speakers(folds, corpus.table)
  content['folds'] = [
    {
      'fold': fold.number,
      'test_speakers': sorted(set(speakers[fold.test].tolist())),
      'dev_speakers': sorted(set(speakers[fold.dev].tolist())),
      **{split: ids[getattr(fold, split)].tolist() for split in SPLITS},
    }
    for fold in folds
  ]
  return content


def write_folds(path: files.Path, content: Folds) -> None:
  files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def read_folds(
  path: files.Path, corpus: Corpus, every_class=True
) -> list[Fold]:
  """Reads a folds file made for this corpus."""
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_text('utf-8'))
    entries = [
      (int(entry['fold']), *(entry[split] for split in SPLITS))
      for entry in content['folds']
    ]
  except FileNotFoundError as error:
    raise ProtocolError(f'folds file {path} does not exist.') from error
  except (ValueError, KeyError, TypeError) as error:
    raise ProtocolError(
      f'{path} is not a folds file ({type(error).__name__}: {error}); it needs '
      '"folds": [{"fold": 0, "train": [ids], "dev": [ids], "test": [ids]}].'
    ) from error
  row_of = {name: row for row, name in enumerate(corpus.table.ids.tolist())}

  def rows(names):
    if unknown := [name for name in names if name not in row_of]:
      raise ProtocolError(
        f'{path} names {len(unknown)} utterances that {corpus.name} does not '
        f'have, the first is {unknown[0]!r}.'
      )
    return np.array([row_of[name] for name in names], np.int64)

  folds = [Fold(number, *map(rows, splits)) for number, *splits in entries]
  check_folds(folds, corpus, every_class)
  return folds
