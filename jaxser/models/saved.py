"""Trained models: weights and all that is needed to use them without a corpus.

A run leaves in its work folder

  model.json                                   what the weights belong to
  models/seed0-fold03.best_on_dev.safetensors  one file per training, selection

A weight file holds every array of (params, model_state) under its path in the
tree, 'params/head/kernel' or 'state/batch_stats/...', in its own type. Its
metadata names the model it was written for and the hash of its content, so
that a damaged file, or one of another run, is refused.
"""

import dataclasses
import functools
import hashlib
import json
import os
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
from jaxser.core.config import ConfigError
from jaxser.evaluation import curves
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.models import weights
from jaxser.models.weights import ModelError
from jaxser.systems import registry
from jaxser.systems.base import System

Tree = Any

FORMAT = 'jaxser model'
VERSION = 1
_NAME = re.compile(r'^seed(\d+)-fold(\d+)\.(\w+)\.safetensors$')
# What the weights depend on; another value of one of these is another model.
_IDENTITY = ('system', 'class', 'settings', 'classes', 'vad_range', 'features')
_FIELDS = (*_IDENTITY, 'normalization', 'max_length', 'seeds', 'folds')


class Training(NamedTuple):
  """Names one set of weights of a run."""

  seed: int
  fold: int
  selection: str


def describe(
  workdir: os.PathLike[str] | str,
  config: Any,
  system: System,
  corpus: Any,
  folds: Sequence[Any],
  *,
  selections: Sequence[str],
  max_length: int,
  normalization: tuple[float, float] | None,
  command: str = '',
) -> None:
  """Writes model.json; to be called before the first `save`.

  Args:
    workdir: of the run.
    config: its resolved config.
    system: what is trained.
    corpus: `jaxser.data.corpus.Corpus` that it is trained on.
    folds: `jaxser.data.protocols.Fold`s that have weights of their own.
    selections: which weights of a fold, keys of `SELECTIONS`.
    max_length: frames or samples that utterances are cut to.
    normalization: mean and deviation that waveforms are normalised with.
    command: that trains it; default this process' own.
  """
  if jax.process_index():
    return
  store = next(iter(corpus.stores.values()))
  content = {
    'format': FORMAT,
    'version': VERSION,
    'jaxser': jaxser.__version__,
    'system': config.system,
    'class': type(system).__name__,
    'settings': system.settings(),
    'classes': list(corpus.classes),
    'vad_range': list(corpus.vad_range) if corpus.vad_range else None,
    'features': {
      'name': store['features'],
      'version': store.get('feature_version', features_lib.VERSION),
      'parameters': dict(store['parameters']),
    },
    'normalization': list(normalization) if normalization else None,
    'max_length': max_length,
    'longest': corpus.feature_shape[0],
    'corpus': corpus.name,
    'stores': {n: info['fingerprint'] for n, info in corpus.stores.items()},
    'protocol': config.protocol,
    'seeds': list(range(config.seed, config.seed + config.seeds)),
    'folds': [fold.number for fold in folds],
    'selections': list(selections),
    'command': command
    or shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]]),
  }
  content = json.loads(json.dumps(content))
  content['fingerprint'] = fingerprint(content)
  files.write_json(pathlib.Path(workdir) / 'model.json', content)


