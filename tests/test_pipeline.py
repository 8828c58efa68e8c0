"""Batches: which rows, how padded, how often drawn, and the same from anywhere."""

import itertools
import re
import types

import numpy as np
import pytest

from jaxser.core.errors import ConfigError
from jaxser.data import pipeline
from jaxser.engine import experiment
from jaxser.systems.emosphere import EmoSphere
from tests import fakes, toys


@pytest.fixture(scope='module')
def corpus():
  return fakes.corpus(speakers=4, repeats=3, vary=True)


def make_sampler(corpus, **overrides):
  rows = np.arange(5, 35)
  settings = {'rows': rows, 'buckets': (12,), 'seed': (0, 1)}
  settings |= {'lengths': np.array([len(corpus.read(row)) for row in rows])}
  settings |= {'batch_size': 8, 'padded_size': 8}
  return pipeline.Sampler(**(settings | overrides))


def real(rows):
  return rows[rows != pipeline.PADDING_ROW]


def rows_of(slots):
  return [slot.rows.tolist() for slot in slots]


def test_every_row_once_per_epoch_and_another_order_each_time(corpus):
  sampler = make_sampler(corpus)
  orders = set()
  for epoch in range(3):
    rows = np.concatenate([slot.rows for slot in sampler.epoch(epoch)])
    assert len(rows) == sampler.steps_per_epoch * 8
    np.testing.assert_array_equal(np.sort(real(rows)), sampler.rows)
    orders.add(tuple(real(rows)))
  assert len(orders) == 3
  # Batches of several lengths come in any order.
  several = make_sampler(corpus, buckets=(8, 10, 12))
  lengths = []
  for epoch in range(4):
    slots = several.epoch(epoch)
    rows = real(np.concatenate([slot.rows for slot in slots]))
    np.testing.assert_array_equal(np.sort(rows), several.rows)
    lengths.append([slot.length for slot in slots])
  assert any(order != sorted(order) for order in lengths)
  again = rows_of(make_sampler(corpus).epoch(1))
  assert again == rows_of(sampler.epoch(1))
  assert again != rows_of(make_sampler(corpus, seed=(0, 2)).epoch(1))
  # Any position continues with the very next batch.
  everything = rows_of(sampler.from_position(0, 0, 3))
  assert len(everything) == 3 * sampler.steps_per_epoch
  for epoch, step in itertools.product(range(3), range(4)):
    rest = rows_of(sampler.from_position(epoch, step, 3))
    assert rest == everything[epoch * sampler.steps_per_epoch + step :]


def test_batch_pads_with_zeros_and_masks(corpus):
  source = pipeline.Source(corpus, max_length=10)
  rows = np.array([3, 20, pipeline.PADDING_ROW])
  batch = source.batch(pipeline.Slot(rows, 10), first_row=16)
  scaled = pipeline.Source(corpus, max_length=10, normalization=(3.0, 2.0))
  scaled = scaled.batch(pipeline.Slot(rows, 10))['features']
  for i, row in enumerate(rows[:2]):
    value = corpus.read(row)[:10]
    size = len(value)
    assert batch['length'][i] == size
    np.testing.assert_array_equal(batch['features'][i, :size], value)
    expected = (value - 3) / (2 + 1e-6)
    np.testing.assert_allclose(scaled[i, :size], expected, rtol=1e-5)
    # The mean is subtracted before zeros are appended.
    assert not batch['features'][i, size:].any()
    assert not scaled[i, size:].any()
    assert batch['label'][i] == corpus.table.labels[row]
    np.testing.assert_array_equal(batch['vad'][i], corpus.table.vad[row])
  assert not batch['features'][2].any()
  assert batch['label'][2] == -1
  np.testing.assert_array_equal(batch['mask'], [1, 1, 0])
  np.testing.assert_array_equal(batch['row'], [16, 17, 18])


def test_stream_equals_plain_assembly_from_memory_disk_and_processes(corpus):
  memory = pipeline.Source(corpus)
  disk = pipeline.Source(corpus, cache_gib=0)
  assert (memory.in_memory, disk.in_memory) == (True, False)
  slots = make_sampler(corpus).epoch(0)
  plain = [memory.batch(slot) for slot in slots]
  for source, count in ((memory, 1), (disk, 1), (memory, 4)):
    shares = [pipeline.stream(source, slots, i, count) for i in range(count)]
    for batch, *parts in zip(plain, *shares, strict=True):
      for name, value in batch.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(value, joined, err_msg=name)
        assert value.dtype == joined.dtype, name
  assert list(pipeline.stream(memory, iter(()))) == []


def test_references_come_with_their_rows(corpus):
  def references(epoch):
    rows = np.arange(5, 35) + epoch
    return {'neutral': rows - 5, 'partner': rows - 4}

  slots = make_sampler(corpus, references=references).epoch(2)
  streamed = pipeline.stream(pipeline.Source(corpus), iter(slots))
  for slot, batch in zip(slots, streamed, strict=True):
    for i, row in enumerate(slot.rows):
      padding = row == pipeline.PADDING_ROW
      value = corpus.read(row - 3)[: 0 if padding else None]
      size = batch['neutral_length'][i]
      assert size == len(value)
      np.testing.assert_array_equal(batch['neutral_features'][i, :size], value)
      label = -1 if padding else corpus.table.labels[row - 2]
      assert batch['partner_label'][i] == label


