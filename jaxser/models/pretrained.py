"""The weights that the folds of a run start from, or are evaluated with.

Weights that saw an utterance in training say nothing about it in a test. So a
run's own weights are compared with its folds utterance by utterance; weights
of others are accepted only for the folds that they were published for, which
the recipe knows, or where the user vouches for them.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.core import tensors
from jaxser.core.config import ConfigError
from jaxser.data import pipeline
from jaxser.models import convert, ensemble, saved
from jaxser.models.saved import Description
from jaxser.models.weights import ModelError
from jaxser.systems.base import System

Tree = Any


def for_folds(
  config: Any, system: System, source: Any, folds: Sequence[Any]
) -> dict[int, tuple[Tree, Tree]]:
  """Returns (params, state) by fold number from config.init_from.

  Args:
    config: its `published_folds` says which folds the published weights of
      others belong to, `trust_init_from` takes any.
    system: that is to have the weights.
    source: `jaxser.data.pipeline.Source` of the corpus of this run.
    folds: `jaxser.data.protocols.Fold`s of this run.

  Raises:
    ConvertError: if a file of others cannot be read or does not fit.
    ConfigError: if it holds neither one model nor one for every fold, or is
      not known to be free of what is tested.
    ModelError: if another run's weights do not fit, or saw what is tested.
  """
  path = pathlib.Path(config.init_from).expanduser()
  if path.is_dir() and not convert.is_authors_folder(system, path):
    return _of_a_run(path, system, source, folds, config.trust_init_from)
  given = convert.load(system, path)
  last = max(fold.number for fold in folds)
  if len(given) > 1 and len(given) <= last:
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
  here = {name: config[name] for name in published} | {'folds': config.folds}
  wanted = {**published, 'folds': ''}
  different = [
    f'--config.{name}={here[name]} instead of {wanted[name]!r}'
    for name in here
    if here[name] != wanted[name]
  ]
  if published and count != published.get('num_folds', 1):
    different.append(f'{count} models instead of {published["num_folds"]}')
  if different or not published:
    known = 'this recipe knows no folds that it was published for'
    if published:
      known = (
        'it was published for other folds than this run has '
        f'({"; ".join(different)})'
      )
    raise ConfigError(
      f'--config.init_from={path}: nobody knows which utterances these weights '
      f'were trained on; {known}, so the result could be worthless. Use the '
      'published folds, or, if you know that nothing that is tested here was '
      'trained on, add --config.trust_init_from: the results then say that '
      f'{saved.CAVEAT}.'
    )


def mark_trusted(results: dict[str, Any], config: Mapping[str, Any]) -> None:
  """Says in the content of results.json what only the user vouches for.

  Tables and pages then show `saved.CAVEAT` and no published figure beside it.
  """
  results['trust_init_from'] = bool(saved.caveats(config))
  if results['trust_init_from']:
    results['paper'] = {}
    results['caveats'] = saved.caveats(config)


def _of_a_run(
  workdir: pathlib.Path,
  system: System,
  source: Any,
  folds: Sequence[Any],
  trusted: bool,
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
  chosen = ensemble.choose(description, seeds=(seed,))
  there = {training.fold: training for training in chosen}
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
  shapes = jax.eval_shape(system.init, jax.random.key(0), source.batch(slot))
  return {number: _load(workdir, there[number], shapes) for number in numbers}


def _load(
  workdir: pathlib.Path, training: saved.Training, shapes: tuple[Tree, Tree]
) -> tuple[Tree, Tree]:
  """Reads (params, state) that must have these shapes.

  What `System.prepare` adds to the state may be there or not.
  """
  found = saved.load(workdir, *training)
  here, there = (
    {
      path: tuple(leaf.shape)
      for path, leaf in tensors.leaves_of(
        {'params': params, 'state': state}
      ).items()
      if not path.startswith('state/split/')
    }
    for params, state in (shapes, found)
  )
  tensors.check(
    str(saved.path_of(workdir, *training)),
    there,
    here,
    'Use the configuration that it was trained with.',
  )
  return found


def _check_disjoint(
  description: Description,
  corpus: Any,
  folds: Sequence[Any],
  trainings: Mapping[int, saved.Training],
) -> None:
  """Raises ModelError if weights were trained on what their fold tests."""
  for caveat in description.content.get('caveats', ()):
    raise ModelError(
      f'{description.workdir}: of its weights nobody knows what they were trained '
      f'on: {caveat}. If you know that nothing that is tested here was, add '
      '--config.trust_init_from.'
    )
  path = description.workdir / 'folds.json'
  try:
    trained = {
      int(entry['fold']): _global_ids(
        description.content['corpus'], [*entry['train'], *entry['dev']]
      )
      for entry in json.loads(path.read_text('utf-8'))['folds']
    }
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ModelError(
      f'{path} cannot be read ({type(error).__name__}: {error}), so nobody '
      'knows what the weights were trained on; copy the folder of the run again.'
    ) from error
  for fold in folds:
    theirs = trainings[fold.number].fold
    tested = _global_ids(corpus.name, corpus.table.ids[fold.test].tolist())
    both = tested & trained.get(theirs, set())
    if both:
      raise ModelError(
        f'{description.workdir}: its fold {theirs} was trained on {len(both)} of '
        f'the {len(tested)} utterances that fold {fold.number} tests here, such '
        f'as {min(both)}, so the result would be worthless. Use the folds of '
        f'that run: --config.folds={path}'
      )


def _global_ids(corpus: str, ids: Sequence[str]) -> set[str]:
  """Returns ids as they are called in a run over several corpora."""
  return set(ids) if '+' in corpus else {f'{corpus}/{name}' for name in ids}
