"""From rows of a corpus to batches on their way to the devices.

The batches of every epoch are a pure function of (seed, fold, epoch), so a
checkpoint that holds (epoch, step) continues with the very next batch. tf.data
assembles batches ahead of time; `Source.batch` is the same without it.
"""

import dataclasses
import functools
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.data.corpus import Corpus

PADDING_ROW = -1
# Lengths are compared on a grid of this many steps up to the longest.
_BUCKET_STEPS = 240
PADDING = {'features': 0, 'length': 0, 'label': -1, 'vad': 0, 'speaker': -1}
"""What a batch holds of each utterance, and of a padding row."""
Columns = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Slot:
  """Indices of one batch that is to be assembled."""

  rows: np.ndarray  # int64 [batch], of the corpus; PADDING_ROW where none is.
  length: int  # Frames or samples that every row is cut or padded to.
  # By name int64 [batch], rows that stand beside these.
  references: Columns = dataclasses.field(default_factory=dict)

  def part(self, index: int, count: int) -> tuple['Slot', int]:
    """Returns what one of `count` processes assembles, and its first row."""
    size = len(self.rows) // count
    part = slice(index * size, (index + 1) * size)
    references = {name: rows[part] for name, rows in self.references.items()}
    return Slot(self.rows[part], self.length, references), part.start


def normalized(value: Any, normalization: tuple[float, float] | None) -> Any:
  """Returns (value - mean) / (std + 1e-6) of an array; itself for None."""
  if normalization is None:
    return value
  mean, std = normalization
  return (value - mean) / (std + 1e-6)


class Source:
  """Assembles batches of one corpus, from memory where it fits."""

  def __init__(
    self,
    corpus: Corpus,
    *,
    max_length: int = 0,
    cache_gib: float = 2.0,
    normalization: tuple[float, float] | None = None,
    buckets: Sequence[int] = (),
    num_buckets: int = 0,
  ):
    """Reads nothing yet; a `max_length` of 0 keeps the longest row whole.

    Batches have the lengths `buckets`, or `num_buckets` that pad the corpus
    least.
    """
    self.corpus, self._normalization = corpus, normalization
    longest, *self._bins = corpus.feature_shape
    self.max_length = min(max_length, longest) if max_length else longest
    row_bytes = 4 * self.max_length * int(np.prod(self._bins, initial=1))
    _, self._speakers = np.unique(corpus.table.speakers, return_inverse=True)
    self.in_memory = row_bytes * len(corpus.table) <= cache_gib * 2**30
    shorter = tuple(b for b in buckets if b < self.max_length)
    self.buckets = (*shorter, self.max_length)
    if num_buckets > 1 and not buckets:
      longest = self.max_length
      self.buckets = best_buckets(self.lengths, num_buckets, longest)

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """int64 [n], frames or samples of every row, from its duration."""
    info = next(iter(self.corpus.stores.values()))
    if info['parameters'].get('signal_length'):
      return np.full(len(self.corpus.table), self.max_length, np.int64)
    seconds = self.corpus.table.durations.astype(np.float64)
    frames = np.ceil(np.round(seconds * info['frames_per_second'], 2))
    return np.minimum(frames.astype(np.int64), self.max_length)

  @functools.cached_property
  def arrays(self) -> tuple[np.ndarray, np.ndarray]:
    """The corpus in memory: features [n, max_length, ...] and lengths [n]."""
    return self.corpus.load(self.max_length)

  def batch(self, slot: Slot, first_row: int = 0) -> Batch:
    """Returns a `System` batch; `first_row` is its place in the global one."""
    table, rows = self.corpus.table, slot.rows
    real, count = rows != PADDING_ROW, len(rows)
    features = np.zeros((count, slot.length, *self._bins), np.float32)
    lengths = np.zeros(count, np.int32)
    for i in np.flatnonzero(real):
      if self.in_memory:
        whole, valid = (array[rows[i]] for array in self.arrays)
        value = whole[: min(valid, slot.length)]
      else:
        value = self.corpus.read(int(rows[i]))[: slot.length]
      value = normalized(value, self._normalization)
      features[i, : len(value)], lengths[i] = value, len(value)
    batch = {
      'features': features,
      'length': lengths,
      'label': np.where(real, table.labels[rows], -1).astype(np.int32),
      'vad': np.where(real[:, None], table.vad[rows], 0).astype(np.float32),
      'mask': real.astype(np.float32),
      'speaker': np.where(real, self._speakers[rows], -1).astype(np.int32),
      'row': np.arange(first_row, first_row + count, dtype=np.int32),
    }
    for name, rows in slot.references.items():
      beside = self.batch(Slot(rows, slot.length))
      batch |= {f'{name}_{part}': beside[part] for part in PADDING}
    return batch


