"""Trained models: weights and all that is needed to use them without a corpus.

A run leaves in its work folder

  model.json                                   what the weights belong to
  models/seed0-fold03.best_on_dev.safetensors  one file per fold and selection

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
from jaxser.evaluation import curves
from jaxser.models import builtin, weights
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
    workdir, config, system: of the run.
    corpus: `jaxser.data.corpus.Corpus` that it is trained on.
    folds: `jaxser.data.protocols.Fold`s that have weights of their own.
    selections: which weights of a fold, keys of `SELECTIONS`.
    max_length: frames or samples that utterances are cut to.
    normalization: mean and standard deviation of waveforms.
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
    'caveats': caveats(config),
    'command': command
    or shlex.join(['python', '-m', 'jaxser.main', *sys.argv[1:]]),
  }
  content = json.loads(json.dumps(content))
  content['fingerprint'] = fingerprint(content)
  files.write_json(pathlib.Path(workdir) / 'model.json', content)


def fingerprint(content: Mapping[str, Any]) -> str:
  """Returns eight hexadecimal digits of all that weights must agree with."""
  identity = {name: content[name] for name in _IDENTITY}
  text = json.dumps(identity, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def path_of(
  workdir: os.PathLike[str] | str, seed: int, fold_number: int, selection: str
) -> pathlib.Path:
  """Returns the path of a weight file."""
  name = Training(seed, fold_number, selection).name
  return pathlib.Path(workdir) / 'models' / f'{name}.safetensors'


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
  """Writes the weights of one fold and selection, whole or not at all.

  In a run of several processes only the first one writes. `describe` has been
  called before; `epoch` is the one after which the weights were taken.

  Returns:
    The path of the file.

  Raises:
    ModelError: for a tree of something else, or a folder without model.json.
  """
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
  workdir: os.PathLike[str] | str, seed: int, fold_number: int, selection: str
) -> tuple[Tree, Tree]:
  """Returns (params, model_state) of one fold and selection as NumPy arrays.

  Raises:
    ModelError: if the file is missing, damaged, no model, or belongs to
      another one than the folder's model.json describes.
  """
  description = open(workdir)
  path = path_of(workdir, seed, fold_number, selection)
  try:
    tree, metadata = weights.read(path)
  except FileNotFoundError as error:
    there = '; '.join(map(str, description.trainings))
    raise ModelError(
      f'{path}: no such file. {workdir} has {there or "no finished fold"}. '
      f'Choose one of these, or finish the run: {description.command}'
    ) from error
  if metadata.get('model') != description.content['fingerprint']:
    raise ModelError(
      f'{path} belongs to another model ({metadata.get("model")}) than '
      f'{description.path} describes ({description.content["fingerprint"]}). Do '
      'not mix the files of two runs: copy the folder of the run again. Weights '
      'of others are read by --config.init_from.'
    )
  try:
    named = Training(*json.loads(metadata['training'])[:3])
    result = tree['params'], tree['state']
  except (KeyError, ValueError, TypeError) as error:
    raise weights.damaged(path, f'{type(error).__name__}: {error}') from error
  if named != (seed, fold_number, selection):
    raise ModelError(
      f'{path} holds {named}; somebody renamed it. Give it its own name, '
      f'{path_of("", *named).name}.'
    )
  return result


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
  """What model.json says, and which weights lie beside it.

  Attributes:
    workdir: of the run.
    content: of model.json; `classes`, `vad_range`, `normalization` and
      `max_length` are attributes, too, as `describe` got them.
    weights: folder of the WavLM whose hidden states are the features, or None.
  """

  workdir: pathlib.Path
  content: Mapping[str, Any]
  weights: pathlib.Path | None = None

  def __post_init__(self) -> None:
    for name in ('classes', 'vad_range', 'normalization', 'max_length'):
      value = self.content[name]
      value = tuple(value) if isinstance(value, list) else value
      object.__setattr__(self, name, value)

  @property
  def path(self) -> pathlib.Path:
    """Path of model.json."""
    return self.workdir / 'model.json'

  @property
  def command(self) -> str:
    """The command that trains the model."""
    return self.content.get('command', 'see config.json')

  @property
  def uses_hidden_states(self) -> bool:
    """Whether the features are those of a frozen WavLM."""
    return self.content['features']['name'] == 'wavlm'

  @functools.cached_property
  def system(self) -> System:
    """The system with the settings that it was trained with.

    Raises:
      ModelError: if this version has no such system, or refuses a setting.
    """
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
    """The feature spec with the parameters of the training corpus.

    A `data_prep.features.Convention`, or `frozen_wavlm.HiddenStates`.

    Raises:
      ModelError: if this version computes other features under that name, or
        the features are hidden states and `weights` are not theirs.
      ConvertError: if those weights cannot be read.
    """
    given = self.content['features']
    if self.uses_hidden_states:
      # Other models do without WavLM, whose import takes a third of a second.
      from jaxser.models import frozen_wavlm as wavlm

      return wavlm.for_model(self.path, given['parameters'], self.weights)
    try:
      kind = features_lib.CONVENTIONS[given['name']]
      names = [field.name for field in dataclasses.fields(kind)]
      found = kind(**{name: given['parameters'][name] for name in names})
      here = json.loads(json.dumps(found.parameters()))
    except (KeyError, ValueError, TypeError) as error:
      raise self._other_version(
        f'the features {given!r} cannot be computed here '
        f'({type(error).__name__}: {error})'
      ) from error
    there = {'version': given['version'], **given['parameters']}
    here['version'] = features_lib.VERSION
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
    return found

  @functools.cached_property
  def trainings(self) -> tuple[Training, ...]:
    """All weights that are there, by seed, fold and selection."""
    names = (path.name for path in (self.workdir / 'models').glob('*'))
    matches = filter(None, map(_NAME.match, names))
    return tuple(sorted(Training(int(m[1]), int(m[2]), m[3]) for m in matches))

  def _other_version(self, problem: str) -> ModelError:
    return ModelError(
      f'{self.path}: {problem}; use the version that trained it '
      f'({self.content.get("jaxser")}).'
    )


def open(
  workdir: os.PathLike[str] | str, weights: os.PathLike[str] | str | None = None
) -> Description:
  """Reads model.json, without the corpus and without TensorFlow.

  `weights` is the folder of the WavLM whose hidden states are the features, if
  they are; it is read when the features are needed.

  Raises:
    ModelError: if model.json is missing, damaged, or not of this format; or if
      weights are given for a model of other features.
  """
  workdir = builtin.find(workdir)
  path = workdir / 'model.json'
  remedy = 'give the --workdir of a run of `python -m jaxser.main`.'
  try:
    content = json.loads(path.read_text('utf-8'))
  except OSError as error:
    raise ModelError(
      f'{path} cannot be read ({error.strerror}), so {workdir} is no folder of a '
      f'trained model; {remedy}'
    ) from error
  except ValueError as error:
    raise ModelError(
      f'{path} is not valid JSON ({error}); copy the folder of the run again.'
    ) from error
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise ModelError(
      f'{path} does not describe a model of this program; {remedy}'
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
    workdir, content, pathlib.Path(weights) if weights else None
  )
  if weights and not found.uses_hidden_states:
    raise ModelError(
      f'{path}: the features of this model are {content["features"]["name"]}, no '
      'hidden states of a WavLM; leave --weights out.'
    )
  return found
