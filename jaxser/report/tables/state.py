"""How far each cell of a table is: its config, its stores, its folder."""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from data_prep import store
from jaxser.core import command_line
from jaxser.core import config as config_lib
from jaxser.core.errors import UserError
from jaxser.engine import opening
from jaxser.engine import workdir as workdir_lib
from jaxser.report.run import PathLike, Run, read_run
from jaxser.report.tables.spec import Cell, TableError

KINDS = {
  'finished': 'finished',
  'ready': 'not run yet',
  'started': 'begun, not finished',
  'not prepared': 'not prepared',
  'failed': 'failed',
}
"""How far a cell is, and what people read for it."""
# Beside config.FREE: what changes speed or spread but not how much is trained.
_SAME_BUDGET = (*config_lib.FREE, 'engine', 'parallel', 'seed', 'seeds')


@dataclasses.dataclass(eq=False)
class State:
  """A cell and how far it is."""

  cell: Cell
  config: ml_collections.ConfigDict  # Resolved, with all overrides.
  changed: Sequence[tuple[str, Any, Any]]  # Field, the table's value, --set's.
  folder: pathlib.Path  # Of the run.
  kind: str = 'ready'  # One of `KINDS`.
  prepare: Sequence[str] = ()  # Commands, where 'not prepared'.
  error: str = ''  # A message for the user, where 'failed'.
  run: Run | None = None  # What was read, where 'finished'.

  @property
  def command(self) -> str:
    """The command of jaxser.main that does this run alone."""
    plain = command_line.load_recipe(self.cell.config, self.cell.arg)
    recipe = ':'.join(filter(None, (self.cell.config, self.cell.arg)))
    words = ['python', '-m', 'jaxser.main', f'--config={recipe}']
    for name, _, value in config_lib.difference(plain, self.config):
      value = tuple(value) if isinstance(value, list) else value
      words.append(f'--config.{name}={value}')
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
    """Reads a finished run; what is wrong with its files is noted."""
    try:
      self.run = read_run(self.folder)
      self.kind, self.error = 'finished', ''
    except UserError as error:
      self.fail(error)

  def fail(self, error: BaseException | str) -> None:
    """Notes what went wrong."""
    self.kind, self.error = 'failed', str(error) or type(error).__name__

  def look_up(self, to_run: bool) -> None:
    """Finds out, writing nothing, how far the cell is.

    Where it is not to be run, a finished run of another config is shown, and
    is not the paper's budget.
    """
    finished = (self.folder / 'results.json').exists()
    try:
      if to_run or not finished:
        workdir_lib.check_config(self.folder, self.config)
        self.prepare = () if finished else self._missing()
    except UserError as error:
      return self.fail(error)
    if finished:
      self.read()
      if not to_run:
        there = self.run.config if self.run else {}
        now = config_lib.to_json(self.config)
        default = workdir_lib.defaults(self.config.system)
        self.changed = (
          config_lib.difference(now, there, default) if there else ()
        )
    elif self.prepare:
      self.kind = 'not prepared'
    elif (self.folder / 'config.json').exists():
      self.kind = 'started'

  def _missing(self) -> list[str]:
    """Returns what to give and to prepare; raises if a store is damaged."""
    fields = config_lib.flatten(self.config)
    commands = [
      f'--set={field}={value}'
      for field, value in self.cell.required.items()
      if not fields[field]
    ]
    for name in (self.config.corpus, self.config.test_corpus):
      try:
        if name not in ('', 'demo'):  # Synthesised when it is first needed.
          opening.find(self.config, name)
      except store.NotPreparedError as error:
        commands.append(error.command)
    return commands


def resolve(
  cell: Cell,
  workdir: PathLike,
  sets: Mapping[str, str],
  data_dir: str = '',
) -> State:
  """Returns a cell with its config; nothing is looked up yet.

  Fields of --set that this recipe does not have are left out.
  """
  try:
    table = _overridden(cell, cell.overrides)
    known = {k: v for k, v in sets.items() if k in config_lib.flatten(table)}
    config = _overridden(cell, {**cell.overrides, **known})
    changed = config_lib.difference(table, config)
    if data_dir:
      config.data_dir = data_dir
    config_lib.validate(config)
  except UserError as error:
    raise TableError(f'cell {cell.name!r}: {error}') from error
  config.lock()
  return State(cell, config, changed, pathlib.Path(workdir, cell.name))


def _overridden(
  cell: Cell, fields: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns the config of a cell as the command line of jaxser.main makes it."""
  values = flags.FlagValues()
  command_line.define_config(values)
  words = [f'--config.{name}={value}' for name, value in fields.items()]
  try:
    command_line.parse(values, [f'--config={cell.config}:{cell.arg}', *words])
  except UserError as error:
    raise TableError(str(error).replace('--config.', '--set=')) from error
  return values.config


def check_sets(states: Sequence[State], sets: Mapping[str, str]) -> None:
  """Raises a UserError for a --set that is a field of no cell."""
  fields = [config_lib.flatten(state.config) for state in states]
  for name, text in sets.items():
    if not any(name in known for known in fields):
      _overridden(states[0].cell, {name: text})
