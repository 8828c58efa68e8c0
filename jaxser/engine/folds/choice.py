"""Which engine trains: all folds in one program, or batch by batch."""

from collections.abc import Callable, Sequence

from jaxser.core.config import ConfigError
from jaxser.data import protocols
from jaxser.engine import context as context_lib
from jaxser.engine.folds import memory
from jaxser.engine.folds.engine import Engine


def choose(
  context: context_lib.Context,
  trainings: Sequence[tuple[int, protocols.Fold]],
  say: Callable[[str], None],
) -> Engine | None:
  """The engine of config.engine, compiled, or None for the other one.

  Args:
    context: what all trainings share.
    trainings: those of the run.
    say: gets a line that tells people what was chosen and why.

  Raises:
    ConfigError: if config.engine is 'folds' and cannot be.
  """
  wanted = context.config.engine
  if wanted == 'stream':
    return None
  reason = obstacle(context)
  if reason is not None and wanted == 'folds':
    raise ConfigError(
      f'--config.engine=folds is not possible: {reason}. Use '
      '--config.engine=stream, or auto.'
    )
  if reason is None:
    try:
      engine = Engine(context, trainings)
    except memory.DoesNotFitError as error:
      if wanted == 'folds':
        raise
      reason = str(error)
    else:
      say(
        f'Engine folds: {engine.at_once} of {len(trainings)} trainings at once '
        f'on {engine.grid.folds} x {engine.grid.data} devices, each needs '
        f'{memory.show(engine.needed)}.'
      )
      return engine
  say(f'Engine stream: {reason}.')
  return None


def obstacle(context: context_lib.Context) -> str | None:
  """Why the corpus cannot stay on the devices, or None."""
  config, source = context.config, context.source
  if config.parallel != 'jit':
    return f'--config.parallel={config.parallel} trains fold by fold'
  if len(source.buckets) > 1:
    return 'data.buckets make batches of several lengths'
  if not source.in_memory:
    return (
      'the corpus is larger than --config.data.cache_gib='
      f'{config.data.cache_gib:g}, so it is read from disk'
    )
  return None
