"""The parts of the page, one function each: `Run` in, `Section` out or None."""

import collections
from collections.abc import Iterable

import numpy as np

from jaxser.evaluation.predictions import DIMENSIONS
from jaxser.evaluation.results import DEMO_WARNING, NAMES
from jaxser.report import charts, embedding_sections, text, vad_sections
from jaxser.report.calibration import calibration
from jaxser.report.markup import (
  Markup,
  element,
  facts,
  flattened,
  join,
  scrolling,
  table,
)
from jaxser.report.run import Run
from jaxser.report.section import Section, selections, stacked
from jaxser.report.speakers import cell, speakers


def _parted(cell: str) -> tuple[str, str]:
  """Splits '88.75 ± 3.90' before its sign."""
  mean, sign, std = cell.partition(' ± ')
  return mean, f'{sign.strip()} {std}'.strip()


def summary(run: Run, numbers: charts.Numbers) -> Section:
  """The table of the run, beside the paper's where there is one."""
  del numbers
  results = run.results
  first, second, *others = text.columns(results)
  header = [
    text.unit(results),
    stacked(first, second),
    *(stacked(*_parted(name)) for name in others),
  ]
  tables = []
  for name, label in selections(run):
    rows = [
      [
        metric,
        stacked(element('b', pooled), bounds),
        *(stacked(*_parted(cell)) for cell in cells),
      ]
      for metric, pooled, bounds, *cells in text.rows(results, name)
    ]
    tables.append(
      scrolling(table(label, header, rows, class_='results'), label)
    )
  notes = [element('li', note) for note in text.notes(results)]
  return Section(
    'results',
    'Results',
    join(
      [
        element('div', *tables, class_='grid-of wide level'),
        element('ul', *notes, class_='notes'),
      ]
    ),
  )


def recall(run: Run, numbers: charts.Numbers) -> Section | None:
  """Recall of every class, for each selection."""
  del numbers
  if run.results['task'] != 'classification':
    return None
  entries = run.results['selections']

  rows = [
    [
      name,
      *(
        cell(entry['pooled']['recall'][name], 'classification')
        for entry in entries.values()
      ),
    ]
    for name in run.results['classes']
  ]
  caption = 'Per cent of the utterances of a class that were recognised'
  shown = table(
    caption, ['class', *map(text.short, entries)], rows, class_='recall'
  )
  return Section('recall', 'Recall per class', scrolling(shown, caption))


def confusion_table(
  classes: list[str], counts: list[list[int]], label: str
) -> Markup:
  """A confusion matrix as a table whose cells are shaded by row share."""
  header = [element('span', name) for name in ('said', *classes)]
  rows = []
  for name, row in zip(classes, counts, strict=True):
    total = sum(row)
    cells = [element('th', name, scope='row')]
    for value in row:
      share = value / total if total else 0.0
      cells.append(
        element(
          'td',
          *([f'{100 * share:.0f}'] if value else ['·']),
          *([element('small', value)] if value else []),
          class_='strong' if share > 0.62 else None if value else 'none',
          style=f'--share: {share:.3f}',
        )
      )
    rows.append(element('tr', *cells))
  heads = [element('th', name, scope='col') for name in header]
  return element(
    'table',
    element('caption', label),
    element('thead', element('tr', *heads)),
    element('tbody', *rows),
    class_='confusion',
  )


def confusion(run: Run, numbers: charts.Numbers) -> Section | None:
  """One confusion matrix per selection."""
  del numbers
  if run.results['task'] != 'classification':
    return None
  entries = run.results['selections']
  tables = [
    confusion_table(
      run.results['classes'], entries[name]['pooled']['confusion'], label
    )
    for name, label in selections(run)
  ]
  seeds = len(run.results['seeds'])
  about = (
    'Rows: what was said. Columns: what was recognised. Per cent of the row, '
    'below it the number of utterances'
    + (f', summed over {seeds} seeds.' if seeds > 1 else '.')
  )
  return Section(
    'confusion',
    'Confusion matrices',
    join(
      [
        element('p', about, class_='soft'),
        element('div', *tables, class_='grid-of wide level'),
      ]
    ),
  )


def scatter(run: Run, numbers: charts.Numbers) -> Section | None:
  """Predicted against true valence, arousal and dominance."""
  results = run.results
  if results['task'] != 'regression':
    return None
  parts = []
  everything = [x for p in run.predictions for x in (*p.target, *p.prediction)]
  limits = min(everything), max(everything)
  for name, label in selections(run):
    chosen = [p for p in run.predictions if p.selection == name]
    targets = np.array([p.target for p in chosen])
    answers = np.array([p.prediction for p in chosen])
    drawings = []
    for i, dimension in enumerate(DIMENSIONS):
      pooled = results['selections'][name]['pooled'][f'ccc_{dimension}']
      told = f'CCC {text.number(pooled["value"], "regression")}'
      drawing = charts.scatter(
        text.headline(dimension),
        targets[:, i],
        answers[:, i],
        limits,
        f'{label}. {len(chosen)} predictions, {told}.',
        numbers(),
      )
      drawings.append(element('figure', drawing, element('figcaption', told)))
    parts += [
      element('h3', label),
      element('div', *drawings, class_='grid-of charts'),
    ]
  about = 'A point on the dashed line is predicted exactly.'
  if len(run.predictions) > charts.DOTS * len(results['selections']):
    about += f' {charts.DOTS:,} evenly chosen points are drawn.'
  return Section(
    'scatter',
    'Predicted against true',
    join([element('p', about, class_='soft'), *parts]),
  )


