"""Neutral partners: same speaker, same side, the documented rule, the seed."""

import numpy as np
import pytest

from jaxser.data.partners import find_partners, neutral_label

NEUTRAL = 2


@pytest.fixture
def table():
  """Speakers a to e with 12 utterances each, shuffled; labels 0 to 3."""
  rng = np.random.default_rng(0)
  speakers = np.repeat(list('abcde'), 12)
  labels = np.tile(np.arange(4), 15)
  order = rng.permutation(60)
  return speakers[order], labels[order]


def test_partner_is_a_neutral_one_of_the_speaker_from_the_same_side(table):
  speakers, labels = table
  # A random split: every speaker is on both sides.
  side = np.random.default_rng(1).permutation(60)[:40]
  partners = find_partners(speakers, labels, NEUTRAL, side)
  for chosen in (
    partners.evaluation(),
    partners.training(0, 0, 0),
    partners.training(1, 4, 9),
  ):
    assert chosen.shape == (40,)
    np.testing.assert_array_equal(speakers[chosen], speakers[side])
    np.testing.assert_array_equal(labels[chosen], NEUTRAL)
    assert set(chosen) <= set(side)


def test_references_are_the_first_three_in_manifest_order(table):
  speakers, labels = table
  rows = np.arange(60)[::-1]  # The order of the side does not matter.
  partners = find_partners(speakers, labels, NEUTRAL, rows, num_references=2)
  drawn = np.stack([partners.training(3, 0, e) for e in range(50)])
  for position, row in enumerate(rows):
    own = np.flatnonzero((speakers == speakers[row]) & (labels == NEUTRAL))
    assert partners.evaluation()[position] == own[0]
    assert set(drawn[:, position]) == set(own[:2])


def test_an_utterance_may_be_its_own_partner_and_draws_are_even(table):
  speakers, labels = table
  partners = find_partners(speakers, labels, NEUTRAL, np.arange(60))
  drawn = np.stack([partners.training(0, 0, e) for e in range(300)])
  assert np.any(drawn == np.arange(60)[None])
  for column in drawn.T:
    counts = np.unique(column, return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() > 60


def test_draw_depends_on_seed_fold_epoch_and_row_alone(table):
  speakers, labels = table
  everyone = find_partners(speakers, labels, NEUTRAL, np.arange(60))
  base = everyone.training(1, 2, 3)
  np.testing.assert_array_equal(base, everyone.training(1, 2, 3))
  for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
    assert np.any(base != everyone.training(*other))
  # Leaving a speaker out, or another order, changes nobody else's partner.
  some = np.flatnonzero(speakers != 'c')[::-1]
  partners = find_partners(speakers, labels, NEUTRAL, some)
  np.testing.assert_array_equal(partners.training(1, 2, 3), base[some])


def test_fewer_references_than_asked_for():
  partners = find_partners(
    ['a', 'a', 'b', 'b', 'b'], [0, 2, 2, 2, 1], NEUTRAL, np.arange(5)
  )
  drawn = np.stack([partners.training(0, 0, e) for e in range(40)])
  assert set(drawn[:, 0]) == {1}
  assert set(drawn[:, 4]) == {2, 3}


def test_speaker_without_neutral_speech_is_named(table):
  speakers, labels = table
  rows = np.flatnonzero(~((speakers == 'd') & (labels == NEUTRAL)))
  with pytest.raises(ValueError, match='No neutral utterance of speaker d on'):
    find_partners(speakers, labels, NEUTRAL, rows)
  many = [f's{i}' for i in range(8)]
  with pytest.raises(ValueError, match='s0, s1, s2, s3, s4 and 3 more'):
    find_partners(many, np.zeros(8, int), NEUTRAL, np.arange(8))


def test_unknown_speaker_and_bad_settings():
  with pytest.raises(ValueError, match='2 utterances have no speaker'):
    find_partners(['a', '', ''], [2, 2, 2], NEUTRAL, np.arange(3))
  with pytest.raises(ValueError, match='num_references=0 must be at least 1'):
    find_partners(['a'], [2], NEUTRAL, np.arange(1), num_references=0)


def test_neutral_class_is_found_by_name():
  assert neutral_label(('angry', 'happy', 'neutral')) == 2
  with pytest.raises(ValueError, match="no class 'neutral' among angry, sad"):
    neutral_label(['angry', 'sad'])
