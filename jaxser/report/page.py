"""Puts the sections of a run together into one self-contained page."""

import os
import pathlib

import jaxser
from jaxser import files
from jaxser.report import sections, text
from jaxser.report.charts import Numbers
from jaxser.report.markup import Markup, element, join
from jaxser.report.run import Run, read_run
from jaxser.report.style import STYLE

# The page needs nothing from elsewhere, and a browser is told to fetch nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(run: Run) -> str:
  """The page as HTML that is also well-formed XML; same run, same bytes."""
  numbers = Numbers()
  made = [make(run, numbers) for make in sections.SECTIONS]
  shown = [section for section in made if section is not None]
  links = [element('a', s.heading, href=f'#{s.anchor}') for s in shown]
  body = [
    element(
      'section',
      element('h2', s.heading, id=f'{s.anchor}-heading'),
      s.content,
      id=s.anchor,
      aria_labelledby=f'{s.anchor}-heading',
    )
    for s in shown
  ]
  head = [
    element('meta', charset='utf-8'),
    element(
      'meta', name='viewport', content='width=device-width, initial-scale=1'
    ),
    element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
    element('title', text.title(run.results)),
    element('link', rel='icon', href='data:,'),
    element('style', Markup(STYLE)),
  ]
  footer = (
    f'jaxser {jaxser.__version__}. Every figure on this page was computed from '
    'predictions.jsonl; results.json holds them for programs.'
  )
  page = element(
    'html',
    element('head', *head),
    element(
      'body',
      sections.header(run),
      element('nav', *links, aria_label='Contents'),
      element('main', join(body, '\n')),
      element('footer', footer),
    ),
    lang='en',
  )
  return f'<!DOCTYPE html>\n{page}\n'


def write_report(workdir: os.PathLike[str] | str) -> pathlib.Path:
  """Writes `workdir`/report.html from the files of the run; returns its path.

  Raises:
    PredictionsError: results.json or predictions.jsonl is missing or wrong, or
      the two disagree.
  """
  path = pathlib.Path(workdir) / 'report.html'
  files.write_text(path, render(read_run(workdir)))
  return path
