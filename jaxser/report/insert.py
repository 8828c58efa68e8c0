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
from collections.abc import Iterator, Sequence

from jaxser.core import files
from jaxser.evaluation import significance
from jaxser.evaluation.predictions import SELECTIONS, PredictionsError
from jaxser.report import text
from jaxser.report.run import View, read_views

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
  return replace(page, name, render(read_views(workdirs, selection), selection))


def replace(page: os.PathLike[str] | str, name: str, made: str) -> pathlib.Path:
  """Puts text between the marks of a name; returns the page's path.

  Raises:
    PredictionsError: the page has no such marks.
  """
  before, after = around(page, name)
  files.write_text(page, f'{before}\n\n{made}\n\n{after}')
  return pathlib.Path(page)


def around(page: os.PathLike[str] | str, name: str) -> tuple[str, str]:
  """Returns the page up to the first mark of a name, and from the second on.

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


def render(views: Sequence[View], only: str = '') -> str:
  """Returns a table of every selection of every run, and their commands.

  Args:
    views: the runs, each with the selection that is compared.
    only: the one selection that is shown, '' for all.

  Raises:
    PredictionsError: the runs predict different things.
  """
  if len({view.task for view in views}) > 1:
    raise PredictionsError(
      'runs of classes and runs of valence, arousal and dominance do not go '
      'into one table; give them separately'
    )
  first = views[0].run.results
  task, metrics = views[0].task, first['metrics']
  rows = [row for view in views for row in _run_rows(view, only)]
  rows += _difference_rows(views)
  if first['annotators']:
    label = f'*two of the {first["annotators"]["count"]} annotators*'
    rows.append([label, *_figures(first['annotators'], metrics, task)])
  table = text.markdown_table(['run', *map(text.metric, metrics)], rows)
  about = [
    f'{text.headline(text.unit(first))}, pooled, with 95 % intervals over '
    f'speakers; {text.size(first)}.'
  ]
  for view in views:
    if view.run.results['trust_init_from']:
      about.append(f'**{view.name}**: {text.TRUSTED}')
    for why in text.incomparable(view.run.results):
      about.append(f'**{view.name}** and the paper are not comparable: {why}.')
  commands = dict.fromkeys(f'    {_command(view)}' for view in views)
  return '\n'.join([table, '', ' '.join(about), '', *commands])


def _figures(found: dict, metrics: Sequence[str], task: str) -> list[str]:
  return [text.number(found.get(metric), task) for metric in metrics]


def _run_rows(view: View, only: str) -> Iterator[list[str]]:
  """The selections of a run, each with what was published of it."""
  results = view.run.results
  for selection, entry in results['selections'].items():
    if only not in ('', selection):
      continue
    figures = []
    for metric in results['metrics']:
      found = entry['pooled'][metric]
      figure = text.number(found['value'], view.task)
      if found['low'] is not None:
        figure += f' ({text.interval(found, view.task)})'
      figures.append(figure)
    yield [f'**{view.name}**, {SELECTIONS[selection]}', *figures]
    paper = text.paper(results).get(selection, {})
    if any(metric in paper for metric in results['metrics']):
      published = _figures(paper, results['metrics'], view.task)
      yield [f'*published: {paper.get("source", "")}*', *published]


def _difference_rows(views: Sequence[View]) -> Iterator[list[str]]:
  """A row for every other run against the first, where it can be compared."""
  first, task = views[0], views[0].task
  for view in views[1:]:
    same = view.run.results['protocol'] == first.run.results['protocol']
    if not same or view.selection != first.selection:
      continue
    found = significance.compare(
      view.predictions,
      first.predictions,
      view.run.results['classes'],
      first.run.results['classes'],
    )
    if found.reason:
      continue
    cells = []
    for metric in first.run.results['metrics']:
      change = found.changes[metric]
      cell = text.signed(change.value, task)
      if change.low is not None:
        cell += f' ({text.signed_interval(change.low, change.high, task)})'
        cell += f', {text.p_value(change.p_value)}'
      cells.append(cell)
    label = f'{view.name} minus {first.name}, {text.short(view.selection)}'
    yield [label, *cells]


def _command(view: View) -> str:
  """What to type for this run, wherever its data lie."""
  words = without_places(shlex.split(view.run.results['command']))
  return shlex.join([*words, f'--workdir=runs/{view.name}'])


def without_places(words: Sequence[str]) -> list[str]:
  """Returns the words of a command without somebody's folders."""
  return [
    re.sub(r'=.*/', '=', word) if word.startswith(_FILES) else word
    for word in words
    if not word.startswith(_PLACES)
  ]
