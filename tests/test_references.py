"""Neutral references: same speaker, same split, the documented rule, the seed."""

import types

import numpy as np
import pytest

from jaxser.data.references import find_references

NEUTRAL = 2


def corpus_of(speakers, labels, classes=('angry', 'happy', 'neutral', 'sad')):
  speakers, labels = np.asarray(speakers), np.asarray(labels)
  table = types.SimpleNamespace(speakers=speakers, labels=labels)
  return types.SimpleNamespace(table=table, classes=classes)


def draws(references, count):
  return np.stack([references.draw(0, 0, epoch) for epoch in range(count)])


@pytest.fixture
def corpus():
  """Speakers a to e with 12 utterances each, shuffled."""
  order = np.random.default_rng(0).permutation(60)
  speakers, labels = np.repeat(list('abcde'), 12), np.tile(np.arange(4), 15)
  return corpus_of(speakers[order], labels[order])


def test_references_are_the_speakers_first_neutral_ones_of_the_split(corpus):
  speakers, labels = corpus.table.speakers, corpus.table.labels
  # A random split, whose order does not matter: every speaker is in both.
  split = np.random.default_rng(1).permutation(60)[:40]
  drawn = draws(find_references(corpus, split, num_references=2), 50)
  for position, row in enumerate(split):
    own = (speakers == speakers[row]) & (labels == NEUTRAL)
    first = np.intersect1d(np.flatnonzero(own), split)[:2]
    assert set(drawn[:, position]) == set(first)
  # Fewer than asked for.
  few = corpus_of(['a', 'a', 'b', 'b', 'b'], [0, 2, 2, 2, 1])
  drawn = draws(find_references(few, np.arange(5)), 40)
  assert (set(drawn[:, 0]), set(drawn[:, 4])) == ({1}, {2, 3})


def test_a_draw_depends_on_seed_fold_epoch_and_row_alone(corpus):
  everyone = find_references(corpus, np.arange(60))
  drawn = draws(everyone, 300)
  assert np.any(drawn == np.arange(60)[None])  # Itself, too.
  for column in drawn.T:
    counts = np.unique(column, return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() > 60
  base = everyone.draw(1, 2, 3)
  np.testing.assert_array_equal(base, everyone.draw(1, 2, 3))
  for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
    assert np.any(base != everyone.draw(*other))
  # Without a speaker, or in another order, the others keep their references.
  some = np.flatnonzero(corpus.table.speakers != 'c')[::-1]
  references = find_references(corpus, some)
  np.testing.assert_array_equal(references.draw(1, 2, 3), base[some])


def test_what_is_missing_is_named(corpus):
  is_d = corpus.table.speakers == 'd'
  rows = np.flatnonzero(~(is_d & (corpus.table.labels == NEUTRAL)))
  many = corpus_of([f's{i}' for i in range(8)], np.zeros(8, int))
  unnamed = corpus_of(['a', '', ''], [2, 2, 2])
  without = corpus_of(['a'], [0], ('angry', 'sad'))
  for odd, split, message in (
    (corpus, rows, 'No neutral utterance of speaker d in'),
    (many, range(8), 's0, s1, s2, s3, s4 and 3 more in'),
    (unnamed, range(3), '2 utterances have no speaker'),
    (without, range(1), "no class 'neutral' among angry, sad"),
  ):
    with pytest.raises(ValueError, match=message):
      find_references(odd, split)
  with pytest.raises(ValueError, match='num_references=0 must be at least 1'):
    find_references(corpus, np.arange(1), num_references=0)
