"""Folds: who trains, develops and tests, and what cannot be split."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from sklearn import model_selection

from jaxser.data import protocols
from tests import fakes


@pytest.fixture
def corpus():
  return fakes.corpus(speakers=5, repeats=3)


def is_partition(folds, corpus):
  tested = np.sort(np.concatenate([fold.test for fold in folds]))
  return np.array_equal(tested, np.arange(len(corpus.table)))


def with_table(corpus, **columns):
  table = dataclasses.replace(corpus.table, **columns)
  return dataclasses.replace(corpus, table=table)


def refused(message, make, *args, **more):
  with pytest.raises(protocols.ProtocolError, match=message):
    make(*args, **more)


def speakers(corpus, *splits):
  """The speakers of each split, as text."""
  return [''.join(sorted({*corpus.table.speakers[rows]})) for rows in splits]


def test_published_folds_are_scikit_learns_and_test_everyone_once(corpus):
  folds = protocols.make_folds(corpus, 'published', num_folds=5, seed=46)
  cut = model_selection.KFold(5, shuffle=True, random_state=46)
  splits = cut.split(corpus.table.ids)
  for fold, (train, test) in zip(folds, splits, strict=True):
    np.testing.assert_array_equal(fold.train, train)
    np.testing.assert_array_equal(fold.test, test)
    assert not len(fold.dev)
  assert is_partition(folds, corpus)


def test_a_published_regression_cuts_the_development_split():
  corpus = fakes.corpus(speakers=10, repeats=50)
  rows = np.arange(1500)
  labels = np.where(rows % 100, corpus.table.labels, -1)  # Another class.
  splits = np.where(rows % 5, 'dev', np.where(rows % 10, 'train', 'test'))
  corpus = with_table(corpus, labels=labels, splits=splits)
  make = functools.partial(protocols.make_folds, corpus, 'published')
  (fold,) = make(every_class=False, seed=3)
  np.testing.assert_array_equal(fold.train, np.flatnonzero(splits == 'train'))
  # 400 of each class, of which 300 develop; the official test split is unused.
  assert np.bincount(labels[fold.dev]).tolist() == [300] * 3
  assert len(fold.test) == 1200 - 900
  assert set(splits[fold.dev]) == set(splits[fold.test]) == {'dev'}
  (again,), (other,) = make(every_class=False, seed=3), make(every_class=False)
  np.testing.assert_array_equal(again.dev, fold.dev)
  assert not np.array_equal(other.dev, fold.dev)
  assert len(make(num_folds=5)) == 5  # Classes have random folds as ever.
  few = with_table(corpus, splits=np.where(rows % 5 == 1, 'dev', 'train'))
  make = functools.partial(protocols.make_folds, few, 'published')
  refused('has 300, of which 300 dev', make, every_class=False)


def test_all_trains_on_every_utterance_and_tests_none(corpus):
  (fold,) = protocols.make_folds(corpus, 'all')
  assert (len(fold.train), len(fold.dev), len(fold.test)) == (45, 0, 0)
  # No other fold may test nobody.
  fewer = dataclasses.replace(fold, train=fold.train[1:])
  refused('fold 0 has no test', protocols.check_folds, [fewer], corpus)


@pytest.mark.parametrize('count', [3, 4, 5, 12, 13, 30])
def test_no_speaker_is_in_two_splits(count):
  corpus = fakes.corpus(speakers=count)
  options = {'num_folds': 6, 'seed': 3}
  folds = protocols.make_folds(corpus, 'speaker_independent', **options)
  assert len(folds) == (count if count <= 12 else 6)
  assert is_partition(folds, corpus)
  for fold in folds:
    splits = fold.train, fold.dev, fold.test
    heard = [set(corpus.table.speakers[rows]) for rows in splits]
    assert all(heard)
    assert len(set.union(*heard)) == sum(map(len, heard)) == count
    assert sum(map(len, splits)) == len(corpus.table)
  pairs = [' '.join(speakers(corpus, f.test, f.dev)) for f in folds]
  # The development speaker is the neighbour.
  if count == 5:
    assert pairs == ['s0 s1', 's1 s0', 's2 s3', 's3 s2', 's4 s3']


def test_official_split_needs_its_column(corpus):
  refused("split is 'train'", protocols.make_folds, corpus, 'official')
  splits = np.array(['train', 'dev', 'test'] * 15)
  (fold,) = protocols.make_folds(with_table(corpus, splits=splits), 'official')
  np.testing.assert_array_equal(fold.dev, np.arange(1, 45, 3))


def test_cross_corpus_trains_on_one_and_tests_on_the_other(corpus):
  def make(tested, how='all', test_corpus='other'):
    parts = np.where(np.isin(corpus.table.speakers, tested), 'other', 'fake')
    both = dataclasses.replace(corpus, parts=parts)
    options = {'test_corpus': test_corpus, 'cross_corpus_train': how}
    folds = protocols.make_folds(both, 'cross_corpus', **options)
    for fold in folds:
      np.testing.assert_array_equal(fold.test, np.flatnonzero(parts == 'other'))
    return [' '.join(speakers(corpus, f.train, f.dev)) for f in folds]

  assert make(['s4']) == ['s0s1s2s3 ']
  assert make(['s4'], 'held_out') == ['s0s1s2 s3']
  # The pairs of a single corpus of s0, s2 and s3; the one left out is in none.
  assert make(['s1', 's4'], 'speakers') == ['s3 s2', 's3 s0', 's0 s2']
  refused('0 to test', make, ['s4'], test_corpus='third')


def test_class_without_training_utterance_is_refused(corpus):
  labels = corpus.table.labels.copy()
  labels[labels == 1] = 0
  labels[0] = 1  # The only one left; its fold cannot train on it.
  odd = with_table(corpus, labels=labels)
  message = r'fold \d: no training utterance of .* fear'
  refused(message, protocols.make_folds, odd, 'published', num_folds=5)


def test_advice_on_speakers_helps():
  corpus = fakes.corpus(speakers=2, repeats=15)
  make = functools.partial(protocols.make_folds, protocol='speaker_independent')
  refused(r'at least 3 .* has 2\. Use protocol=published', make, corpus)
  # A name with a letter missing makes a speaker of one utterance.
  names = corpus.table.speakers.copy()
  names[7] = 's'
  message = "speaker 's' has 1 of 90 utterances: correct .* protocol=published"
  refused(message, make, with_table(corpus, speakers=names))
  names[7] = ''
  message = f"'{corpus.table.ids[7]}' has no speaker"
  refused(message, make, with_table(corpus, speakers=names))


def test_folds_file_reads_back_and_names_what_is_wrong(corpus, tmp_path):
  path = tmp_path / 'folds.json'
  ids = corpus.table.ids.astype('U20')
  ids[:2] = 'clip  0', '\udcc9\udcfa.wav'  # Blanks, and a GBK file name.
  corpus = with_table(corpus, ids=ids)
  folds = protocols.make_folds(corpus, 'speaker_independent')
  content = protocols.folds_to_json(folds, corpus, protocol='x', seed=0)
  protocols.write_folds(path, content)
  again = protocols.read_folds(path, corpus)
  for one, other in zip(folds, again, strict=True):
    for split in ('train', 'dev', 'test'):
      np.testing.assert_array_equal(getattr(one, split), getattr(other, split))

  broken = json.loads(path.read_text())
  broken['folds'][0]['test'].append(broken['folds'][0]['train'][0])
  protocols.write_folds(path, broken)
  refused('in train and in test', protocols.read_folds, path, corpus)
  broken['folds'][0]['test'][-1] = 'nobody'
  protocols.write_folds(path, broken)
  refused("the first is 'nobody'", protocols.read_folds, path, corpus)
  path.write_text('{}')
  refused('not a folds file', protocols.read_folds, path, corpus)
  refused('does not exist', protocols.read_folds, tmp_path / 'none', corpus)