def best_buckets(lengths: np.ndarray, count: int, longest: int) -> tuple:
  """Returns the `count` bucket lengths that pad lengths [n] least, ascending.

  Found exactly, by dynamic programming over lengths rounded up to 1 / 240 of
  the longest. Fewer come back if fewer lengths occur; the last is `longest`.
  """
  step = -(-longest // _BUCKET_STEPS)
  ends = np.unique(np.minimum(np.arange(1, _BUCKET_STEPS + 1) * step, longest))
  place = np.searchsorted(ends, np.minimum(lengths, longest))
  counts = np.bincount(place, minlength=len(ends))
  # below[i]: utterances whose length is among the first i ends.
  below = np.concatenate([[0], np.cumsum(counts)])
  # cost[j, i]: frames that a bucket from end j (left out) to end i costs.
  cost = (below[None, 1:] - below[:, None]) * ends[None].astype(np.float64)
  later = np.arange(len(below))[:, None] < np.arange(1, len(below))
  cost = np.where(later, cost, np.inf)
  total, before = cost[0], []
  for _ in range(min(count, np.count_nonzero(counts)) - 1):
    # total[j - 1] frames for the ends up to j, and one bucket from there.
    sums = np.concatenate([[np.inf], total])[:, None] + cost
    before.append(np.argmin(sums, axis=0))
    total = np.minimum.reduce(sums, axis=0)
  chosen, end = [], len(ends) - 1
  for choice in reversed(before):
    chosen.append(int(ends[end]))
    end = int(choice[end]) - 1
  return (*reversed([*chosen, int(ends[end])]),)


def bucket_of(lengths: np.ndarray, buckets: Sequence[int]) -> np.ndarray:
  """Returns the smallest bucket that holds each length; the last one cuts."""
  return np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)


