"""What all trainings of a run share, and what each of them starts from."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from jaxser.core import progress
from jaxser.data import partners, pipeline, protocols
from jaxser.engine import interruption, mesh
from jaxser.engine import step as step_lib
from jaxser.engine.evaluator import Evaluator
from jaxser.evaluation import curves
from jaxser.systems.base import System, Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
  """What all folds and seeds of a run share, compiled functions included.

  `pretrained` puts weights that were trained elsewhere into fresh parameters.
  """

  config: ml_collections.ConfigDict
  system: System
  optimizer: optax.GradientTransformation
  placement: mesh.Placement
  source: pipeline.Source
  evaluator: Evaluator
  pretrained: Callable[[Tree], Tree] | None = None
  train_fns: dict[Any, mesh.TrainFn] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def create_state(self) -> Callable[..., step_lib.TrainState]:
    """(rng, batch) -> a fresh state; compiled once for all folds."""
    return jax.jit(
      functools.partial(step_lib.create_state, self.system, self.optimizer)
    )

  def train_fn(self, phase: Any) -> mesh.TrainFn:
    """The step of this phase; compiled once for all folds."""
    if phase not in self.train_fns:
      self.train_fns[phase] = self.placement.compile_train(
        self.system,
        self.optimizer,
        accumulate=self.config.accumulate,
        phase=phase,
      )
    return self.train_fns[phase]


class Run(NamedTuple):
  """Whom an engine tells how its trainings go on.

  Attributes:
    workdir: for checkpoints.
    writer: gets the rows of every epoch.
    bar: is shown.
    watch: says when to stop.
    finish: called for each finished training with seed, fold and, by selection,
      (epoch, answers for the test side) and (epoch, params, model_state).
  """

  workdir: pathlib.Path
  writer: curves.Curves
  bar: progress.Progress
  watch: interruption.Watch
  finish: Callable[..., None]


def first_state(
  context: Context,
  seed: int,
  fold: protocols.Fold,
  initial: tuple[Tree, Tree] | None = None,
) -> step_lib.TrainState:
  """The state before the first epoch.

  Args:
    context: what all trainings share.
    seed: names the initial parameters, with the fold.
    fold: whose training side the system prepares itself with.
    initial: (params, model_state) to start from instead of fresh ones.
  """
  rng = jax.random.fold_in(jax.random.key(seed), fold.number)
  # No initial value depends on what the batch holds, so one row will do.
  row = fold.train[:1]
  neutral = row if context.system.needs_neutral else None
  slot = pipeline.Slot(row, context.source.max_length, neutral)
  state = context.create_state(rng, context.source.batch(slot))
  if context.pretrained is not None:
    state = state.replace(params=context.pretrained(state.params))
  if initial is not None:
    params, model_state = initial
    state = state.replace(params=params, model_state=model_state)
  table = context.source.corpus.table
  return state.replace(
    model_state=context.system.prepare(
      state.model_state, table.vad[fold.train], table.labels[fold.train]
    )
  )


def make_sampler(
  context: Context,
  seed: int,
  fold: protocols.Fold,
  padded_size: int | None = None,
) -> pipeline.Sampler:
  """The batches of a fold's training side, as the config asks for them.

  Args:
    context: what all trainings share.
    seed: names the order, with the fold.
    fold: whose training side is sampled.
    padded_size: rows per batch, padding included; default what the context's
      devices share evenly.
  """
  config, source = context.config, context.source
  found = neutral_partners(context, fold)
  return pipeline.Sampler(
    rows=fold.train,
    lengths=source.lengths[fold.train],
    batch_size=config.batch_size,
    padded_size=padded_size
    or context.placement.padded(config.batch_size, config.accumulate),
    buckets=source.buckets,
    seed=(seed, fold.number),
    partners=found and (lambda epoch: found.training(seed, fold.number, epoch)),
  )


def neutral_partners(
  context: Context, fold: protocols.Fold
) -> partners.Partners | None:
  """The neutral utterances that training rows can come with.

  Raises:
    ProtocolError: if a training speaker has none.
  """
  if not context.system.needs_neutral:
    return None
  corpus = context.source.corpus
  try:
    return partners.find_partners(
      corpus.table.speakers,
      corpus.table.labels,
      partners.neutral_label(corpus.classes),
      fold.train,
      context.config.data.neutral_references,
    )
  except ValueError as error:
    raise protocols.ProtocolError(f'fold {fold.number}: {error}') from error
