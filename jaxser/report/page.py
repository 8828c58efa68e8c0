"""Puts sections together into one self-contained page."""

import os
import pathlib
from collections.abc import Sequence

import jaxser
from jaxser.core import files
from jaxser.report import sections, text
from jaxser.report.charts import Numbers
from jaxser.report.markup import Markup, element, join
from jaxser.report.run import Run, read_run
from jaxser.report.section import Section
from jaxser.report.style import STYLE

# The page needs nothing from elsewhere, and a browser is told to fetch nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(
  title: str, header: Markup, shown: Sequence[Section], footer: str
) -> str:
  """A page of sections as HTML that is also well-formed XML."""
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
    element('title', title),
    element('link', rel='icon', href='data:,'),
    element('style', Markup(STYLE)),
  ]
  page = element(
    'html',
    element('head', *head),
    element(
      'body',
      header,
      element('nav', *links, aria_label='Contents'),
      element('main', join(body, '\n')),
      element('footer', f'jaxser {jaxser.__version__}. {footer}'),
    ),
    lang='en',
  )
  return f'<!DOCTYPE html>\n{page}\n'


def render(run: Run) -> str:
  """The page of one run; same run, same bytes."""
  numbers = Numbers()
  made = [make(run, numbers) for make in sections.SECTIONS]
  return document(
    text.title(run.results),
    sections.header(run),
    [section for section in made if section is not None],
    'Every score on this page was computed from predictions.jsonl, probes and '
    'views from embeddings.npz; results.json holds the figures for programs.',
  )


def write_report(
  workdir: os.PathLike[str] | str, out: os.PathLike[str] | str | None = None
) -> pathlib.Path:
  """Writes `out`, by default `workdir`/report.html; returns its path.

  Raises:
    PredictionsError: results.json or predictions.jsonl is missing or wrong, or
      the two disagree.
  """
  path = pathlib.Path(out or pathlib.Path(workdir) / 'report.html')
  files.write_text(path, render(read_run(workdir)))
  return path
