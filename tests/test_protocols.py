import dataclasses
import functools
import json

import numpy as np
import pytest
from sklearn import model_selection

from jaxser.data import protocols
from tests import fakes, shared


@pytest.fixture
def corpus():
  return fakes.corpus(speakers=5, repeats=3)


def is_partition(folds, corpus):
  tested = np.sort(np.concatenate([fold.test for fold in folds]))
  return np.array_equal(tested, np.arange(len(corpus.table)))


def with_table(corpus, **columns):
  return dataclasses.replace(
    corpus, table=dataclasses.replace(corpus.table, **columns)
  )


def test_published_folds_are_scikit_learns_and_test_everyone_once(corpus):
  folds = protocols.make_folds(corpus, 'published', num_folds=5, seed=46)
  cut = model_selection.KFold(5, shuffle=True, random_state=46)
  for fold, (train, test) in zip(
    folds, cut.split(corpus.table.ids), strict=True
  ):
    np.testing.assert_array_equal(fold.train, train)
    np.testing.assert_array_equal(fold.test, test)
    assert not len(fold.dev)
  assert is_partition(folds, corpus)


def test_published_emodb_fold_holds_the_published_files(corpus):
  order = shared.require('goldens/emodb_published_order.txt')
  names = order.read_text().split()
  assert len(names) == 535
  table = dataclasses.replace(
    corpus.table.take(np.zeros(535, int)), ids=np.array(names)
  )
  big = dataclasses.replace(corpus, table=table, classes=('angry',))
  folds = protocols.make_folds(big, 'published', num_folds=10, seed=46)
  assert [len(fold.test) for fold in folds] == [54] * 5 + [53] * 5


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
  with pytest.raises(
    protocols.ProtocolError, match='has 300, of which 300 dev'
  ):
    protocols.make_folds(few, 'published', every_class=False)


def test_all_trains_on_every_utterance_and_tests_none(corpus, tmp_path):
  (fold,) = protocols.make_folds(corpus, 'all')
  assert (len(fold.train), len(fold.dev), len(fold.test)) == (45, 0, 0)
  path = tmp_path / 'folds.json'
  protocols.write_folds(path, protocols.folds_to_json([fold], corpus))
  (again,) = protocols.read_folds(path, corpus)
  np.testing.assert_array_equal(again.train, fold.train)
  # No other fold may test nobody.
  fewer = dataclasses.replace(fold, train=fold.train[1:])
  with pytest.raises(protocols.ProtocolError, match='fold 0 has no test'):
    protocols.check_folds([fewer], corpus)


@pytest.mark.parametrize('speakers', [3, 4, 5, 12, 13, 30])
def test_no_speaker_is_in_two_splits(speakers):
  corpus = fakes.corpus(speakers=speakers)
  folds = protocols.make_folds(
    corpus, 'speaker_independent', num_folds=6, seed=3
  )
  assert len(folds) == (speakers if speakers <= 12 else 6)
  assert is_partition(folds, corpus)
  for fold in folds:
    splits = [
      set(corpus.table.speakers[rows])
      for rows in (fold.train, fold.dev, fold.test)
    ]
    assert all(splits)
    assert len(set.union(*splits)) == sum(map(len, splits)) == speakers
    assert len(fold.train) + len(fold.dev) + len(fold.test) == len(corpus.table)


def test_development_speaker_is_the_neighbour(corpus):
  folds = protocols.make_folds(corpus, 'speaker_independent')
  pairs = [
    (set(corpus.table.speakers[f.test]), set(corpus.table.speakers[f.dev]))
    for f in folds
  ]
  expected = [('s0', 's1'), ('s1', 's0'), ('s2', 's3'), ('s3', 's2')]
  assert pairs[:4] == [({test}, {dev}) for test, dev in expected]
  assert pairs[4] == ({'s4'}, {'s3'})


def test_official_split_needs_its_column(corpus):
  with pytest.raises(protocols.ProtocolError, match="split is 'train'"):
    protocols.make_folds(corpus, 'official')
  splits = np.array(['train', 'dev', 'test'] * 15)
  (fold,) = protocols.make_folds(with_table(corpus, splits=splits), 'official')
  np.testing.assert_array_equal(fold.dev, np.arange(1, 45, 3))