def cut_batches(
  order: np.ndarray, lengths: np.ndarray, size: int, buckets: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
  """Cuts the order into batches of `size`, all but one full, shortest first.

  Returns (positions, length of their bucket). A bucket without a full batch
  left is filled up with rows of the next shorter one. So the batch that stays
  smaller, whose missing rows are padding, is of the shortest utterances.
  """
  bucket = bucket_of(lengths, buckets)
  groups = [order[bucket[order] == number] for number in range(len(buckets))]
  found: list[tuple[np.ndarray, int]] = []
  for number in reversed(range(len(buckets))):
    inside, shorter = groups[number], number - 1
    while shorter >= 0 and len(inside) % size:
      missing = -len(inside) % size
      taken = groups[shorter][:missing]
      groups[shorter] = groups[shorter][missing:]
      inside = np.concatenate([inside, taken])
      shorter -= 1
    for start in reversed(range(0, len(inside), size)):
      found.append((inside[start : start + size], buckets[number]))
  return found[::-1]


def pad_rows(rows: np.ndarray, size: int) -> np.ndarray:
  padding = np.full(size - len(rows), PADDING_ROW, np.int64)
  return np.concatenate([np.asarray(rows, np.int64), padding])


def draw_partners(rows: np.ndarray, seed: tuple[int, int], epoch: int):
  """Returns one of the rows for each, int64 [n], whatever the batches."""
  generator = np.random.default_rng([*seed, epoch, 1])
  uniform = generator.random(int(rows.max()) + 1)[rows]
  return np.sort(rows)[(uniform * len(rows)).astype(np.int64)]


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """The shuffled batches of a training split."""

  rows: np.ndarray  # int64 [n], to train on.
  lengths: np.ndarray  # int [n], which decide their bucket.
  batch_size: int  # Utterances per step.
  padded_size: int  # Rows per batch; more where devices demand it.
  # Ascending lengths; a batch is padded to the smallest that holds its rows. The
  # last one holds (and cuts) everything.
  buckets: Sequence[int]
  seed: tuple[int, ...]  # Names the order, such as (seed, fold).
  # Epoch -> by name int64 [n], rows that stand beside `rows`.
  references: Callable[[int], Columns] = lambda epoch: {}
  # float64 [n] with which each of n rows is drawn, with replacement; None takes
  # every row once.
  probabilities: np.ndarray | None = None

  @property
  def steps_per_epoch(self) -> int:
    """Batches in an epoch; one of them may be smaller than the others."""
    return -(-len(self.rows) // self.batch_size)

  def epoch(self, epoch: int) -> list[Slot]:
    generator = np.random.default_rng([*self.seed, epoch])
    count, references = len(self.rows), self.references(epoch)
    if self.probabilities is None:
      order = generator.permutation(count)
    else:
      order = generator.choice(count, count, p=self.probabilities)
    slots = [
      _slot(self.rows, references, chosen, self.padded_size, length)
      for chosen, length in cut_batches(
        order, self.lengths, self.batch_size, self.buckets
      )
    ]
    if len(self.buckets) > 1:
      slots = [slots[i] for i in generator.permutation(len(slots))]
    return slots

  def from_position(self, epoch: int, step: int, epochs: int) -> Iterator[Slot]:
    """Yields every batch from (epoch, step) up to the end of `epochs`."""
    for current in range(epoch, epochs):
      skipped = step if current == epoch else 0
      yield from itertools.islice(self.epoch(current), skipped, None)


def _slot(rows, references: Columns, chosen, size: int, length: int) -> Slot:
  beside = {n: pad_rows(r[chosen], size) for n, r in references.items()}
  return Slot(pad_rows(rows[chosen], size), length, beside)


def for_evaluation(
  source: Source,
  rows: np.ndarray,
  size: int,
  references: Columns = types.MappingProxyType({}),
) -> tuple[list[Slot], np.ndarray]:
  """Returns batches that hold every row once, and each row's place in them."""
  slots, places = [], np.zeros(len(rows), np.int64)
  for chosen, length in cut_batches(
    np.arange(len(rows)), source.lengths[rows], size, source.buckets
  ):
    places[chosen] = len(slots) * size + np.arange(len(chosen))
    slots.append(_slot(rows, references, chosen, size, length))
  return slots, places


def padding_share(source: Source, slots: Iterable[Slot]) -> float:
  """Returns which part of these batches' frames (or samples) is padding."""
  valid = whole = 0
  for slot in slots:
    real = slot.rows[slot.rows != PADDING_ROW]
    valid += int(np.minimum(source.lengths[real], slot.length).sum())
    whole += len(slot.rows) * slot.length
  return 1 - valid / whole


def stream(
  source: Source,
  slots: Iterable[Slot],
  process_index: int = 0,
  process_count: int = 1,
  prefetch: int = 4,
) -> Iterator[Batch]:
  """Yields this process' part of every batch, read ahead by tf.data."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  slots = iter(slots)
  first = next(slots, None)
  if first is None:
    return
  example = source.batch(first.part(0, len(first.rows))[0])

  def positions():
    for slot in itertools.chain([first], slots):
      part, first_row = slot.part(process_index, process_count)
      columns = np.stack([part.rows, *part.references.values()])
      yield columns, part.length, first_row

  def read(columns, length, first_row):
    rows, *beside = columns
    beside = dict(zip(first.references, beside, strict=True))
    slot = Slot(rows, int(length), beside)
    return list(source.batch(slot, int(first_row)).values())

  shapes = ([None, None], [], [])
  signature = tuple(tf.TensorSpec(shape, tf.int64) for shape in shapes)
  types = [tf.as_dtype(value.dtype) for value in example.values()]
  dataset = tf.data.Dataset.from_generator(
    positions, output_signature=signature
  )
  dataset = dataset.map(
    lambda *position: tf.numpy_function(read, position, types),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  ).prefetch(prefetch)
  for values in dataset.as_numpy_iterator():
    yield dict(zip(example, values, strict=True))
