"""Buckets: the best lengths, full batches, and how little padding is left."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile

from configs import emosphere
from jaxser.data import buckets, pipeline
from tests import fakes, shared


def test_chosen_lengths_are_the_best_there_are():
  lengths = np.random.default_rng(0).integers(3, 25, 40)

  def cost(chosen):
    chosen = np.array(chosen)
    return chosen[buckets.bucket_of(lengths, chosen)].sum()

  for count in (1, 2, 3, 4):
    got = buckets.best(lengths, count, 24)
    assert got[-1] == 24
    assert len(got) == count
    others = itertools.combinations(range(1, 24), count - 1)
    assert cost(got) == min(cost((*c, 24)) for c in others)
  # Few lengths need few buckets.
  assert buckets.best(np.array([5, 5, 9]), 8, 12) == (5, 12)
  assert buckets.best(np.array([30, 40]), 3, 12) == (12,)


def test_all_batches_but_the_last_are_full():
  rng = np.random.default_rng(1)
  lengths = rng.integers(1, 100, 77)
  chosen = (20, 50, 100)
  found = buckets.batches(rng.permutation(77), lengths, 8, chosen)
  sizes = [len(rows) for rows, _ in found]
  padded = [length for _, length in found]
  assert sorted(sizes) == [5] + [8] * 9
  assert sizes.index(5) == padded.count(20) - 1
  assert padded == sorted(padded)
  assert set(padded) <= set(chosen)
  rows = np.concatenate([rows for rows, _ in found])
  np.testing.assert_array_equal(np.sort(rows), np.arange(77))
  for rows, length in found:
    assert lengths[rows].max() <= length


def _podcast(count=20_000):
  """Segments of 2.75 to 11 s, short ones more often, as MSP-Podcast has."""
  drawn = np.random.default_rng(2).lognormal(1.6, 0.45, 4 * count)
  return drawn[(drawn >= 2.75) & (drawn <= 11)][:count]


def _emodb():
  paths = sorted(shared.require('corpora/emodb').rglob('*.wav'))
  return np.array([soundfile.info(path).duration for path in paths])


@pytest.mark.parametrize(
  ('durations', 'corpus', 'most', 'least'),
  [(_podcast, 'msp_podcast', 0.1, 0.4), (_emodb, 'emotale', 0.3, 0.6)],
)
def test_padding_with_the_buckets_of_the_recipe_and_with_one(
  durations, corpus, most, least
):
  config = emosphere.get_config(f'encoder=wavlm,corpus={corpus}')
  seconds = durations()
  fake = fakes.corpus(bins=1)
  table = fake.table.take(np.zeros(len(seconds), int))
  longest = int(np.ceil(16_000 * seconds.max()))
  fake.stores['fake'].update(
    max_length=longest, feature_bins=None, frames_per_second=16_000.0
  )
  waves = dataclasses.replace(  # Of which nothing is ever read.
    fake, table=dataclasses.replace(table, durations=seconds.astype('f'))
  )
  shares = []
  for wanted in (config.data.num_buckets, 1):
    source = pipeline.Source(
      waves, max_length=config.data.max_length, num_buckets=wanted, cache_gib=0
    )
    size, rows = config.batch_size, np.arange(len(seconds))
    sampler = pipeline.Sampler(
      rows, source.lengths, size, size, source.buckets, seed=(0,)
    )
    shares.append(pipeline.padding_share(source, sampler.epoch(0)))
  assert shares[0] < most < least < shares[1]