def test_cross_corpus_trains_on_one_and_tests_on_the_other(corpus):
  parts = np.where(corpus.table.speakers == 's4', 'other', 'fake')
  both = dataclasses.replace(corpus, parts=parts)
  (fold,) = protocols.make_folds(both, 'cross_corpus', test_corpus='other')
  assert set(corpus.table.speakers[fold.test]) == {'s4'}
  assert set(corpus.table.speakers[fold.train]) == {'s0', 's1', 's2', 's3'}
  assert not len(fold.dev)
  (fold,) = protocols.make_folds(
    both, 'cross_corpus', test_corpus='other', cross_corpus_train='held_out'
  )
  assert set(corpus.table.speakers[fold.dev]) == {'s3'}
  assert set(corpus.table.speakers[fold.train]) == {'s0', 's1', 's2'}
  with pytest.raises(protocols.ProtocolError, match='0 to test'):
    protocols.make_folds(both, 'cross_corpus', test_corpus='third')


def test_across_corpora_each_speaker_left_out_gives_a_model(corpus):
  tested = np.isin(corpus.table.speakers, ['s1', 's4'])
  both = dataclasses.replace(corpus, parts=np.where(tested, 'other', 'fake'))
  folds = protocols.make_folds(
    both, 'cross_corpus', test_corpus='other', cross_corpus_train='speakers'
  )
  sides = [
    (set(corpus.table.speakers[f.train]), set(corpus.table.speakers[f.dev]))
    for f in folds
  ]
  # The pairs of a single corpus of s0, s2 and s3; the one left out is in none.
  assert sides == [
    ({'s3'}, {'s2'}),
    ({'s3'}, {'s0'}),
    ({'s0'}, {'s2'}),
  ]
  for fold in folds:
    np.testing.assert_array_equal(fold.test, np.flatnonzero(tested))


def test_class_without_training_utterance_is_refused(corpus):
  labels = corpus.table.labels.copy()
  labels[labels == 1] = 0
  labels[0] = 1  # The only one left; its fold cannot train on it.
  with pytest.raises(
    protocols.ProtocolError, match=r'fold \d: no training utterance of .* fear'
  ):
    protocols.make_folds(
      with_table(corpus, labels=labels), 'published', num_folds=5
    )


def test_advice_on_speakers_helps():
  corpus = fakes.corpus(speakers=2, repeats=15)
  with pytest.raises(
    protocols.ProtocolError,
    match=r'at least 3 .* has 2\. Use protocol=published',
  ):
    protocols.make_folds(corpus, 'speaker_independent')
  # A name with a letter missing makes a speaker of one utterance.
  speakers = corpus.table.speakers.copy()
  speakers[7] = 's'
  typo = with_table(corpus, speakers=speakers)
  with pytest.raises(
    protocols.ProtocolError,
    match=r"speaker 's' has 1 of 90 utterances: correct .* protocol=published",
  ):
    protocols.make_folds(typo, 'speaker_independent')
  speakers[7] = ''
  unnamed = with_table(corpus, speakers=speakers)
  with pytest.raises(
    protocols.ProtocolError, match=f"'{corpus.table.ids[7]}' has no speaker"
  ):
    protocols.make_folds(unnamed, 'speaker_independent')


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
    for side in ('train', 'dev', 'test'):
      np.testing.assert_array_equal(getattr(one, side), getattr(other, side))

  broken = json.loads(path.read_text())
  broken['folds'][0]['test'].append(broken['folds'][0]['train'][0])
  protocols.write_folds(path, broken)
  with pytest.raises(protocols.ProtocolError, match='in train and in test'):
    protocols.read_folds(path, corpus)
  broken['folds'][0]['test'][-1] = 'nobody'
  protocols.write_folds(path, broken)
  with pytest.raises(protocols.ProtocolError, match="the first is 'nobody'"):
    protocols.read_folds(path, corpus)
  path.write_text('{}')
  with pytest.raises(protocols.ProtocolError, match='not a folds file'):
    protocols.read_folds(path, corpus)
  with pytest.raises(protocols.ProtocolError, match='does not exist'):
    protocols.read_folds(tmp_path / 'none.json', corpus)
