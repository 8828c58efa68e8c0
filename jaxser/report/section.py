"""What a part of the page is. Parts are functions: (run, numbers) in, one out.

A function returns None where it has nothing to show for a run (no classes, no
training); the part is then left out, also of the list of contents. All of them
stand in `sections.SECTIONS`, in the order of the page.
"""

from typing import NamedTuple

from jaxser.report import text
from jaxser.report.markup import Markup, element, escape, join
from jaxser.report.run import Run


class Section(NamedTuple):
  """A part of the page: its anchor, its heading and what it shows."""

  anchor: str
  heading: str
  content: Markup


def selections(run: Run) -> list[tuple[str, str]]:
  """Names of the selections and what people read for them."""
  return [
    (name, text.headline(entry['label']))
    for name, entry in run.results['selections'].items()
  ]


def stacked(value: object, below: str) -> Markup:
  """A value with its uncertainty below, so that a phone shows every column."""
  if not below:
    return escape(value)
  return join([value, element('small', below)], ' ')
