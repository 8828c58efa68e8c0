"""Speakers: for whom it works, and for whom it does not."""

import statistics
from collections.abc import Mapping, Sequence

from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import Prediction
from jaxser.evaluation.results import NAMES
from jaxser.report import charts, text
from jaxser.report.markup import Markup, element, join, scrolling, table
from jaxser.report.run import Run
from jaxser.report.section import Section

SHOWN = {'classification': ('uar', 'war'), 'regression': ('ccc_mean',)}
"""Metrics of the table, by task; few utterances bear no more."""
FOLDED = 24
"""A table of more speakers is shown on demand."""

Scores = dict[str, dict[str, float]]


def scores(
  predictions: Sequence[Prediction], classes: Sequence[str]
) -> tuple[Scores, dict[str, int]]:
  """Metrics and number of utterances of each speaker.

  Args:
    predictions: of one selection; several seeds count together.
    classes: in label order; empty for valence, arousal, dominance.

  Returns:
    {speaker: {metric: per cent or CCC}} for `SHOWN`, sorted by name, without
    what is not defined, and {speaker: utterances}.
  """
  parts: dict[str, list[Prediction]] = {}
  for p in predictions:
    parts.setdefault(p.speaker or 'unknown', []).append(p)
  found: Scores = {}
  sizes = {}
  for name, rows in sorted(parts.items()):
    task = rows[0].task
    values = results_lib.STATISTICS[task](
      results_lib.grouped(rows, task, classes).sum(0)
    )
    scale = 100 if task == 'classification' else 1
    known = dict(zip(results_lib.METRICS[task], values, strict=True))
    found[name] = {
      metric: scale * float(known[metric])
      for metric in SHOWN[task]
      if known[metric] == known[metric]
    }
    sizes[name] = len({p.id for p in rows})
  return found, sizes


def cell(value: float | None, task: str) -> Markup:
  """A figure with a bar below it."""
  if value is None:
    return element('span', text.MISSING)
  share = value if task == 'classification' else 100 * max(value, 0.0)
  bar = element(
    'span',
    class_='bar',
    style=f'--share: {min(share, 100):.1f}%',
    aria_hidden='true',
  )
  return join([text.number(value, task), bar])


def extremes(found: Mapping[str, Mapping[str, float]], task: str) -> str:
  """'UAR from 61.20 (03) to 96.00 (08), standard deviation 9.10.'"""
  metric = SHOWN[task][0]
  known = sorted(
    (values[metric], name) for name, values in found.items() if metric in values
  )
  if len(known) < 2:
    return ''
  (low, worst), (high, best) = known[0], known[-1]
  spread = statistics.stdev(value for value, _ in known)
  return (
    f'{NAMES[metric]} from {text.number(low, task)} ({worst}) to '
    f'{text.number(high, task)} ({best}), standard deviation over speakers '
    f'{text.number(spread, task)}.'
  )


def grid(
  caption: str,
  columns: Mapping[str, tuple[Scores, Mapping[str, int]]],
  task: str,
) -> Markup:
  """Speakers against columns (selections or runs)."""
  names = sorted({name for found, _ in columns.values() for name in found})
  sizes = {
    name: max(size.get(name, 0) for _, size in columns.values())
    for name in names
  }
  header = ['speaker', 'utterances']
  header += [
    f'{column}: {NAMES[metric]}' for column in columns for metric in SHOWN[task]
  ]
  rows = [
    [
      name,
      sizes[name],
      *(
        cell(found.get(name, {}).get(metric), task)
        for found, _ in columns.values()
        for metric in SHOWN[task]
      ),
    ]
    for name in names
  ]
  shown = scrolling(table(caption, header, rows, class_='recall'), caption)
  if len(names) <= FOLDED:
    return shown
  return element(
    'details', element('summary', f'All {len(names)} speakers'), shown
  )


def speakers(run: Run, numbers: charts.Numbers) -> Section | None:
  """Every speaker's figures, for each selection."""
  del numbers
  results = run.results
  if results['speakers'] < 2:
    return None
  task = results['task']
  columns, lines = {}, []
  for name in results['selections']:
    rows = [p for p in run.predictions if p.selection == name]
    columns[text.short(name)] = scores(rows, results['classes'])
    told = extremes(columns[text.short(name)][0], task)
    lines.append(element('li', f'{text.headline(text.short(name))}: {told}'))
  caption = f'Each speaker on their own, {text.unit(results)}'
  about = [element('ul', *lines, class_='notes')]
  return Section(
    'speakers', 'Speakers', join([*about, grid(caption, columns, task)])
  )
