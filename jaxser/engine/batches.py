"""Batches of a stack of runs on the devices, the same in one of two ways.

`Resident`: the corpus lies on the devices, a batch is its row numbers and an epoch
is one call. `Streamed`: arrays come batch by batch, one run at a time.
"""

import collections
import dataclasses
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from jaxser.data import pipeline
from jaxser.engine.sharding import EVERYWHERE, ROWS, STEPS, Sharding
from jaxser.systems.base import Tree

Samplers = Sequence[pipeline.Sampler | None]
References = Mapping[str, np.ndarray]
Evaluation = tuple[Iterator[Tree], list[np.ndarray]]
"""Batches on the devices; for each run, where in all of them its rows are."""


class Chunk(NamedTuple):
  """Batches of one call of the training program."""

  batches: Tree  # As `jaxser.engine.stack.Programs.train` takes them.
  real: np.ndarray | None  # Bool [runs, steps], on the host; None if all are.
  steps: int
  ends_epoch: bool
  length: int = 0  # Frames or samples of streamed rows, each compiled once.


@dataclasses.dataclass(eq=False)
class _Batches:
  source: pipeline.Source
  sharding: Sharding
  rows: int  # Of a training batch, padding included.
  eval_rows: int  # Of a batch that is predicted.
  steps: int  # Of the longest run's epoch.


class Resident(_Batches):
  """Row numbers into a corpus on the devices."""

  name = 'resident'

  def _corpus(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    batch = self.source.batch(pipeline.Slot(rows, self.source.max_length))
    return {name: batch[name] for name in pipeline.PADDING}

  @functools.cached_property
  def corpus(self) -> Tree:
    rows = np.arange(len(self.source.corpus.table))
    return self.sharding.put(self._corpus(rows), EVERYWHERE)

  @property
  def shapes(self) -> Tree:
    count = len(self.source.corpus.table)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype),
      self._corpus(np.zeros(1, np.int64)),
    )

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Generator[Chunk, None, None]:
    """Yields one chunk per epoch; a sampler may be None, of an empty slot."""
    assert step == 0, 'epochs on the devices are whole'
    shape = (len(samplers), self.steps, self.rows)
    for current in range(epoch, epochs):
      blank = np.full(shape, pipeline.PADDING_ROW, np.int32)
      rows: dict[str, np.ndarray] = collections.defaultdict(blank.copy)
      real = np.zeros(shape[:2], bool)
      for run, sampler in enumerate(samplers):
        for i, slot in enumerate(sampler.epoch(current) if sampler else ()):
          real[run, i] = True
          for name, column in {'rows': slot.rows, **slot.references}.items():
            rows[name][run, i] = column
      chunk = self.sharding.put(self._indices(rows), STEPS)
      yield Chunk(chunk, real, self.steps, ends_epoch=True)

  def _indices(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    shape = rows['rows'].shape
    position = np.arange(shape[-1], dtype=np.int32)
    return {**rows, 'row': np.broadcast_to(position, shape).copy()}

  def evaluation(
    self, rows: Sequence[np.ndarray], references: Sequence[References]
  ) -> Evaluation:
    """Returns batches that hold each run's rows, int [n], once."""
    size = self.eval_rows
    count = -(-max(map(len, rows)) // size)

    def cut(columns):
      padded = np.stack([pipeline.pad_rows(r, count * size) for r in columns])
      return padded.astype(np.int32).reshape(len(rows), count, size)

    whole = {'rows': cut(rows)}
    for name in references[0]:
      whole[name] = cut([beside[name] for beside in references])
    cuts = ({n: x[:, i] for n, x in whole.items()} for i in range(count))
    batches = (self.sharding.put(self._indices(cut), ROWS) for cut in cuts)
    return batches, [np.arange(len(r)) for r in rows]


class Streamed(_Batches):
  """Arrays of one run's batches, sharded over the devices."""

  name = 'streamed'
  corpus: ClassVar[Tree] = {}
  shapes: ClassVar[Tree] = {}

  def _stream(self, slots) -> Iterator[dict[str, np.ndarray]]:
    mine = jax.process_index(), jax.process_count()
    return pipeline.stream(self.source, slots, *mine)

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Generator[Chunk, None, None]:
    (sampler,) = samplers
    assert sampler is not None, 'only a stack has empty slots'
    slots = sampler.from_position(epoch, step, epochs)
    ahead, steps = None, sampler.steps_per_epoch
    for batch in self._stream(slots):
      step = step % steps + 1
      length = batch['features'].shape[1]
      batch = jax.tree.map(lambda x: x[None, None], batch)
      batch = self.sharding.put_local(batch, STEPS)
      if ahead is not None:
        yield ahead
      ahead = Chunk(batch, None, 1, ends_epoch=step == steps, length=length)
    if ahead is not None:
      yield ahead

  def evaluation(
    self, rows: Sequence[np.ndarray], references: Sequence[References]
  ) -> Evaluation:
    slots, places = pipeline.for_evaluation(
      self.source, rows[0], self.eval_rows, references[0]
    )
    assembled: Iterator[dict[str, np.ndarray]]
    if self.source.in_memory:
      # This is faster than any pipeline.
      mine = jax.process_index(), jax.process_count()
      assembled = (self.source.batch(*slot.part(*mine)) for slot in slots)
    else:
      assembled = self._stream(slots)
    batches = (
      self.sharding.put_local(jax.tree.map(lambda x: x[None], batch), ROWS)
      for batch in assembled
    )
    return batches, [places]
