"""Runs a command of jaxser: flags, recipes and --config, their mistakes."""

import difflib
import functools
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from data_prep import command_line
from data_prep.command_line import UsageError as UsageError
from data_prep.command_line import define_path as define_path
from data_prep.command_line import exit_code as exit_code
from data_prep.command_line import fail as fail
from data_prep.command_line import quiet_tensorflow as quiet_tensorflow
from jaxser.core.config import ConfigError, check_optimizer, flatten
from jaxser.core.errors import UserError

# Beside this package, in a checkout as in an installation.
_INSTALLED = pathlib.Path(__file__).parents[2] / 'configs'
# A group to which --config may add fields: arguments of the optimizer.
_OPEN = 'optimizer.'
_OVERRIDE = re.compile(r'^--?(?:no)?config\.(?P<field>[^=]+)')


def define_config(flag_values: flags.FlagValues) -> None:
  """Defines --config=RECIPE:ARGUMENTS and --config.FIELD=VALUE.

  After parsing, `flag_values.config` is the resolved config, or None.
  """
  flags.DEFINE_string(
    'config',
    None,
    'Recipe and its arguments, such as timnet:corpus=emodb: the name of one '
    'that comes with jaxser, or a file. Override a field with '
    '--config.FIELD=VALUE.',
    flag_values=flag_values,
  )


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parses arguments without the program's name; returns the positional ones.

  Every call starts from the defaults.

  Raises:
    ConfigError: a wrong recipe, argument of a recipe, field or value; the
      message names what was typed and lists what is valid.
    UsageError: any other flag is wrong.
  """
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
  for field in sorted(fields):
    _check_field(field, config)
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
      values.config.update_from_flattened_dict(
        {field: str(command_line.expand_home(value))}
      )
  given = {f.removeprefix(_OPEN) for f in fields if f.startswith(_OPEN)}
  if given:
    check_optimizer(values.config, given)
  return arguments


run = functools.partial(command_line.run, parse=parse)


def find_recipe(path: os.PathLike[str] | str, folder: str = '') -> pathlib.Path:
  """Returns the file of a recipe, such as 'timnet' or 'configs/timnet.py'.

  A file on disk wins; else the installed recipe of that name is taken.

  Args:
    path: a file, or the name of an installed recipe.
    folder: below configs/: '' for --config, 'tables' for tables of papers.

  Raises:
    ConfigError: there is none; the message lists the installed recipes.
  """
  path = pathlib.Path(path)
  if path.suffix == '.py' and path.is_file():
    return path
  installed = _INSTALLED / folder
  if path.parent in (pathlib.Path(), pathlib.Path('configs', folder)):
    named = (installed / path.name).with_suffix('.py')
    if named.is_file() and path.suffix in ('', '.py'):
      return named
  names = [p.stem for p in sorted(installed.glob('[!_]*.py'))]
  names = [name for name in names if name != 'common']
  close = difflib.get_close_matches(path.stem, names, n=1)
  raise ConfigError(
    f'{path}: no Python file of that name, and no recipe that comes with jaxser.'
    + (f' Did you mean {close[0]}?' if close else '')
    + f' Recipes: {", ".join(names)}.'
  )


def load_module(path: pathlib.Path) -> ModuleType:
  """Imports a Python file that `find_recipe` found.

  Raises:
    ConfigError: it cannot be imported.
  """
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


def load_recipe(
  path: os.PathLike[str] | str, arg: str | None = None
) -> ml_collections.ConfigDict:
  """Calls get_config(arg) of a recipe.

  Raises:
    ConfigError: there is no such recipe, or it refuses the argument.
  """
  file = find_recipe(path)
  module = load_module(file)
  if not hasattr(module, 'get_config'):
    raise ConfigError(f'{file}: is no recipe, it has no get_config(arg).')
  try:
    return module.get_config(arg or None)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _check_field(field: str, config: ml_collections.ConfigDict) -> None:
  """Adds an argument of the optimizer.

  Raises:
    ConfigError: for any other unknown field, with what may be meant.
  """
  valid = flatten(config)
  if field in valid:
    return
  if field.startswith(_OPEN) and 'optimizer' in config:
    config.optimizer[field.removeprefix(_OPEN)] = config_dict.placeholder(
      object
    )
    return
  inside = [name for name in valid if name.startswith(f'{field}.')]
  if inside:
    raise ConfigError(
      f'--config.{field} is a group of fields: set one of {", ".join(inside)}.'
    )
  close = difflib.get_close_matches(field, valid, n=1)
  hint = f' Did you mean --config.{close[0]}?' if close else ''
  raise ConfigError(
    f'--config.{field} is no field of this recipe.{hint} Fields: '
    f'{", ".join(sorted(valid))}.'
  )
