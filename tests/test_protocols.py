import dataclasses
import json

import numpy as np
import pytest
from sklearn import model_selection

from jaxser.data import protocols
from tests import fakes, shared


@pytest.fixture
def corpus():
  return fakes.corpus(speakers=5, repeats=3)


def test_published_folds_are_scikit_learns_and_test_everyone_once(corpus):
  folds = protocols.make_folds(corpus, 'published', num_folds=5, seed=46)
  cut = model_selection.KFold(5, shuffle=True, random_state=46)
  for fold, (train, test) in zip(
    folds, cut.split(corpus.table.ids), strict=True
  ):
    np.testing.assert_array_equal(fold.train, train)
    np.testing.assert_array_equal(fold.test, test)
    assert not len(fold.dev)
  assert protocols.is_partition(folds, len(corpus.table))


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


@pytest.mark.parametrize('speakers', [3, 4, 5, 12, 13, 30])
def test_no_speaker_is_on_two_sides(speakers):
  corpus = fakes.corpus(speakers=speakers)
  folds = protocols.make_folds(
    corpus, 'speaker_independent', num_folds=6, seed=3
  )
  assert len(folds) == (speakers if speakers <= 12 else 6)
  assert protocols.is_partition(folds, len(corpus.table))
  for fold in folds:
    sides = [
      set(corpus.table.speakers[rows])
      for rows in (fold.train, fold.dev, fold.test)
    ]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
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
  table = dataclasses.replace(corpus.table, splits=splits)
  (fold,) = protocols.make_folds(
    dataclasses.replace(corpus, table=table), 'official'
  )
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
  table = dataclasses.replace(corpus.table, labels=labels)
  lonely = dataclasses.replace(corpus, table=table)
  with pytest.raises(
    protocols.ProtocolError, match=r'fold \d: no training utterance of .* fear'
  ):
    protocols.make_folds(lonely, 'published', num_folds=5)


def test_missing_speaker_names_the_utterance(corpus):
  speakers = corpus.table.speakers.copy()
  speakers[7] = ''
  table = dataclasses.replace(corpus.table, speakers=speakers)
  with pytest.raises(
    protocols.ProtocolError, match=f'{corpus.table.ids[7]}.*no speaker'
  ):
    protocols.make_folds(
      dataclasses.replace(corpus, table=table), 'speaker_independent'
    )


def test_two_speakers_are_too_few():
  with pytest.raises(protocols.ProtocolError, match='at least 3 speakers'):
    protocols.make_folds(fakes.corpus(speakers=2), 'speaker_independent')


def test_folds_file_reads_back_and_names_what_is_wrong(corpus, tmp_path):
  path = tmp_path / 'folds.json'
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
