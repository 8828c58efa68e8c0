"""Probes find what is there, do not find what is not, and never peek."""

import numpy as np

from jaxser.evaluation import probes


def blobs(labels, width=6):
  """Points around one centre per label."""
  rng = np.random.default_rng(0)
  names, number = np.unique(labels, return_inverse=True)
  centres = 6 * np.random.default_rng(1).standard_normal((len(names), width))
  return centres[number] + rng.standard_normal((len(labels), width))


def counts(found):
  return found['classes'], found['fitted'], found['scored']


def test_speaker_probe_finds_speakers_where_they_are():
  speakers = np.repeat(['a', 'b', 'c'], 40)
  noise = np.random.default_rng(0).standard_normal((120, 6))
  found = probes.speaker_probe(
    {'kept': blobs(speakers), 'removed': noise}, speakers
  )
  assert counts(found) == (3, 90, 30)
  assert found['spaces']['kept'] > 0.95
  # Three standard errors of thirty guesses.
  assert abs(found['spaces']['removed'] - 1 / 3) < 0.26


def test_scored_utterances_are_others_of_the_same_speakers():
  speakers = np.array(['a'] * 9 + ['b'] * 8 + [''] * 5 + ['c'] * 3)
  # A probe that remembers every utterance by its number has learnt no speaker.
  found = probes.speaker_probe({'space': np.eye(len(speakers))}, speakers)
  assert counts(found) == (2, 13, 4)
  assert found['spaces']['space'] == 0.5


def test_emotion_probe_goes_from_one_split_to_the_other():
  train = np.tile(['angry', 'happy', 'sad'], 30)
  test = np.array(['angry', 'sad'] * 10 + [''])
  together = blobs(np.concatenate([train, np.where(test == '', 'sad', test)]))
  found = probes.emotion_probe(
    {'space': together[:90]}, train, {'space': together[90:]}, test
  )
  assert counts(found) == (3, 90, 20)
  assert found['spaces']['space'] > 0.95


def test_what_cannot_be_probed_is_none():
  values = {'space': np.zeros((8, 3))}
  for labels in (np.array(['a'] * 8), np.array([''] * 8)):
    assert probes.speaker_probe(values, labels) is None
    assert probes.emotion_probe(values, labels, values, labels) is None


def test_summary_over_folds():
  def fold(share, classes=4):
    about = {'classes': classes, 'fitted': 30, 'scored': 10}
    speaker = {**about, 'spaces': {'relevant': share}}
    return {'emotion': None, 'speaker': speaker}

  nothing = {'emotion': None, 'speaker': None}
  found = probes.summarise([fold(0.5), nothing, fold(0.7, classes=5)])
  space = {'mean': 60.0, 'std': 14.14, 'per_fold': [50, None, 70]}
  about = {'classes': [4, 5], 'folds': 2, 'fitted': 60, 'scored': 20}
  assert found == {
    'speaker': {'chance': 22.5, **about, 'spaces': {'relevant': space}}
  }
  one = probes.summarise([fold(0.5)])['speaker']['spaces']['relevant']
  assert one == {'mean': 50.0, 'std': None, 'per_fold': [50.0]}


def test_2d_view_keeps_groups_together_and_is_reproducible():
  labels = np.repeat(['a', 'b', 'c'], 20)
  values = blobs(labels, width=60)
  places = probes.tsne_2d(values)
  assert (places.shape, places.dtype) == ((60, 2), np.float32)
  np.testing.assert_array_equal(places, probes.tsne_2d(values))
  distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
  np.fill_diagonal(distance, np.inf)
  assert np.mean(labels[distance.argmin(1)] == labels) > 0.95


def test_2d_view_of_little_to_see():
  for count in (1, 3, 20):
    places = probes.tsne_2d(np.ones((count, 5)))
    np.testing.assert_array_equal(places, np.zeros((count, 2)))
  values = np.zeros((12, 8))
  values[:, 3] = np.arange(12)  # A single unit lives.
  assert np.isfinite(probes.tsne_2d(values)).all()


def test_subsampling_is_even_and_keeps_order():
  rows = np.arange(100, 1100)
  few = probes.subsampled(rows, 11)
  assert (len(few), few[0], few[-1]) == (11, 100, 1099)
  assert np.ptp(np.diff(few)) <= 1
  np.testing.assert_array_equal(probes.subsampled(rows[:5], 11), rows[:5])
