"""Whether the data arrive in time: a step that waits, beside one that does not."""

import contextlib
import time
from typing import Any

import jax
import numpy as np

from jaxser.benchmark.timing import BenchmarkError


def run(config: Any, data_dir: str, steps: int = 50) -> dict[str, Any]:
  """Trains on a prepared corpus, with the engine's own pipeline.

  Three times are compared: of steps on one batch that lies on the device, of
  the pipeline with nobody waiting for the device, and of both together.

  Args:
    config: a recipe; its corpus must be prepared.
    data_dir: where.
    steps: at most; a small corpus is read several times over.

  Raises:
    BenchmarkError: if the first fold has no utterance to train on.
    StoreError: if the corpus is not prepared; the message gives the command.
  """
  # Reading a corpus needs TensorFlow; the other measurements do not.
  from jaxser import train
  from jaxser.data import opening, pipeline
  from jaxser.engine import context as context_lib

  config = config.copy_and_resolve_references()
  config.data_dir = data_dir
  corpus = opening.open_corpus(config)
  folds = train.choose_folds(
    train.make_folds(config, corpus), config.fold_subset
  )
  context = train.make_context(config, corpus, folds)
  fold, placement = folds[0], context.placement
  if not len(fold.train):
    raise BenchmarkError(f'fold {fold.number} trains on no utterance.')
  sampler = context_lib.make_sampler(context, config.seed, fold)
  slots = list(sampler.epoch(0))
  if len({slot.length for slot in slots}) > 1:
    # One length, one program: of several the compiler's time would be in here.
    longest = max(slot.length for slot in slots)
    slots = [slot for slot in slots if slot.length == longest]
  steps = min(steps, 10 * len(slots))
  slots = [slots[i % len(slots)] for i in range(steps)]
  state = placement.put_state(
    context_lib.first_state(context, config.seed, fold)
  )
  epoch = np.int32(config.epochs - 1)
  train_step = context.train_fn(context.system.phase(int(epoch)))
  resident = placement.put_batch(context.source.batch(slots[0]))
  state, _ = jax.block_until_ready(train_step(state, resident, epoch))

  start = time.perf_counter()
  for _ in range(steps):
    state, metrics = train_step(state, resident, epoch)
  jax.block_until_ready((state, metrics))
  alone = (time.perf_counter() - start) / steps

  start = time.perf_counter()
  with contextlib.closing(pipeline.stream(context.source, iter(slots))) as data:
    for batch in data:
      resident = placement.put_batch(batch)
  jax.block_until_ready(resident)
  reading = (time.perf_counter() - start) / steps

  start = time.perf_counter()
  with contextlib.closing(pipeline.stream(context.source, iter(slots))) as data:
    ahead = None
    for batch in data:
      if ahead is not None:
        state, metrics = train_step(state, ahead, epoch)
      ahead = placement.put_batch(batch)
    state, metrics = train_step(state, ahead, epoch)
  jax.block_until_ready((state, metrics))
  together = (time.perf_counter() - start) / steps
  return {
    'corpus': corpus.name,
    'steps': steps,
    'step_milliseconds': 1e3 * alone,
    'pipeline_milliseconds': 1e3 * reading,
    'together_milliseconds': 1e3 * together,
    'share_waiting': max(0.0, 1 - alone / together),
  }
