"""Tables inside a page of Markdown, such as README.md: here of finished runs.

    <!-- NAME -->
    ... what is here is replaced ...
    <!-- /NAME -->

So figures in a page are never typed: the command is run again instead.
"""

import os
import pathlib
import re
import shlex
from collections.abc import Sequence

from jaxser.core import files
from jaxser.evaluation import significance
from jaxser.evaluation.predictions import SELECTIONS, PredictionsError
from jaxser.evaluation.results import NAMES
from jaxser.report import text
from jaxser.report.named import Named, read_named

# Where things lie on somebody's machine is nothing for a page.
_PLACES = ('--config.data_dir=', '--workdir=')
_FILES = ('--config.init_from=', '--config.model.weights=')


def write_into(
  page: os.PathLike[str] | str,
  name: str,
  workdirs: Sequence[os.PathLike[str] | str],
  selection: str = '',
) -> pathlib.Path:
  """Replaces the table between the marks of a name; returns the page's path.

  Args:
    page: a file with the marks.
    name: of the marks.
    workdirs: folders of finished runs, all of classes or all of VAD; the others
      are compared with the first.
    selection: the only one shown; '' shows all, and compares the most honest.

  Raises:
    PredictionsError: the page has no such marks, a run is not finished or lacks
      the selection, or the runs predict different things.
  """
  around(page, name)
  made = render(read_named(workdirs, selection), selection)
  return replace(page, name, made)


def replace(page: os.PathLike[str] | str, name: str, made: str) -> pathlib.Path:
  """Puts text between the marks of a name; returns the page's path.

  Raises:
    PredictionsError: the page has no such marks.
  """
  before, after = around(page, name)
  page = pathlib.Path(page)
  files.write_text(page, f'{before}\n\n{made}\n\n{after}')
  return page


def around(page: os.PathLike[str] | str, name: str) -> tuple[str, str]:
  """The page up to the first mark of a name, and from the second on.

  Raises:
    PredictionsError: the page has no such marks.
  """
  marks = f'<!-- {name} -->', f'<!-- /{name} -->'
  try:
    content = pathlib.Path(page).read_text('utf-8')
  except OSError as error:
    raise PredictionsError(f'{page}: {error.strerror}') from error
  before, begin, rest = content.partition(marks[0])
  _, end, after = rest.partition(marks[1])
  if not begin or not end:
    raise PredictionsError(
      f'{page}: has no {marks[0]} followed by {marks[1]}; put both where the '
      'table belongs'
    )
  return before + begin, end + after


def render(named: Sequence[Named], only: str = '') -> str:
  """A table of every selection of every run, and the commands that give it.

  Args:
    named: the runs.
    only: the one selection that is shown, '' for all.
  """
  tasks = {each.task for each in named}
  if len(tasks) > 1:
    raise PredictionsError(
      'runs of classes and runs of valence, arousal and dominance do not go '
      'into one table; give them separately'
    )
  task, metrics = tasks.pop(), named[0].run.results['metrics']
  head = ['run', *(NAMES[metric].removeprefix('CCC ') for metric in metrics)]
  rows = [head, ['---', *['---:'] * len(metrics)]]
  for each in named:
    results = each.run.results
    for selection, entry in results['selections'].items():
      if only not in ('', selection):
        continue
      label = f'**{each.name}**, {SELECTIONS[selection]}'
      rows.append([label, *(_cell(entry['pooled'][m], task) for m in metrics)])
      paper = results['paper'].get(selection, {})
      if any(metric in paper for metric in metrics):
        figures = [text.number(paper.get(metric), task) for metric in metrics]
        rows.append([f'*published: {paper.get("source", "")}*', *figures])
  if named[1:]:
    rows += _differences(named, task, metrics)
  annotators = named[0].run.results.get('annotators')
  if annotators:
    label = f'*two of the {annotators["count"]} annotators*'
    figures = [text.number(annotators.get(metric), task) for metric in metrics]
    rows.append([label, *figures])
  size = text.size(named[0].run.results)
  unit = text.headline(text.unit(named[0].run.results))
  about = f'{unit}, pooled, with 95 % intervals over speakers; {size}.'
  commands = dict.fromkeys(f'    {_command(each)}' for each in named)
  lines = [f'| {" | ".join(row)} |' for row in rows]
  return '\n'.join([*lines, '', about, '', *commands])


def _cell(found: dict[str, float | None], task: str) -> str:
  value = text.number(found['value'], task)
  if found['low'] is None:
    return value
  return f'{value} ({text.interval(found, task)})'


def _differences(
  named: Sequence[Named], task: str, metrics: Sequence[str]
) -> list[list[str]]:
  """A row for every other run against the first, where it can be compared."""
  first, rows = named[0], []
  for each in named[1:]:
    protocols = {e.run.results['protocol'] for e in (each, first)}
    if len(protocols) > 1 or each.selection != first.selection:
      continue
    found = significance.compare(
      each.chosen,
      first.chosen,
      each.run.results['classes'],
      first.run.results['classes'],
    )
    if found.reason:
      continue
    cells = []
    for metric in metrics:
      change = found.changes[metric]
      cell = text.signed(change.value, task)
      if change.low is not None:
        low, high = (text.signed(x, task) for x in (change.low, change.high))
        cell += f' ({low} to {high}), {text.p_value(change.p_value)}'
      cells.append(cell)
    label = f'{each.name} minus {first.name}, {text.short(each.selection)}'
    rows.append([label, *cells])
  return rows


def _command(each: Named) -> str:
  """What to type for this run, wherever its data lie."""
  words = without_places(shlex.split(each.run.results['command']))
  return shlex.join([*words, f'--workdir=runs/{each.name}'])


def without_places(words: Sequence[str]) -> list[str]:
  """The words of a command without somebody's folders."""
  return [
    re.sub(r'=.*/', '=', word) if word.startswith(_FILES) else word
    for word in words
    if not word.startswith(_PLACES)
  ]
