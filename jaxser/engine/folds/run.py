"""Trains every fold of every seed with the compiled program of many trainings."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxser.core import progress
from jaxser.data import protocols
from jaxser.engine import checkpoints, distributed, interruption
from jaxser.engine import context as context_lib
from jaxser.engine import evaluator as evaluation
from jaxser.engine import stream as fold_lib
from jaxser.engine.folds import state
from jaxser.engine.folds.engine import Engine, Group
from jaxser.evaluation import curves, metrics

Tree = Any
# A call trains so many epochs that people see progress and a signal is heard.
_SECONDS_PER_CALL = 5.0


def train(
  engine: Engine,
  context: context_lib.Context,
  trainings: Sequence[tuple[int, protocols.Fold]],
  left: Sequence[tuple[int, protocols.Fold]],
  initial: dict[int, tuple[Tree, Tree]] | None,
  run: context_lib.Run,
) -> None:
  """Trains all that is left, as many at once as the engine can.

  Args:
    engine: made for these trainings.
    context: what all trainings share.
    trainings: all of the run, in the order of its files.
    left: those that are not finished.
    initial: (params, model_state) by fold to start from, or None.
    run: the run.

  Raises:
    Interrupted: once a signal was noted and the position saved.
  """
  known = {(seed, fold.number): (seed, fold) for seed, fold in trainings}
  place = {name: number for number, name in enumerate(known)}
  left = [(seed, fold.number) for seed, fold in left]
  with checkpoints.Checkpoints(run.workdir / 'checkpoints' / 'folds') as store:
    position = _Position.restore(store, engine, left)
    if position is not None:
      _announce(position, left, context.config.epochs, run)
    while left:
      if position is None:
        members = [known[name] for name in left[: engine.at_once]]
        position = _Position.begin(store, engine, context, members, initial)
      group = engine.group(
        [known[name] for name in position.names], position.trainings
      )
      position.trainings = None
      _train_group(engine, context, group, position, store, run)
      _finish_group(engine, group, run)
      # Several trainings wrote by turns; files are in the order of trainings.
      rows = run.writer.read()
      rows.sort(key=lambda row: (place[row['seed'], row['fold']], row['epoch']))
      run.writer.keep(rows)
      left = [name for name in left if name not in position.names]
      position = None


def _announce(
  position: '_Position', left: Sequence, epochs: int, run: context_lib.Run
) -> None:
  """Curves and progress as they were at the checkpoint."""
  others = [
    row
    for row in run.writer.read()
    if (row['seed'], row['fold']) not in position.names
  ]
  run.writer.keep([*others, *position.curve])
  done = sum(row['split'] == 'train' for row in position.curve)
  # Those that are finished already were counted whole.
  finished = sum(name not in left for name in position.names)
  run.bar.skip(done - finished * epochs)
  run.bar.note(
    f'{len(position.names)} trainings continue after epoch {position.epoch}'
  )


class _Position:
  """How far a group is: what a checkpoint holds beside the arrays."""

  def __init__(
    self,
    names: list[tuple[int, int]],
    trainings: list[state.Training] | None,
    *,
    base: int,
    epoch: int = 0,
    curve: Sequence[dict[str, Any]] = (),
  ):
    """A group that is about to train.

    Args:
      names: (seed, fold number) of each member.
      trainings: their states.
      base: number of the group's first checkpoint.
      epoch: epochs trained.
      curve: rows of metrics.jsonl so far.
    """
    self.names, self.trainings = names, trainings
    self.base, self.epoch, self.curve = base, epoch, list(curve)

  @classmethod
  def begin(
    cls,
    store: checkpoints.Checkpoints,
    engine: Engine,
    context: context_lib.Context,
    members: Sequence[tuple[int, protocols.Fold]],
    initial: dict[int, tuple[Tree, Tree]] | None,
  ) -> '_Position':
    """A group before its first epoch."""
    starts = []
    for seed, fold in members:
      given = initial and initial[fold.number]
      first = context_lib.first_state(context, seed, fold, given)
      starts.append(state.start(first, engine.sides))
    return cls(
      [(seed, fold.number) for seed, fold in members],
      starts,
      base=0 if store.latest is None else store.latest + 1,
    )

  def save(self, store: checkpoints.Checkpoints, trainings: Tree) -> None:
    """Saves everything that `restore` needs to go on with the next epoch."""
    store.save(
      # Rises from epoch to epoch and from group to group.
      self.base + self.epoch,
      {'trainings': trainings},
      {
        'trainings': self.names,
        'base': self.base,
        'epoch': self.epoch,
        'curve': self.curve,
      },
    )

  @classmethod
  def restore(
    cls,
    store: checkpoints.Checkpoints,
    engine: Engine,
    left: Sequence[tuple[int, int]],
  ) -> '_Position | None':
    """The group of the newest checkpoint, unless it is finished.

    If memory now holds fewer, the first ones continue and the others, which the
    checkpoint then forgets, start again later.
    """
    if store.latest is None:
      return None
    about = store.restore_about()
    names = [tuple(name) for name in about['trainings']]
    if not any(name in left for name in names):
      return None
    restored = store.restore({'trainings': engine.blank(len(names))})
    each = [
      jax.tree.map(lambda x: x[i], restored['trainings'])
      for i in range(len(names))
    ]
    kept = names[: engine.at_once]
    return cls(
      kept,
      each[: engine.at_once],
      base=about['base'],
      epoch=about['epoch'],
      curve=[r for r in about['curve'] if (r['seed'], r['fold']) in kept],
    )


def _train_group(engine, context, group, position, store, run) -> None:
  """Trains a group to its last epoch, call by call."""
  config, seconds = context.config, math.inf
  stopped = False

  def save():
    position.save(store, group.host(engine.grid))

  while position.epoch < config.epochs and not stopped:
    asked = run.watch.asked()
    if asked is not None:
      save()
      raise interruption.Interrupted(asked)
    start = time.monotonic()
    count = _epochs_of_call(context, position.epoch, seconds)
    found = engine.run(group, position.epoch, count)
    seconds = (time.monotonic() - start) / count
    rows = _rows(context, group, found, position.epoch, count)
    position.epoch += count
    position.curve += rows
    run.writer.add(rows)
    _show(context, group, rows, run.bar)
    stopped = not np.any(found['active'][: len(group.members), count - 1])
    if position.epoch % config.checkpoint_every == 0:
      save()
  trained = sum(row['split'] == 'train' for row in position.curve)
  run.bar.skip(config.epochs * len(group.members) - trained)
  save()


def _epochs_of_call(
  context: context_lib.Context, epoch: int, seconds: float
) -> int:
  """Epochs of the next call, all of one phase, up to the next checkpoint."""
  config, phase = context.config, context.system.phase
  every = config.checkpoint_every
  most = min(every - epoch % every, config.epochs - epoch)
  same = 1
  while same < most and phase(epoch + same) == phase(epoch):
    same += 1
  # All processes must do the same, and their clocks differ.
  if distributed.several():
    return same
  return max(1, min(same, int(_SECONDS_PER_CALL / max(seconds, 1e-6))))


def _rows(context, group: Group, found: Tree, first: int, count: int) -> list:
  """Rows of metrics.jsonl of one call, as the other engine writes them."""
  config, rows = context.config, []
  for number, (seed, fold) in enumerate(group.members):
    steps = group.samplers[number].steps_per_epoch
    for i in range(count):
      if not found['active'][number, i]:
        continue
      epoch = first + i + 1
      about = {'seed': seed, 'fold': fold.number, 'epoch': epoch}
      each = [
        {name: float(x[number, i, s]) for name, x in found['train'].items()}
        for s in range(steps)
      ]
      mean = fold_lib.mean_of_steps(each)
      rows.append({**about, 'split': 'train', **mean})
      if epoch % config.eval_every and epoch != config.epochs:
        continue
      for side in state.SIDES:
        if side in found and len(getattr(fold, side)):
          counted = {name: x[number, i] for name, x in found[side].items()}
          rows.append({**about, 'split': side, **_values(counted)})
  return rows


def _values(counted: dict[str, np.ndarray]) -> dict[str, float]:
  if 'ccc' in counted:
    return evaluation.agreement(counted['ccc'].astype(np.float64))
  confusion = metrics.Confusion(counted['confusion'].astype(np.int64))
  return {**confusion.value(), 'loss': float(counted['loss'])}


def _show(context, group: Group, rows: list, bar: progress.Progress) -> None:
  """Counts the epochs of a call and says how the last one was."""
  trained = [row for row in rows if row['split'] == 'train']
  if not trained:
    return
  last = [r for r in rows if r['epoch'] == trained[-1]['epoch']]
  shown = [r for r in last if r['split'] == last[-1]['split']]
  metric = context.config.selection_metric
  about = f'epoch {shown[-1]["epoch"]} {shown[-1]["split"]}'
  if len(group.members) == 1:
    about = f'seed {shown[0]["seed"]} fold {shown[0]["fold"]} {about}'
  else:
    about = f'{len(group.members)} trainings at once, {about}, mean of'
  bar.skip(len(trained) - 1)
  bar.advance(f'{about} {curves.in_words(shown, metric)}')


def _finish_group(engine: Engine, group: Group, run: context_lib.Run) -> None:
  """Hands out the answers and weights of every member and selection."""
  trainings, host = group.trainings, group.host(engine.grid)

  def weights(tree):
    return (tree.params, tree.model_state)

  chosen = {'last': (host.epoch, weights(host.state))}
  answers = {'last': engine.answers(group, weights(trainings.state))}
  for side in engine.sides:
    name = state.SIDES[side]
    chosen[name] = (host.best[side].epoch, host.best[side].weights)
    answers[name] = engine.answers(group, trainings.best[side].weights)
  for number, (seed, fold) in enumerate(group.members):
    names = [
      name for name in chosen if name != state.SIDES['dev'] or len(fold.dev)
    ]
    run.finish(
      seed,
      fold,
      {
        name: (int(chosen[name][0][number]), answers[name][number])
        for name in names
      },
      {
        name: (
          int(chosen[name][0][number]),
          *jax.tree.map(lambda x: x[number], chosen[name][1]),
        )
        for name in names
      },
    )
