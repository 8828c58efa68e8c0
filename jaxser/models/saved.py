"""Trained models: weights and all that is needed to use them without a corpus.

A run leaves in its work folder

  model.json                                   what the weights belong to
  models/seed0-fold03.best_on_dev.safetensors  one file per fold and selection

A weight file names the model that it was written for, so that one of another
run is refused.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

import jaxser
from data_prep import features as features_lib
from jaxser.core import files
from jaxser.core.files import Path
from jaxser.evaluation import curves
from jaxser.models import builtin, weights
from jaxser.models.weights import ModelError
from jaxser.systems import registry
from jaxser.systems.base import System, Tree

FORMAT = 'jaxser model'
VERSION = 1
_NAME = re.compile(r'^seed(\d+)-fold(\d+)\.(\w+)\.safetensors$')
# What the weights depend on; another value of one of these is another model.
_IDENTITY = ('system', 'class', 'settings', 'classes', 'vad_range', 'features')
_FIELDS = {'fingerprint', 'normalization', 'max_length', 'seeds', 'folds'}
# The first that is there; best_on_test only where it is asked for by name.
_DEFAULT_SELECTIONS = ('best_on_dev', 'last', 'init_from')

CAVEAT = 'tested utterances may have been trained on'
"""What every table and page says of weights that only the user vouches for."""


def caveats(config: Mapping[str, Any]) -> list[str]:
  """Returns what must be said wherever results of a config are shown."""
  trusted = config.get('init_from') and config.get('trust_init_from')
  return [CAVEAT] if trusted else []


class Training(NamedTuple):
  """Names one set of weights of a work folder."""

  seed: int
  fold: int
  selection: str

  def __str__(self) -> str:
    return f'seed {self.seed} fold {self.fold} {self.selection}'

  @property
  def name(self) -> str:
    """The name of its file, without the suffix."""
    return f'{curves.run_name(self.seed, self.fold)}.{self.selection}'


def describe(
  workdir: Path,
  config: Any,
  system: System,
  source: Any,
  folds: Sequence[Any],
  selections: Sequence[str],
  command: str = '',
) -> None:
  """Writes model.json; to be called before the first `save`."""
  if jax.process_index():
    return
  # Late, so that prediction starts sooner.
  from jaxser.data.corpus import normalization

  corpus = source.corpus
  store = next(iter(corpus.stores.values()))
  content = {
    'format': FORMAT,
    'version': VERSION,
    'jaxser': jaxser.__version__,
    'system': config.system,
    'class': type(system).__name__,
    'settings': system.settings(),
    'classes': list(corpus.classes),
    'vad_range': corpus.vad_range or None,
    'features': {
      'name': store['features'],
      'version': store.get('feature_version', features_lib.VERSION),
      'parameters': dict(store['parameters']),
    },
    'normalization': normalization(corpus, config.protocol),
    'max_length': source.max_length,
    'longest': corpus.feature_shape[0],
    'corpus': corpus.name,
    'stores': corpus.fingerprints,
    'protocol': config.protocol,
    'seeds': list(range(config.seed, config.seed + config.seeds)),
    'folds': [fold.number for fold in folds],
    'selections': list(selections),
    'caveats': caveats(config),
    'command': command
    or shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]]),
  }
  content['fingerprint'] = fingerprint(content)
  files.write_json(pathlib.Path(workdir) / 'model.json', content)


def fingerprint(content: Mapping[str, Any]) -> str:
  """Returns eight hexadecimal digits of all that weights must agree with."""
  identity = {name: content[name] for name in _IDENTITY}
  text = json.dumps(identity, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def path_of(workdir: Path, *training: Any) -> pathlib.Path:
  """Returns the path of the weights of a seed, fold and selection."""
  name = f'{Training(*training).name}.safetensors'
  return pathlib.Path(workdir) / 'models' / name


def save(
  workdir: Path,
  seed: int,
  fold_number: int,
  selection: str,
  params: Tree,
  model_state: Tree,
  *,
  epoch: int | None = None,
) -> pathlib.Path:
  """Writes weights, on process 0 only; returns their path."""
  path = path_of(workdir, seed, fold_number, selection)
  if jax.process_index() == 0:
    metadata = {
      'format': FORMAT,
      'version': str(VERSION),
      'jaxser': jaxser.__version__,
      'model': open(workdir).content['fingerprint'],
      'training': json.dumps([seed, fold_number, selection, epoch]),
    }
    weights.write(path, {'params': params, 'state': model_state}, metadata)
  return path


def load(
  workdir: Path, seed: int, fold_number: int, selection: str
) -> tuple[Tree, Tree]:
  """Returns (params, model_state) of one fold and selection as NumPy arrays."""
  description, training = open(workdir), (seed, fold_number, selection)
  path = path_of(workdir, *training)
  try:
    tree, metadata = weights.read(path)
  except FileNotFoundError as error:
    there = '; '.join(map(str, description.trainings))
    raise ModelError(
      f'{path}: no such file. {workdir} has {there or "no finished fold"}. '
      f'Choose one of these, or finish the run: {description.command}'
    ) from error
  wanted = description.content['fingerprint']
  if metadata.get('model') != wanted:
    raise ModelError(
      f'{path} belongs to another model ({metadata.get("model")}) than '
      f'{description.path} describes ({wanted}). Do not mix the files of two '
      'runs: copy the folder of the run again. Weights of others are read by '
      '--config.init_from.'
    )
  named = Training(*json.loads(metadata['training'])[:3])
  if named != training:
    raise ModelError(
      f'{path} holds {named}; somebody renamed it. Give it its own name, '
      f'{path_of("", *named).name}.'
    )
  return tree['params'], tree['state']


class Description:
  """What model.json says, and which weights lie beside it.

  `weights` is the folder of the WavLM whose hidden states are the features.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    content: Mapping[str, Any],
    weights: Path | None = None,
  ):
    self.workdir, self.content, self.weights = workdir, content, weights
    self.path = workdir / 'model.json'
    self.command = content.get('command', 'see config.json')
    self.classes = tuple(content['classes'])
    self.vad_range = content['vad_range']
    self.normalization = content['normalization']
    self.max_length = content['max_length']
    self.uses_hidden_states = content['features']['name'] == 'wavlm'

  @functools.cached_property
  def system(self) -> System:
    """The system with the settings that it was trained with."""
    name, kind = self.content['system'], self.content['class']
    try:
      system = registry.build(name, self.content['settings'])
    except (TypeError, ValueError) as error:
      raise self._other_version(
        f'system {name!r} cannot be made with these settings ({error})'
      ) from error
    if type(system).__name__ != kind:
      raise self._other_version(f'system {name!r} has no class {kind!r}')
    return system

  @functools.cached_property
  def feature_spec(self) -> Any:
    """A `features.Convention` of data_prep, or `frozen_wavlm.HiddenStates`."""
    given = self.content['features']
    if self.uses_hidden_states:
      # Other models do without WavLM, whose import takes a third of a second.
      from jaxser.models import frozen_wavlm as wavlm

      return wavlm.for_model(self.path, given['parameters'], self.weights)
    there = {**given['parameters'], 'version': given['version']}
    try:
      kind = features_lib.CONVENTIONS[given['name']]
      spec = kind(**{f.name: there[f.name] for f in dataclasses.fields(kind)})
    except (KeyError, ValueError, TypeError) as error:
      raise self._other_version(
        f'the features {given!r} cannot be computed here '
        f'({type(error).__name__}: {error})'
      ) from error
    here = {**spec.parameters(), 'version': features_lib.VERSION}
    differing = [
      f'{name}: there {there.get(name)!r}, here {here.get(name)!r}'
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
    if differing:
      raise self._other_version(
        f'the model was trained on other {given["name"]} features than this '
        f'version computes ({"; ".join(differing)})'
      )
    return spec

  @functools.cached_property
  def trainings(self) -> tuple[Training, ...]:
    """All weights that are there, by seed, fold and selection."""
    names = (path.name for path in (self.workdir / 'models').glob('*'))
    matches = filter(None, map(_NAME.match, names))
    return tuple(sorted(Training(int(m[1]), int(m[2]), m[3]) for m in matches))

  def choose(
    self,
    seeds: Sequence[int] = (),
    folds: Sequence[int] = (),
    selection: str | None = None,
  ) -> list[Training]:
    """Returns the trainings that are asked for, by default all seeds and folds.

    `best_on_test`, chosen on the data of the run's own test, only if asked for.
    """
    there, where = self.trainings, self.workdir / 'models'
    if not there:
      raise ModelError(
        f'{where} holds no weights: the run has not finished a fold yet. Finish '
        f'it: {self.command}'
      )
    names = {training.selection for training in there}
    defaults = (name for name in _DEFAULT_SELECTIONS if name in names)
    selection = selection or next(defaults, None)
    if selection is None:
      raise ModelError(
        f'{where} holds only {", ".join(sorted(names))}; ask for it with '
        f'--selection={min(names)}.'
      )
    wanted = {'seed': seeds, 'fold': folds, 'selection': [selection]}
    for name, values in wanted.items():
      known = sorted({getattr(training, name) for training in there})
      for value in values:
        if value not in known:
          raise ModelError(
            f'--{name}={value} is not among the weights in {where}; there are '
            f'{", ".join(map(str, known))}.'
          )
    chosen = [
      training
      for training in there
      if all(not v or getattr(training, n) in v for n, v in wanted.items())
    ]
    if not chosen:
      raise ModelError(
        f'{where} has no weights for seed {list(seeds) or "any"}, fold '
        f'{list(folds) or "any"}, {selection}; the run may not be finished.'
      )
    return chosen

  def unfinished(self, selection: str) -> int:
    """Returns how many (seed, fold) of the plan have no weights yet."""
    there = {t[:2] for t in self.trainings if t.selection == selection}
    planned = itertools.product(self.content['seeds'], self.content['folds'])
    return len({*planned} - there)

  def _other_version(self, problem: str) -> ModelError:
    return ModelError(
      f'{self.path}: {problem}; use the version that trained it '
      f'({self.content.get("jaxser")}).'
    )


def open(workdir: Path, weights: Path | None = None) -> Description:
  """Reads model.json of a work folder or built-in model, without its corpus."""
  workdir = builtin.find(workdir)
  path = workdir / 'model.json'
  remedy = 'give the --workdir of a run of `python -m jaxser.main`.'
  try:
    content = files.read_json(path)
  except OSError as error:
    raise ModelError(
      f'{path} cannot be read ({error.strerror}), so {workdir} is no folder of a '
      f'trained model; {remedy}'
    ) from error
  if content.get('format') != FORMAT:
    raise ModelError(
      f'{path} does not describe a model of this program; {remedy}'
    )
  if content.get('version') != VERSION:
    raise ModelError(
      f'{path} has version {content.get("version")!r}, this program reads '
      f'{VERSION}; use jaxser {content.get("jaxser")}, which wrote it.'
    )
  if not content.keys() >= {*_FIELDS, *_IDENTITY} or (
    content['fingerprint'] != fingerprint(content)
  ):
    raise ModelError(
      f'{path} was edited; the weights beside it go with what was written. Copy '
      'the folder of the run again.'
    )
  found = Description(workdir, content, weights)
  if weights and not found.uses_hidden_states:
    raise ModelError(
      f'{path}: the features of this model are {content["features"]["name"]}, no '
      'hidden states of a WavLM; leave --weights out.'
    )
  return found
