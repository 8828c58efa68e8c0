"""Understands --config and its overrides well enough to explain mistakes."""

import difflib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import ml_collections
from absl import flags

from jaxser.core.config import ConfigError, flatten

_RECIPE = re.compile(r'^--?config=(?P<path>[^:]*)(:(?P<arg>.*))?$', re.DOTALL)
_OVERRIDE = re.compile(r'^--?config\.(?P<field>[^=]+)(=(?P<value>.*))?$')


def parse(argv: Sequence[str]) -> list[str]:
  """Parses absl flags; a wrong config, field or value is explained first.

  Raises:
    ConfigError: naming what was typed and listing what is valid.
    SystemExit: with 0, after --help and its kin.
  """
  config = None
  for argument in argv[1:]:
    recipe = _RECIPE.match(argument)
    if recipe:
      config = load_recipe(recipe['path'], recipe['arg'])
  for argument in argv[1:]:
    override = _OVERRIDE.match(argument)
    if override and config is not None:
      _check_field(override['field'], config)
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    raise ConfigError(f'{error}; see --help.') from error
  except SystemExit:
    # absl shows the help and ends with 1, as if asking were a mistake.
    raise SystemExit(0) from None


def parse_or_exit(argv: Sequence[str]) -> list[str]:
  """`parse` for absl's `app.run`; a mistake ends with one message."""
  try:
    return parse(argv)
  except ConfigError as error:
    sys.exit(fail(str(error)))


def fail(message: str) -> int:
  """Says what is wrong; returns the exit code of a mistake."""
  print(f'Error: {message}', file=sys.stderr)
  return 2


def load_recipe(path: str, arg: str | None) -> ml_collections.ConfigDict:
  """Calls get_config(arg) of a recipe file.

  Raises:
    ConfigError: if there is no such file, or it refuses the argument.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    there = pathlib.Path('configs').glob('*.py')
    near = sorted(str(p) for p in there if 'def get_config' in p.read_text())
    _refuse(
      f'--config={path}: no such file. '
      + (f'Recipes here: {", ".join(near)}.' if near else '')
      + ' Run from the folder that holds configs/, or give the whole path.'
    )
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    return module.get_config(arg)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _check_field(field: str, config: ml_collections.ConfigDict) -> None:
  valid = flatten(config)
  groups = {name.rpartition('.')[0] for name in valid}
  if field in valid:
    return
  if field in groups:
    inside = [n for n in valid if n.startswith(f'{field}.')]
    _refuse(
      f'--config.{field} is a group of fields: set one of {", ".join(inside)}.'
    )
  close = difflib.get_close_matches(field, valid, n=1)
  hint = f' Did you mean --config.{close[0]}?' if close else ''
  _refuse(
    f'--config.{field} is no field of this recipe.{hint} Fields: '
    f'{", ".join(sorted(valid))}.'
  )


def _refuse(message: str) -> NoReturn:
  raise ConfigError(message)
