"""python -m jaxser.tables configs/tables/X.py --workdir=W: a paper's table.

Runs every cell whose corpus is prepared, each as a run of jaxser in its own
folder below W, and writes W/table.md, table.html and table.json. The same
command continues where it stopped; finished cells are read, not run again.

Examples:
  python -m jaxser.tables configs/tables/timnet_single_corpus.py --list
      What would run, and what is missing with the command that prepares it.
  python -m jaxser.tables configs/tables/timnet_single_corpus.py --workdir=W
      The whole table, for the corpora that are there.
  python -m jaxser.tables configs/tables/timnet_ablation.py --workdir=W --demo \\
      --set=epochs=5
      The ablations on the demo corpus, to see that everything works.

Exit codes: 0 done (cells whose corpus is not prepared are no error); 1 a cell
failed, the others were run; 2 a mistake that the message explains; 130 and 143
stopped by Ctrl-C and SIGTERM with the position saved.
"""

import difflib
import functools
import gc
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from jaxser.core import command_line
from jaxser.core.command_line import UsageError

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)
_path = functools.partial(command_line.define_path, flag_values=FLAGS)
_texts = functools.partial(flags.DEFINE_multi_string, flag_values=FLAGS)
_bool = functools.partial(flags.DEFINE_bool, flag_values=FLAGS)

_path('workdir', None, 'For cells and table; default workdir/NAME-OF-TABLE.')
_path('data_dir', None, 'Of stores; default $JAXSER_DATA_DIR or ~/jaxser_data.')
_texts('only', [], 'CELL,...: run these; the others are shown as they are.')
_texts(
  'set',
  [],
  'FIELD=VALUE: override a field of every config, as in --set=epochs=60; the '
  "table then says that it is not the paper's budget.",
)
_bool('demo', False, 'The cells on the demo corpus instead.')
_bool('list', False, 'Show the cells; run and write nothing.')


def main(arguments: list[str]) -> int:
  """Runs the cells of a table and writes it; returns the exit code."""
  if len(arguments) != 1:
    raise UsageError('give one file of configs/tables.')
  # Imported late, so that --help is quick.
  from jaxser.core import files
  from jaxser.engine import interruption
  from jaxser.report.tables import pages, spec, state, summary

  file = arguments[0]
  table = spec.load(file)
  workdir = FLAGS.workdir or pathlib.Path('workdir', pathlib.Path(file).stem)
  cells = table.demo if FLAGS.demo else table.cells
  only = [name for text in FLAGS.only for name in text.split(',') if name]
  _check_names(only, [cell.name for cell in cells])
  sets = dict(text.partition('=')[::2] for text in FLAGS.set)
  chosen, states = [], []
  for cell in cells:
    wanted = cell.name in only if only else not cell.on_request
    data_dir = str(FLAGS.data_dir or '')
    each = state.resolve(cell, workdir, sets if wanted else {}, data_dir)
    states.append(each)
    chosen += [each] if wanted else []
  state.check_sets(chosen, sets)
  for each in states:
    each.look_up(each in chosen)
  if FLAGS.list:
    print(pages.listing(states))
    return int(any(each.kind == 'failed' for each in chosen))

  def write() -> None:
    content = summary.build(
      table, states, file=file, sets=sets, demo=FLAGS.demo
    )
    files.write_json(workdir / 'table.json', content)
    for name in ('table.md', 'table.html'):
      files.write_text(workdir / name, pages.render(name, content))

  try:
    _run_all(chosen, write)
  except interruption.Interrupted as stop:
    print(f'\n{stop}', file=sys.stderr)
    return stop.exit_code
  finally:
    write()
  print((workdir / 'table.md').read_text('utf-8'))
  print(f'Table: {workdir}/table.md, table.html and table.json')
  failed = [each for each in chosen if each.kind == 'failed']
  for each in failed:
    print(f'Error: {each.cell.name}: {each.error}', file=sys.stderr)
  return int(bool(failed))


def _check_names(only: Sequence[str], names: Sequence[str]) -> None:
  if not names:
    raise UsageError('this table has no cells on the demo corpus.')
  for name in only:
    if name not in names:
      close = difflib.get_close_matches(name, names, n=1)
      hint = f' Did you mean {close[0]}?' if close else ''
      raise UsageError(
        f'--only={name}: is no cell of this table.{hint} Cells: '
        f'{", ".join(names)}.'
      )


def _run_all(states: Sequence[Any], write: Callable[[], None]) -> None:
  """Runs every cell that is ready or was interrupted; writes before each.

  An error ends its own cell only; it is kept in the state.
  """
  from jaxser.core import errors, runtime

  runtime.prepare()
  import jax

  from jaxser.engine import interruption, train

  say = functools.partial(print, file=sys.stderr, flush=True)
  waiting = [each for each in states if each.kind in ('ready', 'started')]
  for number, each in enumerate(waiting, 1):
    write()
    verb = 'continues' if each.kind == 'started' else 'starts'
    say(f'[{number}/{len(waiting)}] {each.cell.name} {verb}')
    each.kind = 'started'
    try:
      train.run(each.config, each.folder, command=each.command)
      each.read()
    except interruption.Interrupted:
      raise
    except errors.UserError as error:
      each.fail(error)
    except Exception as error:
      # A bug, or memory: the other cells should not pay for it.
      traceback.print_exc(file=sys.stderr)
      each.fail(f'{type(error).__name__}: {error}')
    if each.kind == 'failed':
      say(f'{each.cell.name} failed: {each.error}')
    # The programs and arrays of a cell are of no use to the next one.
    gc.collect()
    jax.clear_caches()


if __name__ == '__main__':
  sys.exit(command_line.run(main, FLAGS, positional='FILE'))
