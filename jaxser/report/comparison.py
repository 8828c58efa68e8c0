"""Several runs on one page: who is better, where, and what differs."""

import os
import pathlib
from collections.abc import Callable, Sequence

from jaxser.core import files
from jaxser.evaluation import significance
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.evaluation.results import DEMO_WARNING, NAMES
from jaxser.report import charts, forest, page, side_by_side, text
from jaxser.report.charts import Numbers
from jaxser.report.markup import Markup, element, join, scrolling, table
from jaxser.report.named import Named, read_named
from jaxser.report.section import Section, stacked

Make = Callable[[Sequence[Named], Numbers], Section | None]


def header(named: Sequence[Named]) -> Markup:
  """What is compared, and warnings."""
  rows = [
    element(
      'li',
      element('b', each.name),
      f': {text.title(each.run.results)}; {text.size(each.run.results)}; '
      f'{text.short(each.selection)}',
    )
    for each in named
  ]
  parts = [
    element('h1', f'{len(named)} runs compared'),
    element('ul', *rows, class_='notes'),
  ]
  if len({each.selection for each in named}) > 1:
    parts.append(
      element(
        'p',
        'No selection is common to all runs, so different ones are compared: '
        'an epoch chosen on the test fold beats an honest one without being '
        'better.',
        class_='warning',
        role='note',
      )
    )
  if any(each.run.results['demo'] for each in named):
    parts.append(element('p', DEMO_WARNING, class_='warning', role='note'))
  return element('header', *parts)


def results(named: Sequence[Named], numbers: Numbers) -> Section:
  """All selections of all runs with their intervals."""
  parts: list[Markup] = []
  for task in ('classification', 'regression'):
    runs = [each for each in named if each.task == task]
    if not runs:
      continue
    metrics = runs[0].run.results['metrics']
    for selection in SELECTIONS:
      having = [e for e in runs if selection in e.run.results['selections']]
      if having:
        parts.append(_result_table(having, selection, metrics, task))
    if len(runs) > 1:
      parts.append(_result_charts(runs, task, numbers))
  notes = dict.fromkeys(
    note
    for each in named
    for note in text.notes(each.run.results)
    if note.startswith('Intervals')
  )
  parts.append(
    element('ul', *(element('li', n) for n in notes), class_='notes')
  )
  return Section('results', 'Results', join(parts))


def _result_table(
  having: Sequence[Named], selection: str, metrics: Sequence[str], task: str
) -> Markup:
  rows = []
  for each in having:
    pooled = each.run.results['selections'][selection]['pooled']
    cells = []
    for metric in metrics:
      bounds = text.interval(pooled[metric], task)
      value = element('b', text.number(pooled[metric]['value'], task))
      cells.append(stacked(value, '' if bounds == text.MISSING else bounds))
    size = text.count(pooled['utterances'], 'utterance')
    rows.append([stacked(each.name, size), *cells])
  label = text.headline(SELECTIONS[selection])
  names = [NAMES[metric].removeprefix('CCC ') for metric in metrics]
  unit = text.unit(having[0].run.results)
  shown = table(
    f'{label}, pooled, {unit}',
    ['run', *names],
    rows,
    class_='results',
  )
  return scrolling(shown, label)


def _result_charts(
  runs: Sequence[Named], task: str, numbers: Numbers
) -> Markup:
  """The compared selection, drawn."""
  drawings = []
  for metric in runs[0].run.results['metrics']:
    marks = []
    for each in runs:
      found = each.run.results['selections'][each.selection]['pooled'][metric]
      marks.append(
        forest.Mark(each.name, found['value'], found['low'], found['high'])
      )
    if all(mark.value is None for mark in marks):
      continue
    drawing = forest.forest(
      f'{NAMES[metric]} of every run',
      marks,
      f'{NAMES[metric]}, {text.unit(runs[0].run.results)}',
      numbers(),
      digits=2 if task == 'classification' else 4,
    )
    drawings.append(element('figure', drawing))
  return element('div', *drawings, class_='grid-of wide')


