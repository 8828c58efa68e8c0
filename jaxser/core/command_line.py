"""Runs a command of jaxser: flags, recipes and --config, their mistakes."""

import difflib
import functools
import importlib.util
import pathlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags
from ml_collections import config_dict, config_flags

from data_prep import command_line, expanded
from data_prep.command_line import UsageError as UsageError
from data_prep.command_line import define_path as define_path
from data_prep.command_line import exit_code as exit_code
from jaxser.core.config import Config, ConfigError, check_optimizer, flatten
from jaxser.core.errors import UserError
from jaxser.core.files import Path

# Beside this package, in a checkout as in an installation.
_INSTALLED = pathlib.Path(__file__).parents[2] / 'configs'
# A group to which --config may add fields: arguments of the optimizer.
_OPEN = 'optimizer.'
_OVERRIDE = re.compile(r'^--?(?:no)?config\.(?P<field>[^=]+)')


def define_config(flag_values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    'config',
    None,
    'Recipe and its arguments, such as timnet:corpus=emodb: the name of one '
    'that comes with jaxser, or a file. Override a field with '
    '--config.FIELD=VALUE.',
    flag_values=flag_values,
  )


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parses flags from their defaults; returns the positional arguments."""
  for name in [n for n in values if n.startswith('config.')]:
    delattr(values, name)
  if 'config' not in values:
    return command_line.parse_flags(values, argv)
  delattr(values, 'config')
  define_config(values)
  recipe = flags.FlagValues()
  define_config(recipe)
  rest = command_line.parse_flags(recipe, argv, known_only=True)
  if recipe.config is None:
    return command_line.parse_flags(values, rest)
  config = load_recipe(*recipe.config.partition(':')[::2])
  fields = {found['field'] for found in map(_OVERRIDE.match, rest) if found}
  for field in sorted(fields - flatten(config).keys()):
    _add_argument(field, config)
  if {'epochs', 'epochs_from'} <= fields:
    raise ConfigError(
      '--config.epochs and --config.epochs_from both say how long to train; '
      'give one of them.'
    )
  delattr(values, 'config')
  # Typed by the recipe's values, and absl's way to say --noconfig.FIELD.
  config_flags.DEFINE_config_dict(
    'config', config, flag_values=values, sys_argv=['', *rest]
  )
  arguments = command_line.parse_flags(values, rest)
  for field, value in flatten(values.config).items():
    if isinstance(value, str) and value.startswith('~'):
      home = str(command_line.expand_home(value))
      values.config.update_from_flattened_dict({field: home})
  given = {f.removeprefix(_OPEN) for f in fields if f.startswith(_OPEN)}
  if given:
    check_optimizer(values.config, given)
  return arguments


run = functools.partial(command_line.run, parse=parse)


def find_recipe(path: Path, folder: str = '') -> pathlib.Path:
  """Returns a recipe's file, on disk or below configs/, such as 'timnet'."""
  path = expanded(path)
  if path.suffix == '.py' and path.is_file():
    return path
  installed = _INSTALLED / folder
  if path.parent in (pathlib.Path(), pathlib.Path('configs', folder)):
    named = (installed / path.name).with_suffix('.py')
    if named.is_file() and path.suffix in ('', '.py'):
      return named
  names = sorted({p.stem for p in installed.glob('[!_]*.py')} - {'common'})
  close = difflib.get_close_matches(path.stem, names, n=1)
  raise ConfigError(
    f'{path}: no Python file of that name, and no recipe that comes with jaxser.'
    + (f' Did you mean {close[0]}?' if close else '')
    + f' Recipes: {", ".join(names)}.'
  )


def load_module(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f'recipe_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  # An installed recipe imports its neighbours, whatever is in this folder.
  first = str(_INSTALLED.parent if path.is_relative_to(_INSTALLED) else '')
  sys.path.insert(0, first)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except Exception as error:
    raise ConfigError(
      f'{path}: cannot be imported ({type(error).__name__}: {error}).'
    ) from error
  finally:
    sys.path.remove(first)
  return module


def load_recipe(path: Path, arg: str | None = None) -> Config:
  file = find_recipe(path)
  module = load_module(file)
  if not hasattr(module, 'get_config'):
    raise ConfigError(f'{file}: is no recipe, it has no get_config(arg).')
  try:
    return module.get_config(arg or None)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _add_argument(field: str, config: Config) -> None:
  """Adds an argument of the optimizer; refuses any other unknown field."""
  if field.startswith(_OPEN) and 'optimizer' in config:
    unset = config_dict.placeholder(object)
    config.optimizer[field.removeprefix(_OPEN)] = unset
    return
  valid = flatten(config)
  if inside := [name for name in valid if name.startswith(f'{field}.')]:
    raise ConfigError(
      f'--config.{field} is a group of fields: set one of {", ".join(inside)}.'
    )
  close = difflib.get_close_matches(field, valid, n=1)
  hint = f' Did you mean --config.{close[0]}?' if close else ''
  raise ConfigError(
    f'--config.{field} is no field of this recipe.{hint} Fields: '
    f'{", ".join(sorted(valid))}.'
  )
