"""The program of all folds and seeds at once, for a corpus that is made up."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.benchmark import programs, timing, workload
from jaxser.benchmark.timing import Program
from jaxser.data.corpus import Corpus
from jaxser.engine import step
from jaxser.engine.folds import program as folds_program
from jaxser.engine.folds.grid import Grid
from jaxser.engine.folds.state import Settings, Shapes
from jaxser.systems.base import System


def program_of(
  config: Any,
  system: System,
  corpus: Corpus,
  shape: Sequence[int],
  devices: Sequence[Any],
  trainings: int,
  utterances: int,
  size: int,
  phase: Hashable,
) -> tuple[Any, tuple[Any, ...]]:
  """The jitted program of so many trainings, and its abstract arguments.

  As in ten random folds, nine tenths of the utterances are trained on and one
  tenth is tested in every epoch, with room for the largest of the folds. What is
  counted per call (operations, collectives) is counted per epoch: their number
  is an argument.

  Args:
    config: a recipe.
    system: made of it.
    corpus: made up, see `workload.made_up_corpus`.
    shape: of one utterance's features.
    devices: on which it would run; those of a topology, too.
    trainings: all together.
    utterances: of the corpus on the devices.
    size: utterances of a step of one training.
    phase: static part of the loss.
  """
  grid = Grid(trainings, devices)
  optimizer = step.make_optimizer(config.optimizer)
  trained, _ = workload.fold_sizes(utterances)
  tested = -(-utterances // 10)
  settings = dataclasses.replace(
    Settings.from_config(config),
    accumulate=workload.micro_batches(config, size),
  )
  shapes = Shapes(
    trainings=grid.slots(trainings),
    epochs=min(config.checkpoint_every, config.epochs),
    steps=-(-trained // size),
    batch=grid.padded(size, settings.accumulate),
    utterances=utterances,
    features=tuple(shape),
    sides=(('test', 1, grid.padded(tested)),),
  )
  training = folds_program.abstract_training(
    system, optimizer, shapes, corpus.table.vad, corpus.table.labels
  )
  return folds_program.program(
    system,
    optimizer,
    settings,
    shapes,
    training,
    grid,
    phase=phase,
  )


def epoch(
  config: Any,
  system: System,
  corpus: Corpus,
  shape: Sequence[int],
  trainings: int,
  utterances: int,
  size: int,
) -> Program:
  """A program whose call trains and tests one epoch of all trainings.

  Arguments as in `program_of`, on all devices of this process. The epoch is of
  the phase in which training ends.
  """
  function, arguments = program_of(
    config,
    system,
    corpus,
    shape,
    jax.devices(),
    trainings,
    utterances,
    size,
    system.phase(config.epochs - 1),
  )
  compiled, facts = programs.compiled(function, jax.device_count(), *arguments)
  data, carried, tasks, order, first, count = jax.tree.map(_zeros, arguments)
  rng = np.random.default_rng(0)

  def drawn(array):
    return _like(array, rng.integers(0, utterances, array.shape))

  features = rng.standard_normal(data['features'].shape, np.float32)
  data |= {
    'features': _like(data['features'], features),
    'length': _like(data['length'], shape[0]),
    'label': _like(data['label'], np.arange(utterances) % len(corpus.classes)),
  }
  steps = order['rows'].shape[2]
  order = jax.tree.map(drawn, order)
  tasks = tasks.replace(
    steps=_like(tasks.steps, steps),
    sides=jax.tree.map(drawn, tasks.sides),
    scored=jax.tree.map(lambda x: _like(x, True), tasks.scored),
  )
  count = _like(count, 1)

  def run(calls):
    nonlocal carried
    for _ in range(calls):
      carried, curves = compiled(data, carried, tasks, order, first, count)
    jax.block_until_ready((carried, curves))

  return Program(
    timing.OURS,
    'training',
    trainings * utterances,
    run=run,
    dtype=programs.dtype_of(system),
    variant=f'{trainings} folds',
    **facts,
  )


def _zeros(abstract: jax.ShapeDtypeStruct) -> jax.Array:
  value = jnp.zeros(abstract.shape, abstract.dtype)
  return jax.device_put(value, abstract.sharding)


def _like(array: jax.Array, value: Any) -> jax.Array:
  """The value, broadcast to the shape of an array, in its place."""
  full = np.broadcast_to(np.asarray(value), array.shape).astype(array.dtype)
  return jax.device_put(full, array.sharding)