def test_evaluation_order_and_padding(corpus):
  rows = np.arange(10, 17)
  slots, order = pipeline.for_evaluation(pipeline.Source(corpus), rows, 3)
  assert rows_of(slots) == [[10, 11, 12], [13, 14, 15], [16, -1, -1]]
  assert order.tolist() == list(range(7))
  source = pipeline.Source(corpus, buckets=(7, 9))
  assert source.buckets == (7, 9, 12)
  slots, order = pipeline.for_evaluation(source, rows, 3)
  whole = np.concatenate([slot.rows for slot in slots])
  np.testing.assert_array_equal(whole[order], rows)
  assert [slot.length for slot in slots] == sorted(s.length for s in slots)
  for slot in slots:
    assert all(len(corpus.read(row)) <= slot.length for row in real(slot.rows))


TOY, EMOSPHERE = toys.Toy(), EmoSphere()
LABELS = np.array([0] * 6 + [2] * 2)


@pytest.mark.parametrize(
  ('setting', 'expected'),
  [
    # Of the classes that occur; every class then counts 4 of 8.
    ('balanced', [8 / 12, 4, 2]),
    ((1, 2.5, 3), [1, 2.5, 3]),
    ({'sad': 2}, [1, 1, 2]),
  ],
)
def test_weights_of_classes(setting, expected):
  classes = ('anger', 'joy', 'sad')
  found = experiment.class_weights(setting, LABELS, classes)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert experiment.class_weights('none', LABELS, classes) is None


@pytest.mark.parametrize(
  ('setting', 'system', 'changes', 'message'),
  [
    (
      'even',
      TOY,
      {},
      "it must be 'none', 'balanced', or numbers for the 3 clas",
    ),
    ((1, 2), TOY, {}, 'these are 2 numbers for the 3 classes angry, '),
    (
      {'bored': 2},
      TOY,
      {},
      'there is no class bored among the 3 classes angry,',
    ),
    ((1, 0, 1), TOY, {}, 'every weight must be a number greater than 0'),
    ((1, 'x', 1), TOY, {}, 'every weight must be a number greater than 0'),
    ('balanced', TOY, {'augment.mixup': 0.2}, 'mixup makes rows of two'),
    ('balanced', EMOSPHERE, {}, 'EmoSphere weighs no'),
    (
      'none',
      EMOSPHERE,
      {'balanced_sampling': True},
      'EmoSphere is not trained',
    ),
  ],
)
def test_impossible_weights_are_named(setting, system, changes, message):
  fold = types.SimpleNamespace(number=0, train=np.arange(6))
  given = toys.make_experiment(system, {**changes, 'class_weight': setting})
  field = (
    'balanced_sampling' if setting == 'none' else f'class_weight={setting}'
  )
  with pytest.raises(
    ConfigError, match=f'^--config.{re.escape(field)}.*{message}'
  ):
    given.check(fold)


def test_classes_are_drawn_evenly_by_seed_fold_and_epoch(corpus):
  settings = {'rows': 10 + np.arange(8), 'lengths': np.zeros(8, int)}
  settings |= {'probabilities': experiment.probabilities(LABELS)}

  def rows(epoch, *seed):
    sampler = make_sampler(corpus, **settings, batch_size=3, seed=seed)
    slots = [real(slot.rows) for slot in sampler.epoch(epoch)]
    assert [len(rows) for rows in slots] == [3, 3, 2]
    return np.concatenate(slots).tolist()

  drawn = np.concatenate([rows(epoch, 0, 1) for epoch in range(500)])
  counts = np.bincount(drawn - 10)
  # Half of 4000 draws are of each class; the standard deviation is 32.
  assert abs(counts[:6].sum() - 2000) < 150
  assert counts.min() > 250
  assert rows(7, 0, 1) == rows(7, 0, 1)
  for other in ((8, 0, 1), (7, 1, 1), (7, 0, 2)):
    assert rows(*other) != rows(7, 0, 1)
  # Rows without a class never are.
  found = experiment.probabilities(np.array([0, -1, 1, 1]))
  np.testing.assert_allclose(found, [0.5, 0, 0.25, 0.25])


def test_chosen_lengths_are_the_best_there_are():
  lengths = np.random.default_rng(0).integers(3, 25, 40)

  def cost(chosen):
    chosen = np.array(chosen)
    return chosen[pipeline.bucket_of(lengths, chosen)].sum()

  for count in (1, 2, 3, 4):
    got = pipeline.best_buckets(lengths, count, 24)
    assert got[-1] == 24
    assert len(got) == count
    others = itertools.combinations(range(1, 24), count - 1)
    assert cost(got) == min(cost((*c, 24)) for c in others)
  # Few lengths need few buckets.
  assert pipeline.best_buckets(np.array([5, 5, 9]), 8, 12) == (5, 12)
  assert pipeline.best_buckets(np.array([30, 40]), 3, 12) == (12,)


def test_all_batches_but_the_last_are_full():
  rng = np.random.default_rng(1)
  lengths = rng.integers(1, 100, 77)
  chosen = (20, 50, 100)
  found = pipeline.cut_batches(rng.permutation(77), lengths, 8, chosen)
  batches, padded = zip(*found, strict=True)
  sizes = [len(rows) for rows in batches]
  assert sorted(sizes) == [5] + [8] * 9
  assert sizes.index(5) == padded.count(20) - 1
  assert list(padded) == sorted(padded)
  assert set(padded) <= set(chosen)
  rows = np.sort(np.concatenate(batches))
  np.testing.assert_array_equal(rows, np.arange(77))
  for rows, length in found:
    assert lengths[rows].max() <= length
