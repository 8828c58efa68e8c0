"""Buckets: the best lengths, full batches, and how little padding is left."""

import itertools

import numpy as np
import soundfile

from configs import emosphere
from jaxser.data import buckets, pipeline
from jaxser.data.corpus import Corpus, Table
from tests import shared

RATE = 16_000


def _source(seconds, buckets_wanted, longest=192_000):
  """Waveforms of these durations, of which nothing is ever read."""
  count = len(seconds)
  text = np.full(count, 'x')
  table = Table(
    ids=np.arange(count).astype(str),
    labels=np.zeros(count, np.int32),
    speakers=text,
    genders=text,
    texts=text,
    splits=text,
    durations=np.asarray(seconds, np.float32),
    vad=np.zeros((count, 3), np.float32),
  )
  info = {
    'max_length': int(np.ceil(RATE * np.max(seconds))),
    'feature_bins': None,
    'frames_per_second': float(RATE),
    'parameters': {},
  }
  corpus = Corpus('x', (), (1, 5), table, {'x': info}, lambda row: row, text)
  return pipeline.Source(
    corpus, max_length=longest, num_buckets=buckets_wanted, cache_gib=0
  )


def test_chosen_lengths_are_the_best_there_are():
  rng = np.random.default_rng(0)
  lengths = rng.integers(3, 25, 40)

  def cost(chosen):
    chosen = np.array(chosen)
    return chosen[buckets.bucket_of(lengths, chosen)].sum()

  for count in (1, 2, 3, 4):
    got = buckets.best(lengths, count, 24)
    assert got[-1] == 24
    assert len(got) == count
    others = itertools.combinations(range(1, 24), count - 1)
    assert cost(got) == min(cost((*c, 24)) for c in others)


def test_few_lengths_need_few_buckets():
  assert buckets.best(np.array([5, 5, 9]), 8, 12) == (5, 12)
  assert buckets.best(np.array([30, 40]), 3, 12) == (12,)


def test_all_batches_but_the_last_are_full():
  rng = np.random.default_rng(1)
  lengths = rng.integers(1, 100, 77)
  chosen = (20, 50, 100)
  bucket = buckets.bucket_of(lengths, chosen)
  order = rng.permutation(77)
  found = list(buckets.batches(order, bucket, 8, chosen))
  sizes = [len(rows) for rows, _ in found]
  assert sorted(sizes) == [5] + [8] * 9
  shortest = [length for _, length in found].count(20)
  assert sizes.index(5) == shortest - 1
  assert [length for _, length in found] == sorted(x for _, x in found)
  rows = np.concatenate([rows for rows, _ in found])
  np.testing.assert_array_equal(np.sort(rows), np.arange(77))
  assert {length for _, length in found} <= set(chosen)
  for rows, length in found:
    assert lengths[rows].max() <= length


def _podcast(count=20_000):
  """Segments of 2.75 to 11 s, short ones more often, as MSP-Podcast has."""
  drawn = np.random.default_rng(2).lognormal(1.6, 0.45, 4 * count)
  return drawn[(drawn >= 2.75) & (drawn <= 11)][:count]


def _emodb():
  paths = sorted(shared.require('corpora/emodb').rglob('*.wav'))
  return [soundfile.info(path).duration for path in paths]


def _share(durations, config):
  """Padding of an epoch with the buckets of the recipe, and with one."""
  shares = []
  for wanted in (config.data.num_buckets, 1):
    source = _source(durations, wanted, config.data.max_length)
    sampler = pipeline.Sampler(
      rows=np.arange(len(source.lengths)),
      lengths=source.lengths,
      batch_size=config.batch_size,
      padded_size=config.batch_size,
      buckets=source.buckets,
      seed=(0,),
    )
    shares.append(pipeline.padding_share(source, sampler.epoch(0)))
  return shares


def test_padding_is_under_a_tenth_of_the_frames():
  config = emosphere.get_config('encoder=wavlm,corpus=msp_podcast')
  with_buckets, without = _share(_podcast(), config)
  assert with_buckets < 0.1 < 0.4 < without


def test_padding_of_a_corpus_of_nine_batches_is_less_than_half():
  config = emosphere.get_config('encoder=wavlm,corpus=emotale')
  with_buckets, without = _share(_emodb(), config)
  assert with_buckets < 0.3 < 0.6 < without
