"""The table program: look up, run, write."""

import difflib
import pathlib
import sys
from collections.abc import Sequence

from jaxser.core import files, runtime
from jaxser.report.tables import (
  markdown,
  page,
  running,
  spec,
  state,
  summary,
  wording,
)


def run(
  table_file: str,
  *,
  workdir: pathlib.Path | None = None,
  data_dir: str = '',
  only: Sequence[str] = (),
  sets: Sequence[str] = (),
  demo: bool = False,
  list_only: bool = False,
) -> int:
  """Runs the cells of a table and writes it; see `jaxser.tables`.

  Args:
    table_file: path of a file of configs/tables.
    workdir: where cells and table are written.
    data_dir: where stores lie, '' for the default place.
    only: names of the cells to run; empty for all.
    sets: overrides, FIELD=VALUE.
    demo: whether to take the cells on the demo corpus.
    list_only: whether to show the cells only.

  Returns:
    0, or 1 if a cell failed.

  Raises:
    TableError: the file, a name or an override is wrong.
    Interrupted: on Ctrl-C or SIGTERM; the table was written before.
  """
  table = spec.load(table_file)
  workdir = workdir or pathlib.Path('workdir', pathlib.Path(table_file).stem)
  cells = table.demo if demo else table.cells
  if not cells:
    raise spec.TableError(f'{table_file} has no cells on the demo corpus.')
  _check_names(only, [cell.name for cell in cells])
  overrides = state.parse_sets(sets)
  chosen, states = [], []
  for cell in cells:
    wanted = cell.name in only if only else not cell.on_request
    given = overrides if wanted else {}
    states.append(state.resolve(cell, workdir, given, data_dir))
    chosen += states[-1:] if wanted else []
  state.check_sets(chosen, overrides)
  for each in states:
    look = state.look_up if each in chosen else state.show
    look(each)
  if list_only:
    print(_listing(states))
    return int(any(s.kind == 'failed' for s in chosen))

  def write() -> dict:
    content = summary.build(
      table, states, file=table_file, sets=overrides, demo=demo
    )
    files.write_json(workdir / 'table.json', content)
    files.write_text(workdir / 'table.md', markdown.render(content))
    files.write_text(workdir / 'table.html', page.render(content))
    return content

  _quiet_and_fast()
  write()
  try:
    running.run_all(chosen, changed=write, report=_say)
  finally:
    content = write()
  print(markdown.render(content))
  print(f'Table: {workdir}/table.md, table.html and table.json')
  for each in chosen:
    if each.kind == 'failed':
      print(f'Error: {each.cell.name}: {each.error}', file=sys.stderr)
  return int(any(each.kind == 'failed' for each in chosen))


def _check_names(only: Sequence[str], names: Sequence[str]) -> None:
  for name in only:
    if name not in names:
      close = difflib.get_close_matches(name, names, n=1)
      hint = f' Did you mean {close[0]}?' if close else ''
      raise spec.TableError(
        f'--only={name}: is no cell of this table.{hint} Cells: '
        f'{", ".join(names)}.'
      )


def _quiet_and_fast() -> None:
  """What jaxser.main does before it trains."""
  from absl import logging

  # Orbax narrates every checkpoint at the level below.
  logging.set_verbosity(logging.WARNING)
  runtime.keep_freed_memory()
  runtime.quiet_without_tpu()
  runtime.enable_compilation_cache()


def _listing(states: Sequence[state.State]) -> str:
  """One paragraph per cell: how far it is, and the command for it."""
  lines = []
  for each in states:
    lines.append(f'{each.cell.name}: {wording.STATES[each.kind]}')
    if each.error:
      lines.append(f'  {each.error}')
    if each.cell.on_request:
      lines.append(f'  on request: {each.cell.on_request}')
    if each.budget:
      lines.append(f"  not the paper's budget: {each.budget}")
    lines += [f'  {command}' for command in (*each.prepare, each.command)]
  return '\n'.join(lines)


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
