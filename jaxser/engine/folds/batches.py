"""The rows of many trainings, as arrays of equal shape for one program."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxser.data import pipeline, protocols
from jaxser.engine import context as context_lib
from jaxser.engine.folds.grid import Grid
from jaxser.engine.folds.state import Shapes, Task

# A seed and a fold; None is a slot without a training.
Slot = tuple[int, protocols.Fold] | None


def corpus_arrays(source: pipeline.Source) -> dict[str, np.ndarray]:
  """Every utterance as the other engine's batches would hold it."""
  rows = np.arange(len(source.corpus.table))
  batch = source.batch(pipeline.Slot(rows, source.max_length))
  names = ('features', 'length', 'label', 'vad', 'speaker')
  return {name: batch[name] for name in names}


def shapes_of(
  context: context_lib.Context,
  trainings: Sequence[tuple[int, protocols.Fold]],
  grid: Grid,
  count: int,
) -> Shapes:
  """Sizes that hold each of these trainings, `count` of them at once."""
  config, source = context.config, context.source
  scored = ('dev', 'test') if config.select_on_test else ('dev',)
  sides = []
  for name in scored:
    longest = max(len(getattr(fold, name)) for _, fold in trainings)
    if longest:
      sides.append((name, *side_shape(longest, config.eval_batch_size, grid)))
  largest = max(len(fold.train) for _, fold in trainings)
  return Shapes(
    trainings=grid.slots(count),
    epochs=min(config.checkpoint_every, config.epochs),
    steps=-(-largest // config.batch_size),
    batch=grid.padded(config.batch_size, config.accumulate),
    utterances=len(source.corpus.table),
    features=(source.max_length, *source.corpus.feature_shape[1:]),
    sides=tuple(sides),
  )


def side_shape(rows: int, batch_size: int, grid: Grid) -> tuple[int, int]:
  """(batches, rows of a batch) that hold a side with the least padding."""
  batches = -(-rows // batch_size)
  return batches, grid.padded(-(-rows // batches))


def side_rows(rows: np.ndarray, batches: int, size: int) -> np.ndarray:
  """int32 [batches, size], -1 where there is no row."""
  padded = pipeline.pad_rows(rows, batches * size)
  return padded.reshape(batches, size).astype(np.int32)


def tasks(
  context: context_lib.Context, slots: Sequence[Slot], shapes: Shapes
) -> Task:
  """The constants of every slot, on the host."""
  size = context.config.batch_size
  none = np.zeros(0, np.int64)

  def side(name):
    return [none if slot is None else getattr(slot[1], name) for slot in slots]

  return Task(
    steps=np.array([-(-len(rows) // size) for rows in side('train')], np.int32),
    sides={
      name: np.stack([side_rows(rows, batches, rows_) for rows in side(name)])
      for name, batches, rows_ in shapes.sides
    },
    scored={
      name: np.array([len(rows) > 0 for rows in side(name)])
      for name, _, _ in shapes.sides
    },
  )


def samplers(
  context: context_lib.Context, slots: Sequence[Slot], shapes: Shapes
) -> list[pipeline.Sampler | None]:
  """What orders each slot's batches: the same as in the other engine."""
  return [
    slot and context_lib.make_sampler(context, *slot, padded_size=shapes.batch)
    for slot in slots
  ]


def order(
  chosen: Sequence[pipeline.Sampler | None], shapes: Shapes, epoch: int
) -> dict[str, np.ndarray]:
  """Rows of every batch of one epoch.

  Returns:
    {'rows': int32 [slots, steps, batch]}, -1 for padding, and 'partners' where
    batches come with neutral utterances.
  """
  shape = (len(chosen), shapes.steps, shapes.batch)
  found = {'rows': np.full(shape, pipeline.PADDING_ROW, np.int32)}
  if any(one is not None and one.partners is not None for one in chosen):
    found['partners'] = found['rows'].copy()
  for number, sampler in enumerate(chosen):
    if sampler is None:
      continue
    for step, slot in enumerate(sampler.epoch(epoch)):
      found['rows'][number, step] = slot.rows
      if slot.partners is not None:
        found['partners'][number, step] = slot.partners
  return found


def filled(
  orders: Sequence[dict[str, np.ndarray]], epochs: int
) -> dict[str, np.ndarray]:
  """Orders of some epochs as [slots, epochs, steps, batch], filled up."""

  def fill(*arrays):
    shape = (len(arrays[0]), epochs, *arrays[0].shape[1:])
    value = np.full(shape, pipeline.PADDING_ROW, np.int32)
    value[:, : len(arrays)] = np.stack(arrays, 1)
    return value

  return jax.tree.map(fill, *orders)


def stacked(trees: Sequence[Any], count: int) -> Any:
  """Trees of host arrays as one with a leading axis of `count` slots.

  Slots beyond the trees repeat the first one; nothing trains them.
  """
  trees = [*trees, *[trees[0]] * (count - len(trees))]
  return jax.tree.map(
    lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees
  )