def fingerprint(content: Mapping[str, Any]) -> str:
  """Eight hexadecimal digits of all that weights must agree with."""
  identity = {name: content[name] for name in _IDENTITY}
  text = json.dumps(identity, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def path_of(
  workdir: os.PathLike[str] | str, seed: int, fold_number: int, selection: str
) -> pathlib.Path:
  """Where the weights of a training lie."""
  name = f'{curves.run_name(seed, fold_number)}.{selection}.safetensors'
  return pathlib.Path(workdir) / 'models' / name


def save(
  workdir: os.PathLike[str] | str,
  seed: int,
  fold_number: int,
  selection: str,
  params: Tree,
  model_state: Tree,
  *,
  epoch: int | None = None,
) -> pathlib.Path:
  """Writes the weights of one training and selection, whole or not at all.

  In a run of several processes only the first one writes.

  Args:
    workdir: of the run; `describe` has been called for it.
    seed: of the training.
    fold_number: of the training.
    selection: a key of `jaxser.evaluation.predictions.SELECTIONS`.
    params: nested dicts of arrays, on the host or on fully addressable devices.
    model_state: likewise.
    epoch: after which the weights were taken, where known.

  Returns:
    The path of the file.

  Raises:
    ModelError: for an unknown selection, a tree of something else, or a work
      folder without model.json.
  """
  if selection not in SELECTIONS:
    raise ModelError(
      f'selection {selection!r} is unknown; it is one of '
      f'{", ".join(SELECTIONS)}.'
    )
  path = path_of(workdir, seed, fold_number, selection)
  if jax.process_index():
    return path
  weights.write(
    path,
    {'params': params, 'state': model_state},
    {
      'format': FORMAT,
      'version': str(VERSION),
      'jaxser': jaxser.__version__,
      'model': open(workdir).content['fingerprint'],
      'training': json.dumps([seed, fold_number, selection, epoch]),
    },
  )
  return path


def load(
  workdir: os.PathLike[str] | str, seed: int, fold_number: int, selection: str
) -> tuple[Tree, Tree]:
  """(params, model_state) of one training, as NumPy arrays.

  Raises:
    ModelError: if the file is missing, damaged, no model, or belongs to
      another one than the folder's model.json describes.
  """
  description = open(workdir)
  path = path_of(workdir, seed, fold_number, selection)
  try:
    tree, metadata = weights.read(path)
  except FileNotFoundError as error:
    there = [_text(t) for t in description.trainings]
    raise ModelError(
      f'{path}: no such file. {workdir} has '
      f'{"; ".join(there) or "no finished training"}. Choose one of these, or '
      f'finish the run: {description.content.get("command", "see config.json")}'
    ) from error
  if (
    metadata.get('format') != FORMAT or metadata.get('version') != f'{VERSION}'
  ):
    raise ModelError(
      f'{path} is no model of this program (format '
      f'{metadata.get("format", "not stated")!r}, version '
      f'{metadata.get("version", "not stated")!r}; expected {FORMAT!r}, '
      f'{VERSION}). Weights of others are read by --config.init_from.'
    )
  wanted = description.content['fingerprint']
  if metadata.get('model') != wanted:
    raise ModelError(
      f'{path} belongs to another model ({metadata.get("model")}) than '
      f'{description.path} describes ({wanted}). Do not mix the files of two '
      'runs: copy the folder of the run again.'
    )
  try:
    named = json.loads(metadata['training'])[:3]
    result = tree['params'], tree['state']
  except (KeyError, ValueError, TypeError) as error:
    raise weights.damaged(path, f'{type(error).__name__}: {error}') from error
  if named != [seed, fold_number, selection]:
    raise ModelError(
      f'{path} holds {_text(Training(*named))}; somebody renamed it. Give it '
      f'its own name, {path_of("", *named).name}.'
    )
  return result


def _text(training: Training) -> str:
  seed, fold, selection = training
  return f'seed {seed} fold {fold} {selection}'


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
  """What model.json says, and which weights lie beside it.

  Attributes:
    workdir: of the run.
    content: of model.json.
    classes: names in the order of the scores.
    vad_range: ends of the VAD scale, or None.
    normalization: mean and deviation of waveforms, or None.
    max_length: frames or samples that training cut utterances to.
    longest: frames or samples of the longest utterance of the corpus, uncut.
    hears_hidden_states: whether the features are those of a frozen WavLM.
    weights: folder of that WavLM, None if it was not given.
  """

  workdir: pathlib.Path
  content: Mapping[str, Any]
  weights: pathlib.Path | None = None

  @property
  def path(self) -> pathlib.Path:
    """model.json."""
    return self.workdir / 'model.json'

  @property
  def classes(self) -> tuple[str, ...]:
    return tuple(self.content['classes'])

  @property
  def vad_range(self) -> tuple[float, float] | None:
    return tuple(self.content['vad_range'] or ()) or None

  @property
  def normalization(self) -> tuple[float, float] | None:
    return tuple(self.content['normalization'] or ()) or None

  @property
  def max_length(self) -> int:
    return self.content['max_length']

  @property
  def longest(self) -> int:
    return self.content.get('longest', self.max_length)

  @property
  def hears_hidden_states(self) -> bool:
    return self.content['features']['name'] == 'wavlm'

  @functools.cached_property
  def system(self) -> System:
    """The system with the settings that it was trained with.

    Raises:
      ModelError: if this version has no such system, or refuses a setting.
    """
    name, kind = self.content['system'], self.content['class']
    version = f'use the version that trained it ({self.content.get("jaxser")}).'
    try:
      found = registry.find(name)
    except ConfigError as error:
      raise ModelError(
        f'{self.path}: system {name!r} is unknown; this version has '
        f'{", ".join(registry.SYSTEMS)}; {version}'
      ) from error
    if found.__name__ != kind:
      raise ModelError(
        f'{self.path}: system {name!r} has no class {kind!r}; {version}'
      )
    try:
      return registry.build(name, self.content['settings'])
    except (TypeError, ValueError) as error:
      raise ModelError(
        f'{self.path}: these settings do not fit {kind} ({error}); {version}'
      ) from error

  @functools.cached_property
  def convention(self) -> features_lib.Convention:
    """The feature convention with the parameters of the training corpus.

    Raises:
      ModelError: if this version computes other features under that name, or
        the model hears hidden states and `weights` are not theirs.
      ConvertError: if those weights cannot be read.
    """
    given = self.content['features']
    if self.hears_hidden_states:
      # Here: other models do without.
      from jaxser.models import frozen_wavlm

      return frozen_wavlm.for_model(
        self.path, given['parameters'], self.weights
      )
    try:
      kind = features_lib.CONVENTIONS[given['name']]
      found = kind(
        **{
          field.name: given['parameters'][field.name]
          for field in dataclasses.fields(kind)
        }
      )
      here = json.loads(json.dumps(found.parameters()))
    except (KeyError, ValueError, TypeError) as error:
      raise ModelError(
        f'{self.path}: the features {given!r} cannot be computed here '
        f'({type(error).__name__}: {error}); use the version that trained it '
        f'({self.content.get("jaxser")}).'
      ) from error
    there = {'version': given['version'], **given['parameters']}
    here['version'] = features_lib.VERSION
    differing = [
      f'{name}: there {there.get(name)!r}, here {here.get(name)!r}'
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
    if differing:
      raise ModelError(
        f'{self.path}: the model was trained on other {given["name"]} features '
        f'than this version computes ({"; ".join(differing)}); use the version '
        f'that trained it ({self.content.get("jaxser")}).'
      )
    return found

  @functools.cached_property
  def trainings(self) -> tuple[Training, ...]:
    """All weights that are there, by seed, fold and selection."""
    found = []
    for path in (self.workdir / 'models').glob('*.safetensors'):
      name = _NAME.match(path.name)
      if name:
        found.append(Training(int(name[1]), int(name[2]), name[3]))
    return tuple(sorted(found))


def open(
  workdir: os.PathLike[str] | str,
  weights: os.PathLike[str] | str | None = None,
) -> Description:
  """Reads model.json, without the corpus and without TensorFlow.

  Args:
    workdir: of the run.
    weights: folder of the WavLM whose hidden states the model hears, if it
      does; read when the features are needed.

  Raises:
    ModelError: if model.json is missing, damaged, or not of this format; or if
      there are weights, and the model hears no hidden states.
  """
  path = pathlib.Path(workdir) / 'model.json'
  try:
    content = json.loads(path.read_text('utf-8'))
  except OSError as error:
    raise ModelError(
      f'{path} cannot be read ({error.strerror}), so {workdir} is no folder of a '
      'trained model; give the --workdir of a run of `python -m jaxser.main`.'
    ) from error
  except ValueError as error:
    raise ModelError(
      f'{path} is not valid JSON ({error}); copy the folder of the run again.'
    ) from error
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise ModelError(
      f'{path} does not describe a model of this program; give the --workdir '
      'of a run of `python -m jaxser.main`.'
    )
  if content.get('version') != VERSION:
    raise ModelError(
      f'{path} has version {content.get("version")!r}, this program reads '
      f'{VERSION}; use jaxser {content.get("jaxser")}, which wrote it.'
    )
  missing = [name for name in _FIELDS if name not in content]
  if missing or content.get('fingerprint') != fingerprint(content):
    what = f'lacks {", ".join(missing)}' if missing else 'was edited'
    raise ModelError(
      f'{path} {what}; the weights beside it go with what was written. Copy '
      'the folder of the run again.'
    )
  found = Description(
    pathlib.Path(workdir), content, pathlib.Path(weights) if weights else None
  )
  if weights and not found.hears_hidden_states:
    raise ModelError(
      f'{path}: this model hears {content["features"]["name"]} features, no '
      'hidden states of a WavLM; leave --weights out.'
    )
  return found
