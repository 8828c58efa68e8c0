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
from jaxser.evaluation.predictions import PredictionsError
from jaxser.report import derived, pages
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

  The others are compared with the first where both answer the same question.

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
  questions = [(v.run.results['protocol'], v.selection) for v in views]
  same = [v for v, q in zip(views, questions, strict=True) if q == questions[0]]
  compared = [(view, derived.compare(view, views[0])) for view in same[1:]]
  page = pages.render(
    'insert.md',
    views=views,
    only=only,
    differences=[pair for pair in compared if not pair[1].reason],
    commands=dict.fromkeys(map(_command, views)),
  )
  return page.strip('\n')


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
