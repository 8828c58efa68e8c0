"""How far each cell of a table is: its config, its stores, its folder."""

import ast
import dataclasses
import difflib
import json
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from data_prep import store
from jaxser.core import command_line
from jaxser.core import config as config_lib
from jaxser.data import opening
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import (
  Prediction,
  PredictionsError,
  read_predictions,
)
from jaxser.report.tables.spec import Cell, TableError

# Beside config.FREE: what changes speed or spread but not how much is trained.
_SAME_BUDGET = (*config_lib.FREE, 'engine', 'parallel', 'seed', 'seeds')

KINDS = ('finished', 'started', 'ready', 'not prepared', 'failed')


@dataclasses.dataclass(eq=False)
class State:
  """A cell and how far it is.

  Attributes:
    cell: of the table.
    config: resolved, with all overrides.
    changed: (field, the table's value, the value now) of each --set.
    ignored: fields of --set that this recipe does not have.
    folder: of the run.
    kind: one of `KINDS`; 'failed' says why in `error`.
    prepare: commands that prepare what is missing, where 'not prepared'.
    error: a message for the user, where 'failed'.
    results: content of results.json, where 'finished'.
    predictions: of predictions.jsonl, where 'finished'.
  """

  cell: Cell
  config: ml_collections.ConfigDict
  changed: tuple[tuple[str, Any, Any], ...]
  folder: pathlib.Path
  ignored: tuple[str, ...] = ()
  kind: str = 'ready'
  prepare: tuple[str, ...] = ()
  error: str = ''
  results: Mapping[str, Any] | None = None
  predictions: Sequence[Prediction] = ()

  @property
  def command(self) -> str:
    """The command of jaxser.main that does this run alone."""
    plain = command_line.load_recipe(self.cell.config, self.cell.arg)
    before, now = (
      config_lib.flatten(config_lib.to_json(c)) for c in (plain, self.config)
    )
    words = ['python', '-m', 'jaxser.main']
    words.append(
      f'--config={self.cell.config}'
      + (f':{self.cell.arg}' if self.cell.arg else '')
    )
    for field, value in now.items():
      if value != before.get(field):
        shown = tuple(value) if isinstance(value, list) else value
        words.append(f'--config.{field}={shown}')
    return shlex.join([*words, f'--workdir={self.folder}'])

  @property
  def budget(self) -> str:
    """'epochs=60 instead of 500', or empty where it is the table's own."""
    return ', '.join(
      f'{field}={now} instead of {before}'
      for field, before, now in self.changed
      if field not in (*_SAME_BUDGET, *self.cell.required)
    )

  def read(self) -> None:
    """Reads the results of a run that has finished.

    Raises:
      PredictionsError: a file is missing or wrong.
    """
    found = results_lib.read_results(self.folder / 'results.json')
    rows = read_predictions(self.folder / 'predictions.jsonl')
    results_lib.check_results(found, rows)
    self.kind, self.error = 'finished', ''
    self.results, self.predictions = found, rows

  def fail(self, error: BaseException | str) -> None:
    """Notes what went wrong."""
    self.kind, self.error = 'failed', str(error) or type(error).__name__


def parse_sets(texts: Iterable[str]) -> dict[str, str]:
  """['epochs=60'] -> {'epochs': '60'}.

  Raises:
    TableError: a text is not FIELD=VALUE, or a field is given twice.
  """
  found: dict[str, str] = {}
  for text in texts:
    field, sign, value = text.partition('=')
    if not field or not sign:
      raise TableError(
        f'--set={text}: is not FIELD=VALUE, as in --set=epochs=60.'
      )
    if field in found:
      raise TableError(f'--set={text}: {field} is set twice.')
    found[field] = value
  return found


