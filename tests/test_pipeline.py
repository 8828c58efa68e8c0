"""Batches: which rows, how padded, and the same from memory, disk and parts."""

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


def real(rows):
  return rows[rows != pipeline.PADDING_ROW]


def rows_of(slots):
  return [slot.rows.tolist() for slot in slots]


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
    np.testing.assert_array_equal(np.sort(real(rows)), sampler.rows)
    orders.append(real(rows).tolist())
  assert orders[0] != orders[1] != orders[2]
  again = rows_of(make_sampler(corpus).epoch(1))
  assert again == rows_of(sampler.epoch(1))
  assert again != rows_of(make_sampler(corpus, seed=(0, 2)).epoch(1))


def test_position_continues_with_the_very_next_batch(corpus):
  sampler = make_sampler(corpus)
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
    shares = [
      pipeline.stream(source, slots, process_index=i, process_count=count)
      for i in range(count)
    ]
    for batch, *parts in zip(plain, *shares, strict=True):
      joined = {
        name: np.concatenate([part[name] for part in parts]) for name in batch
      }
      assert_equal_batches(batch, joined)
  assert list(pipeline.stream(memory, iter(()))) == []


def test_references_come_with_their_rows(corpus):
  sampler = make_sampler(
    corpus,
    references=lambda epoch: {
      'neutral': np.arange(5, 35) - 5 + epoch,
      'partner': np.arange(5, 35) - 4 + epoch,
    },
  )
  slots = sampler.epoch(2)
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


def test_buckets_bound_shapes_and_lose_no_row(corpus):
  sampler = make_sampler(corpus, buckets=(7, 9, 12), batch_size=4)
  slots = sampler.epoch(0)
  assert len(slots) == sampler.steps_per_epoch
  assert {slot.length for slot in slots} <= {7, 9, 12}
  seen = np.concatenate([slot.rows for slot in slots])
  np.testing.assert_array_equal(np.sort(real(seen)), sampler.rows)
  for slot in slots:
    assert all(len(corpus.read(row)) <= slot.length for row in real(slot.rows))


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
