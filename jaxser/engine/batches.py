"""Batches of a stack of runs on the devices, in one of two ways.

`Resident`: the corpus lies on the devices and a batch is its row numbers, so
that an epoch is one call. `Streamed`: arrays come batch by batch, read ahead by
tf.data where the corpus is larger than memory; one run at a time. Both draw the
same batches.
"""

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxser.data import pipeline
from jaxser.engine.sharding import EVERYWHERE, ROWS, STEPS, Sharding
from jaxser.systems.base import Tree

Samplers = Sequence[pipeline.Sampler | None]
References = Mapping[str, np.ndarray]
_CORPUS = ('features', 'length', 'label', 'vad', 'speaker')


class Chunk(NamedTuple):
  """Batches of one call of the training program.

  Attributes:
    batches: on the devices, as `jaxser.engine.stack.Programs.train` takes them.
    real: bool [runs, steps], on the host; None if all steps are.
    steps: how many.
    ends_epoch: whether these are the last of an epoch.
    length: frames or samples of streamed rows, each compiled once; else 0.
  """

  batches: Tree
  real: np.ndarray | None
  steps: int
  ends_epoch: bool
  length: int = 0


class Resident:
  """Row numbers into a corpus on the devices.

  Attributes:
    name: for results.json.
    steps: of an epoch, as many as the longest run has.
  """

  name = 'resident'

  def __init__(
    self,
    source: pipeline.Source,
    sharding: Sharding,
    *,
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
      steps: of the longest run's epoch.
    """
    self._source, self._sharding = source, sharding
    self._rows, self._eval_rows, self.steps = rows, eval_rows, steps

  def _corpus(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    batch = self._source.batch(pipeline.Slot(rows, self._source.max_length))
    return {name: batch[name] for name in _CORPUS}

  @functools.cached_property
  def corpus(self) -> Tree:
    """The whole corpus on every device."""
    rows = np.arange(len(self._source.corpus.table))
    return self._sharding.put(self._corpus(rows), EVERYWHERE)

  @property
  def shapes(self) -> Tree:
    """Shapes of the corpus."""
    count = len(self._source.corpus.table)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype),
      self._corpus(np.zeros(1, np.int64)),
    )

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Iterator[Chunk]:
    """Yields one chunk per epoch.

    Args:
      samplers: of each run; None where the stack is not full.
      epoch: epochs completed.
      step: steps of the next one completed; here 0.
      epochs: after which training ends.
    """
    assert step == 0, 'epochs on the devices are whole'
    shape = (len(samplers), self.steps, self._rows)
    for current in range(epoch, epochs):
      rows = collections.defaultdict(
        lambda: np.full(shape, pipeline.PADDING_ROW, np.int32)
      )
      real = np.zeros(shape[:2], bool)
      for run, sampler in enumerate(samplers):
        for i, slot in enumerate(sampler.epoch(current) if sampler else ()):
          real[run, i] = True
          for name, column in {'rows': slot.rows, **slot.references}.items():
            rows[name][run, i] = column
      chunk = self._sharding.put(self._indices(rows), STEPS)
      yield Chunk(chunk, real, self.steps, ends_epoch=True)

  def _indices(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    shape = rows['rows'].shape
    position = np.arange(shape[-1], dtype=np.int32)
    return {**rows, 'row': np.broadcast_to(position, shape).copy()}

  def evaluation(
    self, rows: Sequence[np.ndarray], references: Sequence[References]
  ) -> tuple[Iterator[Tree], list[np.ndarray]]:
    """Returns batches that hold each run's rows once.

    Args:
      rows: int [n] of every run.
      references: of every run, see `pipeline.for_evaluation`.

    Returns:
      The batches on the devices, and for each run int [n]: where in their
      concatenation its rows are.
    """
    size = self._eval_rows
    count = -(-max(map(len, rows)) // size)

    def cut(columns):
      padded = np.stack([pipeline.pad_rows(r, count * size) for r in columns])
      return padded.astype(np.int32).reshape(len(rows), count, size)

    whole = {'rows': cut(rows)}
    for name in references[0]:
      whole[name] = cut([beside[name] for beside in references])
    batches = (
      self._sharding.put(
        self._indices({n: x[:, i] for n, x in whole.items()}), ROWS
      )
      for i in range(count)
    )
    return batches, [np.arange(len(r)) for r in rows]


class Streamed:
  """Arrays of one run's batches, sharded over the devices.

  Attributes:
    name: for results.json.
    corpus: nothing.
  """

  name = 'streamed'

  def __init__(
    self,
    source: pipeline.Source,
    sharding: Sharding,
    *,
    rows: int,
    eval_rows: int,
    steps: int,
  ):
    """Reads nothing yet; arguments as of `Resident`."""
    del rows, steps
    self._source, self._sharding = source, sharding
    self._eval_rows, self.corpus = eval_rows, {}
    self._process = jax.process_index(), jax.process_count()

  def _stream(self, slots) -> Iterator[dict[str, np.ndarray]]:
    index, count = self._process
    return pipeline.stream(
      self._source, slots, process_index=index, process_count=count
    )

  def training(
    self, samplers: Samplers, epoch: int, step: int, epochs: int
  ) -> Iterator[Chunk]:
    """Yields chunks of one step, one of them ahead; see `Resident.training`."""
    (sampler,) = samplers
    slots = sampler.from_position(epoch, step, epochs)
    ahead, steps = None, sampler.steps_per_epoch
    for batch in self._stream(slots):
      step = step % steps + 1
      length = batch['features'].shape[1]
      batch = jax.tree.map(lambda x: x[None, None], batch)
      batch = self._sharding.put_local(batch, STEPS)
      if ahead is not None:
        yield ahead
      ahead = Chunk(batch, None, 1, ends_epoch=step == steps, length=length)
    if ahead is not None:
      yield ahead

  def evaluation(
    self, rows: Sequence[np.ndarray], references: Sequence[References]
  ) -> tuple[Iterator[Tree], list[np.ndarray]]:
    """Returns batches of the one run's rows; see `Resident.evaluation`."""
    slots, places = pipeline.for_evaluation(
      self._source, rows[0], self._eval_rows, references[0]
    )
    if self._source.in_memory:
      # This is faster than any pipeline.
      assembled = (self._source.batch(*s.part(*self._process)) for s in slots)
    else:
      assembled = self._stream(slots)
    batches = (
      self._sharding.put_local(jax.tree.map(lambda x: x[None], batch), ROWS)
      for batch in assembled
    )
    return batches, [places]
