"""How long to train, as the results of an earlier run say."""

import os
import pathlib
import statistics
from collections.abc import Mapping

import ml_collections

from jaxser.core import config as config_lib
from jaxser.core import files
from jaxser.evaluation import results

# Fields, and groups of fields, without which its best epoch is another one.
_SAME = (
  *('system', 'model', 'corpus', 'test_corpus', 'features', 'data'),
  *('batch_size', 'optimizer'),
)


def best_epoch(
  workdir: os.PathLike[str] | str,
  config: ml_collections.ConfigDict,
  fingerprints: Mapping[str, str],
) -> int:
  """Returns the median, over folds and seeds, of a run's best epochs.

  That is of those chosen on development splits; between two epochs the later.
  """
  workdir = pathlib.Path(workdir)
  found = results.read_results(workdir / 'results.json')
  what = f'--config.epochs_from={workdir}'
  path = workdir / 'config.json'
  if not path.is_file():
    raise config_lib.ConfigError(f'{what}: {path} is missing.')
  there = config_lib.flatten(files.read_json(path))
  here = config_lib.flatten(config_lib.to_json(config))
  pairs = {
    name: (there[name], value)
    for name, value in here.items()
    # One that is missing there is of a later version.
    if name in there
    and name.partition('.')[0] in _SAME
    and name not in config_lib.FREE
  }
  stores = found.get('environment', {}).get('stores', {})
  for name, fingerprint in fingerprints.items():
    before = stores.get(name, {}).get('fingerprint', 'none')
    pairs[f'dataset of {name}'] = before, fingerprint
  differing = [
    f'{name}: there {before!r}, now {now!r}'
    for name, (before, now) in pairs.items()
    if before != now
  ]
  if differing:
    raise config_lib.ConfigError(
      f'{what} trained something else ({"; ".join(differing)}); name a run of '
      'the same system on the same corpus.'
    )
  chosen = found['selections'].get('best_on_dev')
  if chosen is None:
    raise config_lib.ConfigError(
      f'{what} chose no epoch on a development split (it has '
      f'{", ".join(found["selections"])}); name a run with best_on_dev.'
    )
  return statistics.median_high(fold['epoch'] for fold in chosen['per_fold'])
