"""Folds: who trains, develops and tests, and what cannot be split."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import model_selection

from jaxser.data import protocols
from tests import fakes


@pytest.fixture
def corpus():
  return fakes.corpus(speakers=5, repeats=3)


def with_table(corpus, **columns):
  table = dataclasses.replace(corpus.table, **columns)
  return dataclasses.replace(corpus, table=table)


def make(corpus, *protocol, **options):
  return protocols.make_folds(corpus, *protocol, **options)


def refused(message, make, *args, **more):
  with pytest.raises(protocols.ProtocolError, match=message):
    make(*args, **more)


def speakers(corpus, *splits):
  """The speakers of each split, as text."""
  return [''.join(sorted({*corpus.table.speakers[rows]})) for rows in splits]


def test_published_folds_are_scikit_learns_and_test_everyone_once(corpus):
  folds = make(corpus, 'published', num_folds=5, seed=46)
  cut = model_selection.KFold(5, shuffle=True, random_state=46)
  splits = cut.split(corpus.table.ids)
  for fold, (train, test) in zip(folds, splits, strict=True):
    np.testing.assert_array_equal(fold.train, train)
    np.testing.assert_array_equal(fold.test, test)
    assert not len(fold.dev)


def test_a_published_regression_cuts_the_development_split():
  corpus = fakes.corpus(speakers=10, repeats=50)
  rows = np.arange(1500)
  labels = np.where(rows % 100, corpus.table.labels, -1)  # Another class.
  splits = np.where(rows % 5, 'dev', np.where(rows % 10, 'train', 'test'))
  corpus = with_table(corpus, labels=labels, splits=splits)
  any_class = {'every_class': False}
  (fold,) = make(corpus, 'published', seed=3, **any_class)
  np.testing.assert_array_equal(fold.train, np.flatnonzero(splits == 'train'))
  # 400 of each class, of which 300 develop; the official test split is unused.
  assert np.bincount(labels[fold.dev]).tolist() == [300] * 3
  assert len(fold.test) == 1200 - 900
  assert set(splits[fold.dev]) == set(splits[fold.test]) == {'dev'}
  (again,) = make(corpus, 'published', seed=3, **any_class)
  (other,) = make(corpus, 'published', **any_class)
  np.testing.assert_array_equal(again.dev, fold.dev)
  assert not np.array_equal(other.dev, fold.dev)
  # Classes have random folds as ever.
  assert len(make(corpus, 'published', num_folds=5)) == 5
  few = with_table(corpus, splits=np.where(rows % 5 == 1, 'dev', 'train'))
  refused('has 300, of which 300 dev', make, few, 'published', **any_class)


def test_all_trains_on_every_utterance_and_tests_none(corpus):
  (fold,) = make(corpus, 'all')
  assert (len(fold.train), len(fold.dev), len(fold.test)) == (45, 0, 0)
  # No other fold may test nobody.
  fewer = dataclasses.replace(fold, train=fold.train[1:])
  refused('fold 0 has no test', protocols.check_folds, [fewer], corpus)


@pytest.mark.parametrize('count', [3, 4, 5, 12, 13, 30])
def test_no_speaker_is_in_two_splits(count):
  corpus = fakes.corpus(speakers=count)
  folds = make(corpus, 'speaker_independent', num_folds=6, seed=3)
  assert len(folds) == (count if count <= 12 else 6)
  tested = np.sort(np.concatenate([fold.test for fold in folds]))
  np.testing.assert_array_equal(tested, np.arange(len(corpus.table)))
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
  refused("split is 'train'", make, corpus, 'official')
  splits = np.array(['train', 'dev', 'test'] * 15)
  (fold,) = make(with_table(corpus, splits=splits), 'official')
  np.testing.assert_array_equal(fold.dev, np.arange(1, 45, 3))


def test_cross_corpus_trains_on_one_and_tests_on_the_other(corpus):
  def sides(tested, how='all', test_corpus='other'):
    parts = np.where(np.isin(corpus.table.speakers, tested), 'other', 'fake')
    both = dataclasses.replace(corpus, parts=parts)
    options = {'test_corpus': test_corpus, 'cross_corpus_train': how}
    folds = make(both, 'cross_corpus', **options)
    for fold in folds:
      np.testing.assert_array_equal(fold.test, np.flatnonzero(parts == 'other'))
    return [' '.join(speakers(corpus, f.train, f.dev)) for f in folds]

  assert sides(['s4']) == ['s0s1s2s3 ']
  assert sides(['s4'], 'held_out') == ['s0s1s2 s3']
  # The pairs of a single corpus of s0, s2 and s3; the one left out is in none.
  assert sides(['s1', 's4'], 'speakers') == ['s3 s2', 's3 s0', 's0 s2']
  refused('0 to test', sides, ['s4'], test_corpus='third')


def test_advice_on_speakers_helps():
  corpus = fakes.corpus(speakers=2, repeats=15)
  few = r'at least 3 .* has 2\. Use protocol=published'
  refused(few, make, corpus, 'speaker_independent')
  # A name with a letter missing makes a speaker of one utterance.
  once = "speaker 's' has 1 of 90 utterances: correct .* protocol=published"
  none = f"'{corpus.table.ids[7]}' has no speaker"
  for name, message in (('s', once), ('', none)):
    names = corpus.table.speakers.copy()
    names[7] = name
    odd = with_table(corpus, speakers=names)
    refused(message, make, odd, 'speaker_independent')


def test_folds_file_reads_back_and_names_what_is_wrong(corpus, tmp_path):
  path = tmp_path / 'folds.json'
  ids = corpus.table.ids.astype('U20')
  ids[:2] = 'clip  0', '\udcc9\udcfa.wav'  # Blanks, and a GBK file name.
  corpus = with_table(corpus, ids=ids)
  folds = make(corpus, 'speaker_independent')
  content = protocols.folds_to_json(folds, corpus, protocol='x', seed=0)
  protocols.write_folds(path, content)
  again = protocols.read_folds(path, corpus)
  for one, other in zip(folds, again, strict=True):
    for split in ('train', 'dev', 'test'):
      np.testing.assert_array_equal(getattr(one, split), getattr(other, split))

  for more, message in (
    (content['folds'][0]['train'][0], 'in train and in test'),
    ('nobody', "the first is 'nobody'"),
  ):
    broken = json.loads(path.read_text())
    broken['folds'][0]['test'].append(more)
    protocols.write_folds(tmp_path / 'broken', broken)
    refused(message, protocols.read_folds, tmp_path / 'broken', corpus)
  path.write_text('{}')
  refused('not a folds file', protocols.read_folds, path, corpus)
  refused('does not exist', protocols.read_folds, tmp_path / 'none', corpus)
