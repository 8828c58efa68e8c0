"""A trace of some training steps, for xprof and TensorBoard."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

from jaxser.core.errors import ConfigError
from jaxser.core.files import Path
from jaxser.data.protocols import Fold
from jaxser.engine.experiment import Experiment

_T = TypeVar('_T')
Note = Callable[[str], None]


def check(experiment: Experiment, folds: Sequence[Fold]) -> None:
  """Raises ConfigError if no run takes the steps of config.profile."""
  config, steps = experiment.config, 0
  if experiment.system.fit is None:
    longest = max(len(fold.train) for fold in folds)
    steps = config.epochs * -(-longest // config.batch_size)
  if config.profile and int(config.profile.partition(':')[0]) > steps:
    raise ConfigError(
      f'--config.profile={config.profile} names steps that no run takes; there '
      f'are {steps}.'
    )


class Trace:
  """Traces the calls of certain steps of the first stack; some are an epoch."""

  def __init__(self, steps='', folder: Path = '', note: Note = print):
    """Starts nothing yet; `steps` are config.profile, '' traces nothing."""
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
      text = 'config.profile: its steps were not taken, nothing was traced.'
      self._note(text)
    self._running, self._last = False, 0
