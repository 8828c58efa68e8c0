"""What the command measures, and which flags each measurement listens to."""

from collections.abc import Mapping

from jaxser.benchmark.timing import BenchmarkError

SPEED = 'speed'
DEVICES = '--scale=devices'
FOLDS = '--scale=folds'
TOPOLOGY = '--topology'
CHECKPOINT = '--checkpoint'

_EVERYWHERE = {'json', 'keep_heap'}
_TIMED = {
  'into',
  'batch_size',
  'classes',
  'config',
  'rounds',
  'seconds',
  'ceilings',
}
FLAGS = {
  SPEED: _TIMED | {'compare', 'data_dir', 'dtypes', 'latency'},
  DEVICES: _TIMED | {'counts', 'scale'},
  FOLDS: _TIMED | {'compare', 'counts', 'scale'},
  TOPOLOGY: {
    'batch_size',
    'classes',
    'config',
    'effort',
    'markdown',
    'topology',
    'trainings',
  },
  CHECKPOINT: {'checkpoint', 'files', 'into'},
}
"""By measurement, its flags besides those that all have."""


def every_flag() -> set[str]:
  """Names of all flags of the command."""
  return _EVERYWHERE.union(*FLAGS.values())


def choose(given: Mapping[str, str]) -> str:
  """The measurement that the flags ask for.

  Args:
    given: flags by name, as they were typed: {'scale': '--scale=folds'}.

  Raises:
    BenchmarkError: if one of them would have no effect on it.
  """
  if 'checkpoint' in given:
    mode = CHECKPOINT
  elif 'topology' in given:
    mode = TOPOLOGY
  else:
    mode = given.get('scale', SPEED)
  for name in sorted(set(given) - _EVERYWHERE - FLAGS[mode]):
    if mode == SPEED:
      places = [place for place, names in FLAGS.items() if name in names]
      needed = ' or '.join(places)
      raise BenchmarkError(
        f'{given[name]} has no effect without {needed}; leave it out, or add '
        f'{needed}.'
      )
    raise BenchmarkError(
      f'{given[name]} has no effect with {mode}; leave out one of the two.'
    )
  return mode
