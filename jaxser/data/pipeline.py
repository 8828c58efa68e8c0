"""From rows of a corpus to batches on their way to the devices.

The batches of every epoch are a pure function of (seed, fold, epoch), and a
position in them is two numbers, (epoch, step), so a checkpoint that holds them
continues with the very next batch. tf.data reads and assembles batches in
parallel and ahead of time; `Source.batch` is the same assembly without it.
"""

import dataclasses
import functools
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxser.data import buckets as buckets_lib
from jaxser.data.corpus import Corpus

PADDING_ROW = -1
PADDING = {'features': 0, 'length': 0, 'label': -1, 'vad': 0, 'speaker': -1}
"""What a batch holds of each utterance, and of a padding row."""


@dataclasses.dataclass(frozen=True)
class Slot:
  """Indices of one batch that is to be assembled.

  Attributes:
    rows: int64 [batch], rows of the corpus, PADDING_ROW where there is none.
    length: frames or samples that every row is cut or padded to.
    references: by name int64 [batch], rows that stand beside these.
  """

  rows: np.ndarray
  length: int
  references: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

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
  """Assembles batches of one corpus, from memory where it fits.

  Attributes:
    max_length: longest row handed out, frames or samples.
    buckets: ascending lengths that batches are padded to, the last being
      max_length.
  """

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
    """Reads nothing yet.

    Args:
      corpus: the corpus.
      max_length: rows are cut to this; 0 keeps the longest row whole.
      cache_gib: the decoded corpus stays in memory if it needs no more.
      normalization: mean and standard deviation; features become (x - mean) /
        (std + 1e-6) before they are padded with zeros.
      buckets: lengths that batches are padded to, besides the longest.
      num_buckets: without `buckets`, this many, that pad the corpus least.
    """
    self.corpus = corpus
    longest, *self._bins = corpus.feature_shape
    self.max_length = min(max_length, longest) if max_length else longest
    row_bytes = 4 * self.max_length * int(np.prod(self._bins, initial=1))
    self._normalization = normalization
    _, self._speakers = np.unique(corpus.table.speakers, return_inverse=True)
    self.in_memory = row_bytes * len(corpus.table) <= cache_gib * 2**30
    shorter = tuple(b for b in buckets if b < self.max_length)
    self.buckets = (*shorter, self.max_length)
    if num_buckets > 1 and not buckets:
      self.buckets = buckets_lib.best(
        self.lengths, num_buckets, self.max_length
      )

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """int64 [n], frames or samples of every row, from its duration.

    Features of a fixed signal length have as many frames in every row.
    """
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

  def _features(
    self, rows: np.ndarray, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    features = np.zeros((len(rows), length, *self._bins), np.float32)
    lengths = np.zeros(len(rows), np.int32)
    for i in np.flatnonzero(rows != PADDING_ROW):
      if self.in_memory:
        whole, valid = (array[rows[i]] for array in self.arrays)
        value = whole[: min(valid, length)]
      else:
        value = self.corpus.read(int(rows[i]))[:length]
      value = normalized(value, self._normalization)
      features[i, : len(value)], lengths[i] = value, len(value)
    return features, lengths

  def batch(self, slot: Slot, first_row: int = 0) -> dict[str, np.ndarray]:
    """Returns a batch as `jaxser.systems.base` describes it.

    Args:
      slot: its indices.
      first_row: position of the slot's first row in the global batch.
    """
    table, rows = self.corpus.table, slot.rows
    real = rows != PADDING_ROW
    features, lengths = self._features(rows, slot.length)
    batch = {
      'features': features,
      'length': lengths,
      'label': np.where(real, table.labels[rows], -1).astype(np.int32),
      'vad': np.where(real[:, None], table.vad[rows], 0).astype(np.float32),
      'mask': real.astype(np.float32),
      'speaker': np.where(real, self._speakers[rows], -1).astype(np.int32),
      'row': np.arange(first_row, first_row + len(rows), dtype=np.int32),
    }
    for name, rows in slot.references.items():
      beside = self.batch(Slot(rows, slot.length))
      batch |= {f'{name}_{part}': beside[part] for part in PADDING}
    return batch


def pad_rows(rows: np.ndarray, size: int) -> np.ndarray:
  """Appends padding rows up to `size`."""
  padding = np.full(size - len(rows), PADDING_ROW, np.int64)
  return np.concatenate([np.asarray(rows, np.int64), padding])


def draw_partners(
  rows: np.ndarray, seed: Sequence[int], epoch: int
) -> np.ndarray:
  """Returns one of the rows, at random, for each of them: int64 [n].

  It depends on the seed, the epoch, the row and which rows there are: not on
  batches.
  """
  generator = np.random.default_rng([*seed, epoch, 1])
  uniform = generator.random(int(rows.max()) + 1)[rows]
  return np.sort(rows)[(uniform * len(rows)).astype(np.int64)]


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """The shuffled batches of a training split.

  Attributes:
    rows: int64 [n], rows to train on.
    lengths: int [n], their lengths, which decide their bucket.
    batch_size: utterances per step.
    padded_size: rows per batch; more than batch_size where devices demand it.
    buckets: ascending lengths; a batch is cut and padded to the smallest bucket
      that holds all of its rows. The last one holds (and cuts) everything.
    seed: numbers that name the order, such as (seed, fold).
    references: epoch -> by name int64 [n], rows that stand beside `rows`.
    probabilities: float64 [n] with which each of n rows is drawn, with
      replacement; None takes every row once.
  """

  rows: np.ndarray
  lengths: np.ndarray
  batch_size: int
  padded_size: int
  buckets: Sequence[int]
  seed: tuple[int, ...]
  references: Callable[[int], Mapping[str, np.ndarray]] = lambda epoch: {}
  probabilities: np.ndarray | None = None

  @property
  def steps_per_epoch(self) -> int:
    """Batches in an epoch; one of them may be smaller than the others."""
    return -(-len(self.rows) // self.batch_size)

  def epoch(self, epoch: int) -> list[Slot]:
    """Returns all batches of one epoch, in order."""
    generator = np.random.default_rng([*self.seed, epoch])
    if self.probabilities is None:
      order = generator.permutation(len(self.rows))
    else:
      count = len(self.rows)
      order = generator.choice(count, count, p=self.probabilities)
    references, slots = self.references(epoch), []
    for chosen, length in buckets_lib.batches(
      order, self.lengths, self.batch_size, self.buckets
    ):
      slots.append(
        make_slot(self.rows, references, chosen, self.padded_size, length)
      )
    if len(self.buckets) > 1:
      slots = [slots[i] for i in generator.permutation(len(slots))]
    return slots

  def from_position(self, epoch: int, step: int, epochs: int) -> Iterator[Slot]:
    """Yields every batch from (epoch, step) up to the end of `epochs`."""
    for current in range(epoch, epochs):
      skipped = step if current == epoch else 0
      yield from itertools.islice(self.epoch(current), skipped, None)


def make_slot(
  rows: np.ndarray,
  references: Mapping[str, np.ndarray],
  chosen: np.ndarray,
  size: int,
  length: int,
) -> Slot:
  """Returns the batch of some of the rows and what stands beside them."""
  beside = {n: pad_rows(r[chosen], size) for n, r in references.items()}
  return Slot(pad_rows(rows[chosen], size), length, beside)


def for_evaluation(
  source: Source,
  rows: np.ndarray,
  size: int,
  references: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> tuple[list[Slot], np.ndarray]:
  """Returns batches that hold every row once, the last one padded.

  Rows of a bucket keep their order; with one bucket all of them do.

  Args:
    source: of the rows.
    rows: int64 [n].
    size: rows of a batch.
    references: by name int64 [n], rows that stand beside these.

  Returns:
    The batches, and int64 [n]: where in their concatenation each row is.
  """
  slots, places = [], np.zeros(len(rows), np.int64)
  for chosen, length in buckets_lib.batches(
    np.arange(len(rows)), source.lengths[rows], size, source.buckets
  ):
    places[chosen] = len(slots) * size + np.arange(len(chosen))
    slots.append(make_slot(rows, references, chosen, size, length))
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
  *,
  process_index: int = 0,
  process_count: int = 1,
  prefetch: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this process' rows of every batch, read ahead by tf.data.

  Args:
    source: where rows come from.
    slots: the global batches; each process assembles a contiguous part.
    process_index: this process.
    process_count: number of processes; must divide the rows of a slot.
    prefetch: batches kept ready.
  """
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