def resolve(
  cell: Cell,
  folder: os.PathLike[str] | str,
  sets: Mapping[str, str],
  data_dir: str = '',
) -> State:
  """The config of a cell with overrides; nothing is looked up yet.

  Raises:
    TableError: the cell or a value of --set does not fit the recipe.
  """
  where = f'cell {cell.name!r}'
  try:
    config = command_line.load_recipe(cell.config, cell.arg or None)
  except config_lib.ConfigError as error:
    raise TableError(f'{where}: {error}') from error
  own = {
    name: _checked(config, name, value, f'{where}: {name}={value!r}')
    for name, value in cell.overrides.items()
  }
  config.update_from_flattened_dict(own)
  changed = []
  fields = config_lib.flatten(config)
  ignored = tuple(name for name in sets if name not in fields)
  for name, text in sets.items():
    if name in ignored:
      continue
    value = _parsed(config, name, text, f'--set={name}={text}')
    before = config_lib.flatten(config)[name]
    before = tuple(before) if isinstance(before, list) else before
    if value != before:
      changed.append((name, before, value))
      config.update_from_flattened_dict({name: value})
  if data_dir:
    config.data_dir = data_dir
  try:
    config_lib.validate(config)
  except config_lib.ConfigError as error:
    raise TableError(f'{where}: {error}') from error
  config.lock()
  folder = pathlib.Path(folder) / cell.name
  return State(cell, config, tuple(changed), folder, ignored)


def check_sets(states: Sequence[State], sets: Mapping[str, str]) -> None:
  """Raises TableError for a --set that is a field of no cell."""
  for name, text in sets.items():
    if all(name in each.ignored for each in states):
      _current(states[0].config, name, f'--set={name}={text}')


def _current(config: ml_collections.ConfigDict, name: str, where: str) -> Any:
  """The value of a field; a tuple where it holds several."""
  fields = config_lib.flatten(config)
  if name not in fields:
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f' Did you mean {close[0]}?' if close else ''
    raise TableError(
      f'{where}: {name} is no field of the recipe.{hint} Fields: '
      f'{", ".join(sorted(fields))}.'
    )
  value = fields[name]
  return tuple(value) if isinstance(value, list) else value


def _checked(
  config: ml_collections.ConfigDict, name: str, value: Any, where: str
) -> Any:
  """A value given by a table file, if it has the type of the field."""
  now = _current(config, name, where)
  if isinstance(now, float) and type(value) is int:
    value = float(value)
  if type(value) is not type(now):
    raise TableError(
      f'{where}: expected {type(now).__name__}, as the default {now!r} is.'
    )
  return value


def _parsed(
  config: ml_collections.ConfigDict, name: str, text: str, where: str
) -> Any:
  """A value given on the command line, in the type of the field."""
  now = _current(config, name, where)
  try:
    if isinstance(now, bool):
      return {'true': True, 'false': False}[text.lower()]
    if isinstance(now, tuple):
      value = ast.literal_eval(text)
      return tuple(value) if isinstance(value, tuple | list) else (value,)
    return type(now)(text)
  except (KeyError, ValueError, SyntaxError) as error:
    raise TableError(
      f'{where}: expected {type(now).__name__}, as the default {now!r} is.'
    ) from error


def show(state: State) -> None:
  """Looks up a cell that will not be run: whatever its folder holds.

  A finished run of another config is read, and is not the paper's budget.
  """
  path = state.folder / 'config.json'
  if path.exists() and (state.folder / 'results.json').exists():
    before = config_lib.flatten(config_lib.to_json(state.config))
    try:
      now = config_lib.flatten(json.loads(path.read_text('utf-8')))
      state.read()
    except (ValueError, PredictionsError) as error:
      state.fail(error)
      return
    state.changed = tuple(
      (name, before.get(name), now.get(name))
      for name in sorted(before.keys() | now.keys())
      if before.get(name) != now.get(name)
    )
    return
  look_up(state)


def look_up(state: State) -> None:
  """Finds out, writing nothing, how far the cell is."""
  try:
    config_lib.check_same(state.config, state.folder)
    if (state.folder / 'results.json').exists():
      state.read()
      return
  except (config_lib.ConfigError, PredictionsError) as error:
    state.fail(error)
    return
  if (state.folder / 'config.json').exists():
    state.kind = 'started'
  try:
    missing = _missing(state)
  except store.StoreError as error:
    state.fail(error)
    return
  if missing:
    state.kind, state.prepare = 'not prepared', missing


def _missing(state: State) -> tuple[str, ...]:
  """What to give and to prepare first; raises if a store is damaged."""
  fields = config_lib.flatten(state.config)
  commands = [
    f'--set={field}={about}'
    for field, about in state.cell.required.items()
    if not fields[field]
  ]
  config = state.config
  for name in filter(None, (config.corpus, config.test_corpus)):
    if name == 'demo':
      continue  # Synthesised when it is first needed.
    try:
      opening.find(config, name)
    except store.NotPreparedError as error:
      commands.append(error.command)
  return tuple(commands)
