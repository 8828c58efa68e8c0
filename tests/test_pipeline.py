import itertools

import numpy as np
import pytest

from jaxser.data import pipeline
from tests import fakes


@pytest.fixture(scope='module')
def corpus():
  return fakes.corpus(speakers=4, repeats=3, vary=True)


def make_sampler(corpus, **overrides):
  settings = {
    'rows': np.arange(5, 35),
    'lengths': np.array([len(corpus.read(row)) for row in range(5, 35)]),
    'batch_size': 8,
    'padded_size': 8,
    'buckets': (12,),
    'seed': (0, 1),
  }
  return pipeline.Sampler(**(settings | overrides))


def assert_equal_batches(ours, theirs):
  assert ours.keys() == theirs.keys()
  for name, value in ours.items():
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert value.dtype == theirs[name].dtype, name


def test_every_row_once_per_epoch_and_another_order_each_time(corpus):
  sampler = make_sampler(corpus)
  orders = []
  for epoch in range(3):
    rows = np.concatenate([slot.rows for slot in sampler.epoch(epoch)])
    assert len(rows) == sampler.steps_per_epoch * 8
    real = rows[rows != pipeline.PADDING_ROW]
    np.testing.assert_array_equal(np.sort(real), sampler.rows)
    orders.append(real.tolist())
  assert orders[0] != orders[1] != orders[2]
  again = [slot.rows.tolist() for slot in make_sampler(corpus).epoch(1)]
  assert again == [slot.rows.tolist() for slot in sampler.epoch(1)]
  other = make_sampler(corpus, seed=(0, 2)).epoch(1)
  assert again != [slot.rows.tolist() for slot in other]


def test_position_continues_with_the_very_next_batch(corpus):
  sampler = make_sampler(corpus)
  everything = [s.rows.tolist() for s in sampler.from_position(0, 0, 3)]
  assert len(everything) == 3 * sampler.steps_per_epoch
  for epoch, step in itertools.product(range(3), range(4)):
    rest = [s.rows.tolist() for s in sampler.from_position(epoch, step, 3)]
    assert rest == everything[epoch * sampler.steps_per_epoch + step :]


def test_batch_pads_with_zeros_and_masks(corpus):
  source = pipeline.Source(corpus, max_length=10)
  rows = np.array([3, 20, pipeline.PADDING_ROW])
  batch = source.batch(pipeline.Slot(rows, 10), first_row=16)
  for i, row in enumerate(rows[:2]):
    value = corpus.read(row)[:10]
    assert batch['length'][i] == len(value)
    np.testing.assert_array_equal(batch['features'][i, : len(value)], value)
    assert not batch['features'][i, len(value) :].any()
    assert batch['label'][i] == corpus.table.labels[row]
    np.testing.assert_array_equal(batch['vad'][i], corpus.table.vad[row])
  assert not batch['features'][2].any()
  assert batch['label'][2] == -1
  np.testing.assert_array_equal(batch['mask'], [1, 1, 0])
  np.testing.assert_array_equal(batch['row'], [16, 17, 18])


def test_normalization_comes_before_padding(corpus):
  plain = pipeline.Source(corpus)
  source = pipeline.Source(corpus, normalization=(3.0, 2.0))
  slot = pipeline.Slot(np.array([3, pipeline.PADDING_ROW]), 12)
  expected = plain.batch(slot)['features']
  length = plain.batch(slot)['length'][0]
  expected[0, :length] = (expected[0, :length] - 3) / (2 + 1e-6)
  np.testing.assert_allclose(
    source.batch(slot)['features'], expected, rtol=1e-6
  )


def test_stream_equals_plain_assembly_from_memory_and_from_disk(corpus):
  memory = pipeline.Source(corpus)
  disk = pipeline.Source(corpus, cache_gib=0)
  assert memory.in_memory
  assert not disk.in_memory
  slots = make_sampler(corpus).epoch(0)
  plain = [memory.batch(slot) for slot in slots]
  for source in (memory, disk):
    streamed = list(pipeline.stream(source, iter(slots)))
    assert len(streamed) == len(plain)
    for ours, theirs in zip(plain, streamed, strict=True):
      assert_equal_batches(ours, theirs)


def test_shares_of_the_processes_make_the_global_batch(corpus):
  source = pipeline.Source(corpus)
  slots = make_sampler(corpus).epoch(0)
  shares = [
    list(
      pipeline.stream(source, iter(slots), process_index=index, process_count=4)
    )
    for index in range(4)
  ]
  for step, slot in enumerate(slots):
    joined = {
      name: np.concatenate([share[step][name] for share in shares])
      for name in shares[0][0]
    }
    assert_equal_batches(source.batch(slot), joined)


def test_references_come_with_their_rows(corpus):
  def references(epoch):
    return np.arange(5, 35) - 5 + epoch

  sampler = make_sampler(corpus, references=references)
  source = pipeline.Source(corpus)
  slots = sampler.epoch(2)
  for slot, batch in zip(
    slots, pipeline.stream(source, iter(slots)), strict=True
  ):
    for i, row in enumerate(slot.rows):
      if row == pipeline.PADDING_ROW:
        assert batch['neutral_length'][i] == 0
        continue
      value = corpus.read(row - 3)
      assert batch['neutral_length'][i] == len(value)
      np.testing.assert_array_equal(
        batch['neutral_features'][i, : len(value)], value
      )


def test_buckets_bound_shapes_and_lose_no_row(corpus):
  sampler = make_sampler(corpus, buckets=(7, 9, 12), batch_size=4)
  slots = sampler.epoch(0)
  assert len(slots) == sampler.steps_per_epoch
  assert {slot.length for slot in slots} <= {7, 9, 12}
  seen = np.concatenate([slot.rows for slot in slots])
  np.testing.assert_array_equal(
    np.sort(seen[seen != pipeline.PADDING_ROW]), sampler.rows
  )
  for slot in slots:
    for row in slot.rows[slot.rows != pipeline.PADDING_ROW]:
      assert len(corpus.read(row)) <= slot.length


def test_evaluation_order_and_padding(corpus):
  rows = np.arange(10, 17)
  slots, order = pipeline.for_evaluation(pipeline.Source(corpus), rows, 3)
  assert [slot.rows.tolist() for slot in slots] == [
    [10, 11, 12],
    [13, 14, 15],
    [16, -1, -1],
  ]
  assert order.tolist() == list(range(7))
  source = pipeline.Source(corpus, buckets=(7, 9))
  assert source.buckets == (7, 9, 12)
  slots, order = pipeline.for_evaluation(source, rows, 3)
  whole = np.concatenate([slot.rows for slot in slots])
  np.testing.assert_array_equal(whole[order], rows)
  assert [slot.length for slot in slots] == sorted(s.length for s in slots)
  for slot in slots:
    for row in slot.rows[slot.rows != pipeline.PADDING_ROW]:
      assert len(corpus.read(row)) <= slot.length


def test_empty_stream_ends_at_once(corpus):
  assert list(pipeline.stream(pipeline.Source(corpus), iter(()))) == []
