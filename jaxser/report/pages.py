"""Pages: the templates of this folder, filled in with what runs left behind.

Other packages may write pages of the same look with `base.html` and `render`.
"""

import functools
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

import jaxser
from jaxser.core import files
from jaxser.evaluation import embeddings
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.intervals import FEW_GROUPS, LEAST_GROUPS
from jaxser.evaluation.metrics import METRICS, NAMES
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  SELECTIONS,
  PathLike,
  PredictionsError,
)
from jaxser.evaluation.probes import HELD_OUT
from jaxser.report import derived, figures, text
from jaxser.report.run import View, most_honest, names_of, read_run, read_views


def render(template: str, **data: Any) -> str:
  """Fills in a template; the same data give the same text."""
  return _environment().get_template(template).render(**data)


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('jaxser.report'),
    autoescape=jinja2.select_autoescape(['html']),
    undefined=jinja2.StrictUndefined,
    finalize=lambda x: x if isinstance(x, Markup) else text.printable(x),
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'contents': _contents,
    'scores_by': derived.scores_by,
    'wrap': lambda line: textwrap.fill(line, 80),
  }
  for function in (text.number, text.head, text.metric, text.short):
    environment.filters[function.__name__] = function
  environment.globals |= {
    'DEMO_WARNING': results_lib.DEMO_WARNING,
    'DIMENSIONS': DIMENSIONS,
    'FEW_GROUPS': FEW_GROUPS,
    'HELD_OUT': HELD_OUT,
    'LEAST_GROUPS': LEAST_GROUPS,
    'NAMES': NAMES,
    'SELECTIONS': SELECTIONS,
    'derived': derived,
    'figures': figures,
    'most_honest': most_honest,
    'notes': notes,
    'read_embeddings': embeddings.read,
    'results_lib': results_lib,
    'text': text,
    'version': jaxser.__version__,
  }
  return environment


def _contents(main: str) -> list[tuple[Markup, Markup]]:
  """Returns (anchor, heading) of the sections of a page."""
  found = re.findall(r'<section id="([^"]+)".*\n<h2[^>]*>(.*?)</h2>', main)
  return [(Markup(anchor), Markup(heading)) for anchor, heading in found]


def notes(results: Mapping[str, Any]) -> list[str]:
  """Returns what a reader must know to read results.json rightly."""
  results = {'trust_init_from': False, **results}
  return render('notes.txt', results=results).split('\n')[:-1]


def format_table(results: Mapping[str, Any]) -> str:
  """Returns the table of results.json at the end of a run, 80 columns wide."""
  return render('terminal.txt', results=results).rstrip()


def write_report(
  workdir: PathLike,
  out: PathLike | None = None,
  baseline: PathLike | None = None,
) -> pathlib.Path:
  """Writes the page of a run, by default report.html in it; returns its path."""
  run = read_run(workdir)
  views = [
    View(text.head(text.short(selection, entry)), run, selection)
    for selection, entry in run.results['selections'].items()
  ]
  path = pathlib.Path(out or pathlib.Path(workdir) / 'report.html')
  title = text.title(run.results)
  (line,) = read_views([baseline]) if baseline else [None]
  if line and (reason := derived.not_alike(line, views[0])):
    raise PredictionsError(f'{baseline} is no baseline of {workdir}: {reason}')
  about = {'title': title, 'run': run, 'runs': {'': run}}
  page = render('run.html', **about, views=views, baseline=line)
  files.write_text(path, page)
  return path


def write_comparison(
  workdirs: Sequence[PathLike],
  out: PathLike = 'comparison.html',
  selection: str = '',
) -> pathlib.Path:
  """Writes the page that compares finished runs with the first of them."""
  views = read_views(workdirs, selection)
  compared = derived.compare_with_first(views)
  every_note = [note for view in views for note in notes(view.run.results)]
  page = render(
    'comparison.html',
    title=' / '.join(view.name for view in views),
    views=views,
    baseline=None,
    runs={view.name: view.run for view in views},
    compared=compared,
    differences=[pair for pair in compared if not pair[1].reason],
    interval_notes=dict.fromkeys(
      note for note in every_note if note.startswith('Intervals')
    ),
  )
  files.write_text(out, page)
  return pathlib.Path(out)


def write_figure(workdirs: Sequence[PathLike], out: PathLike) -> pathlib.Path:
  """Draws every selection of finished runs as an SVG file; returns its path."""
  named = zip(names_of(workdirs), map(read_run, workdirs), strict=True)
  views = [
    View(f'{name}, {text.short(selection, entry)}', run, selection)
    for name, run in named
    for selection, entry in run.results['selections'].items()
  ]
  results, task = views[0].run.results, views[0].task
  if any(view.task != task for view in views):
    raise PredictionsError('classes and VAD do not go into one figure')
  metric = METRICS[task][0]
  chart = figures.forest(
    f'{NAMES[metric]} of every run',
    derived.marks(views, metric),
    f'{NAMES[metric]}, {text.unit(results)}',
    task,
    width=800,
  )
  sheet = pathlib.Path(__file__).parent / 'templates' / 'style.css'
  colours = sheet.read_text('utf-8').partition('* {')[0]
  colours += 'svg { background: var(--page); font-family: sans-serif; }'
  chart = str(chart).replace('<title>', f'<style>{colours}</style><title>', 1)
  files.write_text(out, chart)
  return pathlib.Path(out)
