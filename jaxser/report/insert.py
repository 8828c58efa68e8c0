"""Tables of finished runs between <!-- NAME --> and <!-- /NAME --> of a page."""

import pathlib
import re
import shlex
from collections.abc import Sequence

from data_prep import expanded
from jaxser.core import files
from jaxser.evaluation.predictions import PathLike, PredictionsError
from jaxser.report import derived, pages
from jaxser.report.run import View, read_views

# Where things lie on somebody's machine is nothing for a page.
_PLACES = ('--config.data_dir=', '--workdir=')
_FILES = ('--config.init_from=', '--config.model.weights=')


def write_into(
  page: PathLike, name: str, workdirs: Sequence[PathLike], selection: str = ''
) -> pathlib.Path:
  """Puts the table of finished runs between two marks; returns the page's path.

  Runs of the first one's protocol and selection are compared with it. Without a
  `selection` all are shown, and the most honest one is compared.
  """
  around(page, name)
  views = read_views(workdirs, selection)
  if len({view.task for view in views}) > 1:
    raise PredictionsError(
      'runs of classes and runs of valence, arousal and dominance do not go '
      'into one table; give them separately'
    )
  first = views[0].run.results['protocol'], views[0].selection
  same = [v for v in views if (v.run.results['protocol'], v.selection) == first]
  compared = derived.compare_with_first(same)
  made = pages.render(
    'insert.md',
    views=views,
    only=selection,
    differences=[pair for pair in compared if not pair[1].reason],
    commands=dict.fromkeys(map(_command, views)),
  )
  return replace(page, name, made.strip('\n'))


def replace(page: PathLike, name: str, made: str) -> pathlib.Path:
  """Puts text between the marks of a name; returns the page's path."""
  page = expanded(page)
  before, after = around(page, name)
  files.write_text(page, f'{before}\n\n{made}\n\n{after}')
  return page


def around(page: PathLike, name: str) -> tuple[str, str]:
  """Returns the page up to the first mark of a name, and from the second on."""
  first, second = f'<!-- {name} -->', f'<!-- /{name} -->'
  try:
    content = expanded(page).read_text('utf-8')
  except OSError as error:
    raise PredictionsError(f'{page}: {error.strerror}') from error
  before, begin, rest = content.partition(first)
  _, end, after = rest.partition(second)
  if not begin or not end:
    raise PredictionsError(
      f'{page}: has no {first} followed by {second}; put both where the table '
      'belongs'
    )
  return before + begin, end + after


def _command(view: View) -> str:
  """Returns what to type for this run, wherever its data lie."""
  words = without_places(shlex.split(view.run.results['command']))
  return shlex.join([*words, f'--workdir=runs/{view.name}'])


def without_places(words: Sequence[str]) -> list[str]:
  """Returns the words of a command without somebody's folders."""
  return [
    re.sub(r'=.*/', '=', word) if word.startswith(_FILES) else word
    for word in words
    if not word.startswith(_PLACES)
  ]
