"""The weights that the folds of a run start from, or are evaluated with.

Weights that saw an utterance in training say nothing about it in a test. So a
run's own weights are compared with its folds utterance by utterance; weights
of others are accepted only for the folds that they were published for, which
the recipe knows, or where the user vouches for them.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.core import files, tensors
from jaxser.core.config import ConfigError
from jaxser.core.errors import UserError
from jaxser.data import pipeline
from jaxser.models import convert, saved
from jaxser.models.saved import Description
from jaxser.models.weights import ModelError
from jaxser.systems.base import System, Tree


def for_folds(
  config: Any, system: System, source: Any, folds: Sequence[Any]
) -> dict[int, tuple[Tree, Tree]]:
  """Returns (params, state) by fold number from config.init_from."""
  path = pathlib.Path(config.init_from).expanduser()
  if path.is_dir() and not convert.is_authors_folder(system, path):
    return _of_a_run(path, system, source, folds, config.trust_init_from)
  given = convert.load(system, path)
  last = max(fold.number for fold in folds)
  if 1 < len(given) <= last:
    raise ConfigError(
      f'--config.init_from={path} holds {len(given)} models; the run has folds '
      f'up to {last}. Give a file with one model, or with one for every fold.'
    )
  if not config.trust_init_from:
    _check_published(config, path, len(given))
  return {
    fold.number: given[fold.number if len(given) > 1 else 0] for fold in folds
  }


def _check_published(config: Any, path: pathlib.Path, count: int) -> None:
  """Raises ConfigError unless the folds are those of the published weights."""
  published = dict(config.published_folds)
  different = [
    f'--config.{name}={config[name]} instead of {wanted!r}'
    for name, wanted in {**published, 'folds': ''}.items()
    if config[name] != wanted
  ]
  if published and count != published.get('num_folds', 1):
    different.append(f'{count} models instead of {published["num_folds"]}')
  known = 'this recipe knows no folds that it was published for'
  if published:
    known = 'it was published for other folds than this run has '
    known += f'({"; ".join(different)})'
  if different or not published:
    raise ConfigError(
      f'--config.init_from={path}: nobody knows which utterances these weights '
      f'were trained on; {known}, so the result could be worthless. Use the '
      'published folds, or, if you know that nothing that is tested here was '
      'trained on, add --config.trust_init_from: the results then say that '
      f'{saved.CAVEAT}.'
    )


def mark_trusted(results: dict[str, Any], config: Mapping[str, Any]) -> None:
  """Says in the content of results.json what only the user vouches for."""
  caveats = saved.caveats(config)
  results['trust_init_from'] = bool(caveats)
  if caveats:
    results |= {'paper': {}, 'caveats': caveats}


def _of_a_run(
  workdir: pathlib.Path, system: System, source: Any, folds: Any, trusted: bool
) -> dict[int, tuple[Tree, Tree]]:
  """Returns (params, state) by fold number from another run's folder.

  Its first seed and default selection are taken, fold by fold; a run of one
  fold gives its weights to all.
  """
  description, corpus = saved.open(workdir), source.corpus
  if description.classes != tuple(corpus.classes):
    theirs, ours = (
      ', '.join(names) or 'no classes'
      for names in (description.classes, corpus.classes)
    )
    raise ModelError(
      f'{workdir} was trained for {theirs}; this run has {ours}. Weights go '
      'only with the same classes.'
    )
  seed = min((t.seed for t in description.trainings), default=0)
  there = {t.fold: t for t in description.choose(seeds=[seed])}
  numbers = [fold.number for fold in folds]
  missing = [number for number in numbers if number not in there]
  if len(there) == 1:
    there = dict.fromkeys(numbers, *there.values())
  elif missing:
    raise ModelError(
      f'{workdir} has weights of folds {sorted(there)}, this run also needs '
      f'{missing}; choose folds with --config.fold_subset.'
    )
  if not trusted:
    _check_disjoint(description, corpus, folds, there)
  slot = pipeline.Slot(np.asarray(folds[0].test[:1]), source.max_length)
  batch, given = source.batch(slot), {}
  shapes = _shapes(jax.eval_shape(system.init, jax.random.key(0), batch))
  for number in numbers:
    training = there[number]
    given[number] = saved.load(workdir, *training)
    tensors.check(
      str(saved.path_of(workdir, *training)),
      _shapes(given[number]),
      shapes,
      'Use the configuration that it was trained with.',
    )
  return given


def _shapes(trees: tuple[Tree, Tree]) -> dict[str, tuple[int, ...]]:
  """Returns shapes by path, but of what `System.prepare` may have added."""
  leaves = tensors.leaves_of({'params': trees[0], 'state': trees[1]}).items()
  added = 'state/split/'
  return {p: tuple(x.shape) for p, x in leaves if not p.startswith(added)}


def _check_disjoint(
  description: Description,
  corpus: Any,
  folds: Sequence[Any],
  trainings: Mapping[int, saved.Training],
) -> None:
  """Raises ModelError if weights were trained on what their fold tests."""
  if caveats := description.content.get('caveats'):
    raise ModelError(
      f'{description.workdir}: of its weights nobody knows what they were trained '
      f'on: {caveats[0]}. If you know that nothing that is tested here was, add '
      '--config.trust_init_from.'
    )
  path = description.workdir / 'folds.json'
  name = description.content['corpus']
  try:
    trained = {
      entry['fold']: _global_ids(name, entry['train'] + entry['dev'])
      for entry in files.read_json(path)['folds']
    }
  except (OSError, KeyError, TypeError, UserError) as error:
    raise ModelError(
      f'{path} cannot be read ({type(error).__name__}: {error}), so nobody '
      'knows what the weights were trained on; copy the folder of the run again.'
    ) from error
  for fold in folds:
    theirs = trainings[fold.number].fold
    tested = _global_ids(corpus.name, corpus.table.ids[fold.test].tolist())
    if both := tested & trained.get(theirs, set()):
      raise ModelError(
        f'{description.workdir}: its fold {theirs} was trained on {len(both)} of '
        f'the {len(tested)} utterances that fold {fold.number} tests here, such '
        f'as {min(both)}, so the result would be worthless. Use the folds of '
        f'that run: --config.folds={path}'
      )


def _global_ids(corpus: str, ids: Sequence[str]) -> set[str]:
  """Returns ids as they are called in a run over several corpora."""
  return set(ids) if '+' in corpus else {f'{corpus}/{name}' for name in ids}
