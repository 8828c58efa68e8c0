"""Who is trained on and who is tested: folds as a pure function of the table.

Every protocol yields folds of row numbers (train, dev, test). They are written
beside the results by utterance id, and can be read back, so that others rerun
exactly the same split.
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.core import files
from jaxser.core.errors import UserError
from jaxser.data import emobox
from jaxser.data.corpus import Corpus, Table

# Up to this many speakers each is a fold of its own; beyond, they are grouped.
MAX_SPEAKER_FOLDS = 12
# Utterances of each class that `published` develops on, of an official split.
PUBLISHED_DEV = 300
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

  - `published`: scikit-learn `KFold(num_folds, shuffle=True, seed)` over the
    utterances in published order; speakers are trained on and tested (TIM-Net). A
    regression over a corpus with an official split: its training split trains;
    of its development split `PUBLISHED_DEV` utterances of each class, drawn by
    `seed`, develop and the others test (EmoSphere-SER, section 3.1, whose
    utterances without agreement `data_prep` leaves out of MSP-Podcast).
  - `speaker_independent`: every speaker (or group, beyond 12 speakers) is
    tested once; its neighbour in sorted order is the development speaker: k + 1
    for even k, k - 1 for odd k (DSNet), so dev labels may guide training.
  - `official`: the corpus' own split column (train, dev, test).
  - `cross_corpus`: one corpus trains, all of `test_corpus` tests every fold.
    `cross_corpus_train` is 'all': one fold, trained on all of the first (TIM-
    Net); 'held_out': one fold, the last speaker (or group) is the development
    side; 'speakers': the folds of `speaker_independent`, whose own test
    speakers are left out (DSNet).
  - `emobox`: the folds of EmoBox (arXiv 2406.07162) in `emobox_dir`, the folder
    of the corpus or the one above. With `emobox_dev` a tenth of each training
    split develops: whole speakers (at least one) where the fold tests none of
    them, else utterances of every class; drawn by `seed` and fold.
  - `all`: one fold that trains on every utterance and tests none.

  `every_class` is for classification: each training split must have all classes.

  Raises:
    ProtocolError: where speakers or splits are missing or too few, or a class
      has no utterance in a training fold.
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
    folds = _cross_corpus_folds(
      corpus, test_corpus, cross_corpus_train, num_folds, seed
    )
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
  return [
    Fold(number, train, _NONE, test)
    for number, (train, test) in enumerate(cut.split(table.ids))
  ]


def _speaker_groups(
  table: Table, num_groups: int, seed: int
) -> list[list[str]]:
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
  return [
    sorted(speakers[i] for i in order[group::num_groups])
    for group in range(num_groups)
  ]


def _speaker_folds(table: Table, num_groups: int, seed: int) -> list[Fold]:
  groups = _speaker_groups(table, num_groups, seed)
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
  fold = Fold(
    0, *(np.flatnonzero(table.splits == n) for n in ('train', 'dev', 'test'))
  )
  if not len(fold.train) or not len(fold.test):
    raise ProtocolError(
      "protocol=official needs utterances whose split is 'train' and 'test'; the "
      f'manifest has {sorted(set(table.splits.tolist()))}. Use '
      'protocol=speaker_independent instead.'
    )
  return [fold]


def _cross_corpus_folds(
  corpus: Corpus, test_corpus: str, how: str, num_groups: int, seed: int
) -> list[Fold]:
  test = np.flatnonzero(corpus.parts == test_corpus)
  train = np.flatnonzero(corpus.parts != test_corpus)
  if not len(test) or not len(train):
    raise ProtocolError(
      f'cross_corpus needs two corpora; {corpus.name!r} tested on '
      f'{test_corpus!r} leaves {len(train)} to train and {len(test)} to test.'
    )
  known = corpus.table.take(train)
  if how == 'speakers':
    return [
      Fold(fold.number, train[fold.train], train[fold.dev], test)
      for fold in _speaker_folds(known, num_groups, seed)
    ]
  dev = _NONE
  if how == 'held_out':
    groups = _speaker_groups(known, num_groups, seed)
    held = np.isin(known.speakers, np.array(groups[-1]))
    train, dev = train[~held], train[held]
  return [Fold(0, train, dev, test)]


def _emobox_folds(corpus: Corpus, folder: str, seed: int | None) -> list[Fold]:
  """Reads EmoBox's folds; cuts development splits where a seed is given."""
  table, found = corpus.table, emobox.read_folds(corpus, folder)
  folds = [Fold(number, train, _NONE, test) for number, train, test in found]
  if seed is not None:
    folds = [_hold_out(fold, table, seed) for fold in folds]
  print(
    f'{len(shared_speakers(folds, table))} of {len({*table.speakers})} speakers '
    'are both trained on and tested.',
    file=sys.stderr,
  )
  return folds


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
) -> None:
  """Raises ProtocolError for empty or overlapping splits, or an unseen class.

  Only a fold that trains on every utterance may test none.
  """
  table = corpus.table
  for fold in folds:
    where = f'fold {fold.number}'
    splits = {'train': fold.train, 'dev': fold.dev, 'test': fold.test}
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


def folds_to_json(
  folds: Sequence[Fold], corpus: Corpus, **about: Any
) -> dict[str, Any]:
  """Returns folds by utterance id, with what made them."""
  ids, speakers = corpus.table.ids, corpus.table.speakers
  content = {'corpus': corpus.name, **about}
  if about.get('protocol') == 'emobox':
    content['shared_speakers'] = shared_speakers(folds, corpus.table)
  return {
    **content,
    'folds': [
      {
        'fold': fold.number,
        'test_speakers': sorted(set(speakers[fold.test].tolist())),
        'dev_speakers': sorted(set(speakers[fold.dev].tolist())),
        'train': ids[fold.train].tolist(),
        'dev': ids[fold.dev].tolist(),
        'test': ids[fold.test].tolist(),
      }
      for fold in folds
    ],
  }


def write_folds(
  path: os.PathLike[str] | str, content: Mapping[str, Any]
) -> None:
  """Writes a folds file; see `folds_to_json`."""
  files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def read_folds(
  path: os.PathLike[str] | str, corpus: Corpus, every_class: bool = True
) -> list[Fold]:
  """Reads a folds file made for this corpus.

  Raises:
    ProtocolError: it is missing or malformed, or names an unknown utterance.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_text('utf-8'))
    entries = [
      (int(e['fold']), e['train'], e['dev'], e['test'])
      for e in content['folds']
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
    unknown = [name for name in names if name not in row_of]
    if unknown:
      raise ProtocolError(
        f'{path} names {len(unknown)} utterances that {corpus.name} does not '
        f'have, the first is {unknown[0]!r}.'
      )
    return np.array([row_of[name] for name in names], np.int64)

  folds = [Fold(n, rows(a), rows(b), rows(c)) for n, a, b, c in entries]
  check_folds(folds, corpus, every_class)
  return folds