def differences(named: Sequence[Named], numbers: Numbers) -> Section:
  """Every other run against the first, on the utterances that both tested."""
  first, others = named[0], named[1:]
  found = [
    significance.compare(
      each.chosen,
      first.chosen,
      each.run.results['classes'],
      first.run.results['classes'],
    )
    for each in others
  ]
  metrics = first.run.results['metrics']
  adjusted = {
    metric: significance.holm(
      [
        c.changes[metric].p_value if metric in c.changes else None
        for c in found
      ]
    )
    for metric in metrics
  }
  rows, notes, marks = [], [], {metric: [] for metric in metrics}
  for i, (each, comparison) in enumerate(zip(others, found, strict=True)):
    notes += _set_notes(each, first, comparison)
    if comparison.reason:
      continue
    for j, metric in enumerate(metrics):
      change = comparison.changes[metric]
      marks[metric].append(
        forest.Mark(each.name, change.value, change.low, change.high)
      )
      rows.append(
        _difference_row(
          each, j, metric, change, comparison.common, adjusted[metric][i]
        )
      )
  parts: list[Markup] = []
  if rows:
    heads = [
      element('th', cell, scope='col')
      for cell in (
        'run',
        'metric',
        stacked('this', first.name),
        stacked('difference', '95 % interval'),
        stacked('p', 'Holm'),
      )
    ]
    caption = f'Against {first.name}, {text.unit(first.run.results)}'
    grid = element(
      'table',
      element('caption', caption),
      element('thead', element('tr', *heads)),
      element('tbody', *rows),
      class_='cells',
    )
    parts.append(scrolling(grid, caption))
    parts.append(_difference_charts(marks, first, numbers))
  notes.append(
    'Paired bootstrap: the same speakers are drawn for both runs '
    '(2,000 resamples), so what makes a speaker easy for both cancels. p is '
    'two-sided, adjusted for the number of runs compared. It does not cover the '
    'luck of a training seed: give runs of several seeds for that.'
  )
  parts.append(
    element('ul', *(element('li', n) for n in notes), class_='notes')
  )
  heading = f'Differences to {first.name}'
  return Section('differences', heading, join(parts))


def _set_notes(
  each: Named, first: Named, found: significance.Comparison
) -> list[str]:
  """What a reader must know about the utterances that were compared."""
  if found.reason:
    return [f'{each.name} is not compared with {first.name}: {found.reason}.']
  notes = []
  if found.only_first or found.only_second:
    notes.append(
      f'The test sets differ: {each.name} and {first.name} have '
      f'{text.count(found.common, "utterance")} in common and are compared on '
      f'these; {found.only_first:,} only {each.name} tested, '
      f'{found.only_second:,} only {first.name}.'
    )
  if found.speakers == 1:
    notes.append(f'{each.name}: one speaker only, no interval can be given.')
  protocols = {e.run.results['protocol'] for e in (each, first)}
  if len(protocols) > 1:
    notes.append(
      f'{each.name} and {first.name} have different protocols '
      f'({each.run.results["protocol"]}, {first.run.results["protocol"]}): the '
      'difference is one of the task as well as of the system.'
    )
  return notes


def _difference_row(
  each: Named,
  position: int,
  metric: str,
  change: significance.Change,
  common: int,
  adjusted: float | None,
) -> Markup:
  task = each.task
  cells = []
  if position == 0:
    name = stacked(each.name, text.count(common, 'utterance'))
    span = len(each.run.results['metrics'])
    cells.append(element('th', name, scope='rowgroup', rowspan=span))
  bounds = ''
  if change.low is not None:
    bounds = (
      f'{text.signed(change.low, task)} to {text.signed(change.high, task)}'
    )
  cells += [
    element('td', NAMES[metric].removeprefix('CCC ')),
    element(
      'td',
      stacked(
        text.number(change.first, task), text.number(change.second, task)
      ),
    ),
    element(
      'td', stacked(element('b', text.signed(change.value, task)), bounds)
    ),
    element('td', text.p_value(adjusted).removeprefix('p = ') or text.MISSING),
  ]
  return element('tr', *cells)


def _difference_charts(
  marks: dict[str, list[forest.Mark]], first: Named, numbers: Numbers
) -> Markup:
  unit = 'points' if first.task == 'classification' else 'CCC'
  drawings = [
    element(
      'figure',
      forest.forest(
        f'Difference in {NAMES[metric]} to {first.name}',
        lines,
        f'{NAMES[metric]}, {unit}',
        numbers(),
        zero=True,
        digits=2 if first.task == 'classification' else 4,
      ),
    )
    for metric, lines in marks.items()
    if any(line.value is not None for line in lines)
  ]
  return element('div', *drawings, class_='grid-of wide')


def render(named: Sequence[Named]) -> str:
  """The page; the same runs give the same bytes."""
  numbers = charts.Numbers()
  makes: tuple[Make, ...] = (results, differences, *side_by_side.SECTIONS)
  made = [make(named, numbers) for make in makes]
  return page.document(
    ' / '.join(each.name for each in named),
    header(named),
    [section for section in made if section is not None],
    'Every figure on this page was computed from the predictions.jsonl of its '
    'run.',
  )


def write_comparison(
  workdirs: Sequence[os.PathLike[str] | str],
  out: os.PathLike[str] | str = 'comparison.html',
  selection: str = '',
) -> pathlib.Path:
  """Writes one page that compares finished runs; returns its path.

  Args:
    workdirs: folders of at least two runs; the first is the reference.
    out: the file to write.
    selection: to compare; by default the most honest one that all have.

  Raises:
    PredictionsError: a file of a run is missing or wrong, a run lacks the
      selection, or is given twice.
  """
  files.write_text(out, render(read_named(workdirs, selection)))
  return pathlib.Path(out)