def curves(run: Run, numbers: charts.Numbers) -> Section | None:
  """Loss and metrics by epoch, with their spread over folds and seeds."""
  if not run.curves:
    return None
  order = ['loss', *run.results['metrics']]
  names = [name for name in order if name in run.curves]
  names += sorted(set(run.curves) - set(names))
  drawings = []
  for name in names:
    title = NAMES.get(name) or text.headline(name.replace('_', ' '))
    unit = ', per cent' if name in ('uar', 'war', 'f1') else ''
    drawing = charts.learning_curves(title, unit, run.curves[name], numbers())
    drawings.append(element('figure', drawing))
  splits = dict.fromkeys(
    curve.name for lines in run.curves.values() for curve in lines
  )
  runs = max(len(c.values) for lines in run.curves.values() for c in lines)
  about = (
    f'Line: median over {runs} runs (folds and seeds). Band: from the lower to '
    'the upper quartile.'
    if runs > 1
    else 'One run.'
  )
  return Section(
    'curves',
    'Learning curves',
    join(
      [
        element('p', about, class_='soft'),
        legend(splits),
        element('div', *drawings, class_='grid-of charts'),
      ]
    ),
  )


def legend(splits: Iterable[str]) -> Markup:
  """The line styles of the splits."""
  items = [
    element(
      'li',
      element(
        'svg',
        element('path', d='M0 5H28', class_=f'line {split}'),
        viewBox='0 0 28 10',
        aria_hidden='true',
      ),
      split,
    )
    for split in splits
  ]
  return element('ul', *items, class_='legend')


def folds(run: Run, numbers: charts.Numbers) -> Section:
  """Every fold: who was tested, which epoch was used, how it went."""
  del numbers
  results = run.results
  task, entries = results['task'], results['selections']
  # Two figures per selection keep the table readable; results.json has all.
  shown = ['uar', 'war'] if task == 'classification' else ['ccc_mean']
  speakers = collections.defaultdict(set)
  for p in run.predictions:
    speakers[p.fold].add(p.speaker or 'unknown')
  seeds = len(results['seeds']) > 1
  about = [*(['seed'] if seeds else []), 'fold', 'test speakers', 'utterances']
  above = [element('td', colspan=len(about))]
  heads = [element('th', cell, scope='col') for cell in about]
  for name in entries:
    columns = ['epoch', *(NAMES[metric] for metric in shown)]
    above.append(
      element(
        'th',
        text.short(name),
        scope='colgroup',
        colspan=len(columns),
        class_='first',
      )
    )
    heads += [
      element('th', cell, scope='col', class_=None if i else 'first')
      for i, cell in enumerate(columns)
    ]
  rows = []
  per_fold = (entry['per_fold'] for entry in entries.values())
  for lines in zip(*per_fold, strict=True):
    seed, fold = lines[0]['seed'], lines[0]['fold']
    tested = sorted(speakers[fold])
    who = ', '.join(tested) if len(tested) <= 3 else f'{len(tested)} speakers'
    cells = [
      element('td', cell)
      for cell in (
        *([seed] if seeds else []),
        fold,
        who,
        lines[0]['utterances'],
      )
    ]
    for line in lines:
      epoch = text.MISSING if line['epoch'] is None else line['epoch']
      cells.append(element('td', epoch, class_='first'))
      cells += [element('td', text.number(line[m], task)) for m in shown]
    rows.append(element('tr', *cells))
  caption = f'Test side of every fold, {text.unit(results)}'
  grid = element(
    'table',
    element('caption', caption),
    element('thead', element('tr', *above), element('tr', *heads)),
    element('tbody', *rows),
    class_='long',
  )
  return Section('folds', 'Folds', scrolling(grid, caption))


def rerun(run: Run, numbers: charts.Numbers) -> Section:
  """The command, the resolved config and the environment."""
  del numbers
  results, parts = run.results, []
  if results['command']:
    parts += [element('h3', 'Command'), element('pre', results['command'])]
  if results['wall_time_s'] is not None:
    took = text.duration(results['wall_time_s'])
    parts.append(element('p', f'Wall time: {took}.'))
  if run.folds:
    parts.append(
      element(
        'p',
        'The split of every fold, by utterance, is in folds.json; ',
        element('code', '--config.folds=FILE'),
        ' runs exactly the same split again.',
      )
    )
  if results['environment']:
    parts += [
      element('h3', 'Environment'),
      facts(flattened(results['environment'])),
    ]
  if run.config:
    parts += [
      element('h3', 'Resolved config (config.json)'),
      facts(flattened(run.config)),
    ]
  return Section('rerun', 'How to run it again', join(parts))


PER_RUN = (
  scatter,
  vad_sections.regions,
  vad_sections.globe,
  embedding_sections.probes,
  embedding_sections.maps,
)
"""Parts that a comparison of runs repeats for each of them."""

SECTIONS = (
  summary,
  recall,
  confusion,
  speakers,
  calibration,
  *PER_RUN,
  curves,
  folds,
  rerun,
)
"""In the order of the page."""


def header(run: Run) -> Markup:
  """Heading, size of the test, and a warning where the corpus is the demo."""
  results = run.results
  parts = [
    element('h1', f'{results["system"]} on {results["corpus"]}'),
    element(
      'p',
      f'Protocol {results["protocol"]}: {text.size(results)}.',
      class_='soft',
    ),
  ]
  if results['demo']:
    parts.append(element('p', DEMO_WARNING, class_='warning', role='note'))
  return element('header', *parts)
