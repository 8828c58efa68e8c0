"""A trace of some training steps, for xprof and TensorBoard."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

from jaxser.core.config import ConfigError
from jaxser.data.protocols import Fold
from jaxser.engine.experiment import Experiment

_T = TypeVar('_T')


def check(experiment: Experiment, folds: Sequence[Fold]) -> None:
  """Raises ConfigError if no run takes the steps of config.profile."""
  config = experiment.config
  if not config.profile:
    return
  longest = max(len(fold.train) for fold in folds)
  steps = config.epochs * -(-longest // config.batch_size)
  if experiment.system.fit is not None:
    steps = 0
  if int(config.profile.partition(':')[0]) > steps:
    raise ConfigError(
      f'--config.profile={config.profile} names steps that no run takes; there '
      f'are {steps}.'
    )


class Trace:
  """Traces the calls that take certain steps of the first stack of runs.

  Where the corpus lies on the devices a call is an epoch, and whole epochs are
  traced. The first steps include compiling where batches are streamed.
  """

  def __init__(
    self,
    steps: str = '',
    folder: os.PathLike[str] | str = '',
    note: Callable[[str], None] = print,
  ):
    """Starts nothing yet.

    Args:
      steps: config.profile, 'FIRST:LAST' counted from 1; '' traces nothing.
      folder: for TensorBoard; the trace lies in plugins/profile below it.
      note: gets a line about what was written.
    """
    first, _, last = (steps or '0:0').partition(':')
    self._first, self._last = int(first), int(last)
    self._folder, self._note = os.fspath(folder), note
    self._running = False

  def call(self, done: int, steps: int, function: Callable[[], _T]) -> _T:
    """Calls a function that takes so many steps after those that are done."""
    if not self._running and self._first <= done + steps and done < self._last:
      jax.profiler.start_trace(self._folder)
      self._running = True
    outputs = function()
    if self._running and done + steps >= self._last:
      jax.block_until_ready(outputs)
      self.close()
    return outputs

  def close(self) -> None:
    """Ends a trace that is under way; none begins any more."""
    if self._running:
      jax.profiler.stop_trace()
      self._note(f'The trace is in {self._folder}/plugins/profile.')
    elif self._last:
      self._note(
        'config.profile: its steps were not taken, nothing was traced.'
      )
    self._running, self._last = False, 0
