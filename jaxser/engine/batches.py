"""Batches of a stack of runs on the devices, in one of two ways.

`Resident`: the corpus lies on the devices and a batch is its row numbers, so
that an epoch is one call. `Streamed`: arrays come batch by batch, read ahead by
tf.data where the corpus is larger than memory; one run at a time. Both draw the
same batches.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxser.data import pipeline
from jaxser.engine.sharding import EVERYWHERE, ROWS, STEPS, Sharding
from jaxser.systems.base import Tree

Samplers = Sequence[pipeline.Sampler | None]


class Chunk(NamedTuple):
  """Batches of one call of the training program.

  Attributes:
    batches: on the devices, as `jaxser.engine.stack.Programs.train` takes them.
    real: bool [runs, steps], on the host; None if all steps are.
    steps: how many.
    ends_epoch: whether these are the last of an epoch.
  """

  batches: Tree
  real: np.ndarray | None
  steps: int
  ends_epoch: bool


def corpus_arrays(source: pipeline.Source) -> dict[str, np.ndarray]:
  """Returns every utterance as a batch would hold it."""
  rows = np.arange(len(source.corpus.table))
  batch = source.batch(pipeline.Slot(rows, source.max_length))
  names = ('features', 'length', 'label', 'vad', 'speaker')
  return {name: batch[name] for name in names}


class Resident:
  """Row numbers into a corpus on the devices.

  Attributes:
    name: for results.json.
    rows: of a training batch, padding included.
  """

  name = 'resident'

  def __init__(
    self,
    source: pipeline.Source,
    sharding: Sharding,
    rows: int,
    eval_rows: int,
    steps: int,
  ):
    """Sends nothing yet.

    Args:
      source: assembles the corpus.
      sharding: the devices.
      rows: of a training batch, padding included.
      eval_rows: of a batch that is predicted.
      steps: most steps that a run's epoch has.
    """
    self._source, self._sharding = source, sharding
    self.rows, self._eval_rows, self._steps = rows, eval_rows, steps

  @functools.cached_property
  def corpus(self) -> Tree:
    """The whole corpus on every device."""
    return self._sharding.put(corpus_arrays(self._source), EVERYWHERE)

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Iterator[Chunk]:
    """Yields one chunk per epoch, from `epoch` on.

    Args:
      samplers: of each run; None where the stack is not full.
      epoch: epochs completed.
      step: 0.
      epochs: after which training ends.
    """
    if step:
      raise ValueError('an epoch on the devices starts at its first step')
    for current in range(epoch, epochs):
      indices, real = self._epoch(samplers, current)
      chunk = self._sharding.put(indices, STEPS)
      yield Chunk(chunk, real, self._steps, ends_epoch=True)

  def _epoch(self, samplers, epoch):
    shape = (len(samplers), self._steps, self.rows)
    rows = np.full(shape, pipeline.PADDING_ROW, np.int32)
    neutral, real = rows.copy(), np.zeros(shape[:2], bool)
    for run, sampler in enumerate(samplers):
      slots = sampler.epoch(epoch) if sampler else ()
      for step, slot in enumerate(slots):
        real[run, step] = True
        rows[run, step] = slot.rows
        if slot.references is not None:
          neutral[run, step] = slot.references
    indices = self._indices(rows)
    if any(sampler and sampler.references for sampler in samplers):
      indices['neutral'] = neutral
    return indices, real

  def _indices(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    row = np.arange(rows.shape[-1], dtype=np.int32)
    return {'rows': rows, 'row': np.broadcast_to(row, rows.shape).copy()}

  def evaluation(
    self, rows: Sequence[np.ndarray]
  ) -> tuple[Iterator[Tree], list[np.ndarray]]:
    """Returns batches that hold each run's rows once.

    Args:
      rows: int [n] of every run.

    Returns:
      The batches on the devices, and for each run int [n]: where in their
      concatenation its rows are.
    """
    size = self._eval_rows
    count = -(-max(map(len, rows)) // size)
    padded = np.stack([pipeline.pad_rows(r, count * size) for r in rows])
    padded = padded.reshape(len(rows), count, size).astype(np.int32)

    def batches():
      for i in range(count):
        yield self._sharding.put(self._indices(padded[:, i]), ROWS)

    return batches(), [np.arange(len(r)) for r in rows]


def _stream(source, slots):
  index, count = jax.process_index(), jax.process_count()
  return pipeline.stream(
    source, slots, process_index=index, process_count=count
  )


class Streamed:
  """Arrays of one run's batches, sharded over the devices.

  Attributes:
    name: for results.json.
    corpus: nothing.
  """

  name = 'streamed'

  def __init__(
    self, source: pipeline.Source, sharding: Sharding, eval_rows: int
  ):
    """Reads nothing yet; arguments as of `Resident`."""
    self._source, self._sharding = source, sharding
    self._eval_rows, self.corpus = eval_rows, {}

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Iterator[Chunk]:
    """Yields chunks of one step from (epoch, step) on, one of them ahead."""
    (sampler,) = samplers
    slots = sampler.from_position(epoch, step, epochs)
    ahead, steps = None, sampler.steps_per_epoch
    for batch in _stream(self._source, slots):
      step = step % steps + 1
      batch = jax.tree.map(lambda x: x[None, None], batch)
      chunk = self._sharding.put_local(batch, STEPS)
      if ahead is not None:
        yield ahead
      ahead = Chunk(chunk, None, 1, ends_epoch=step == steps)
    if ahead is not None:
      yield ahead

  def evaluation(
    self, rows: Sequence[np.ndarray]
  ) -> tuple[Iterator[Tree], list[np.ndarray]]:
    """Returns batches of the one run's rows; see `Resident.evaluation`."""
    slots, places = pipeline.for_evaluation(
      self._source, rows[0], self._eval_rows
    )
    process = jax.process_index(), jax.process_count()

    def assembled():
      if not self._source.in_memory:
        yield from _stream(self._source, slots)
      # From memory this is faster than any pipeline.
      for slot in slots if self._source.in_memory else ():
        yield self._source.batch(*slot.part(*process))

    def batches():
      for batch in assembled():
        batch = jax.tree.map(lambda x: x[None], batch)
        yield self._sharding.put_local(batch, ROWS)

    return batches(), [places]
