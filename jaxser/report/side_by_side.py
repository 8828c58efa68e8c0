"""Parts of a comparison that show every run beside the others."""

from collections.abc import Callable, Sequence

from jaxser.evaluation.results import NAMES
from jaxser.report import calibration as calibration_lib
from jaxser.report import charts, text
from jaxser.report import sections as single
from jaxser.report import speakers as speakers_lib
from jaxser.report.charts import Numbers
from jaxser.report.markup import (
  Markup,
  element,
  facts,
  flattened,
  join,
  scrolling,
  table,
)
from jaxser.report.named import Named
from jaxser.report.run import Run
from jaxser.report.section import Section

TASKS = ('classification', 'regression')


def _of(named: Sequence[Named], task: str) -> list[Named]:
  return [each for each in named if each.task == task]


def recall(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """Recall of every class in every run."""
  del numbers
  runs = _of(named, 'classification')
  if not runs:
    return None
  found = {
    each.name: each.run.results['selections'][each.selection]['pooled'][
      'recall'
    ]
    for each in runs
  }
  classes = dict.fromkeys(name for values in found.values() for name in values)
  rows = [
    [
      name,
      *(
        speakers_lib.cell(values.get(name), 'classification')
        for values in found.values()
      ),
    ]
    for name in classes
  ]
  caption = 'Per cent of the utterances of a class that were recognised'
  shown = table(caption, ['class', *found], rows, class_='recall')
  return Section('recall', 'Recall per class', scrolling(shown, caption))


def confusion(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """The confusion matrices of all runs."""
  del numbers
  tables = [
    single.confusion_table(
      each.run.results['classes'],
      each.run.results['selections'][each.selection]['pooled']['confusion'],
      f'{each.name} ({text.short(each.selection)})',
    )
    for each in _of(named, 'classification')
  ]
  if not tables:
    return None
  about = (
    'Rows: what was said. Columns: what was recognised. Per cent of the row, '
    'below it the number of utterances, summed over seeds.'
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


def speakers(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """Every speaker's figures in every run."""
  del numbers
  parts: list[Markup] = []
  for task in TASKS:
    runs = [each for each in _of(named, task) if each.run.results['speakers']]
    if not runs:
      continue
    columns = {
      each.name: speakers_lib.scores(each.chosen, each.run.results['classes'])
      for each in runs
    }
    lines = [
      element('li', f'{name}: {speakers_lib.extremes(found, task)}')
      for name, (found, _) in columns.items()
    ]
    caption = f'Each speaker on their own, {text.unit(runs[0].run.results)}'
    parts += [
      element('ul', *lines, class_='notes'),
      speakers_lib.grid(caption, columns, task),
    ]
  return Section('speakers', 'Speakers', join(parts)) if parts else None


def calibration(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """The reliability diagrams of all runs."""
  drawings = []
  for each in _of(named, 'classification'):
    found = calibration_lib.reliability(each.chosen)
    caption = join([element('b', each.name), '. ', calibration_lib.told(found)])
    drawing = calibration_lib.diagram(each.name, found, numbers())
    drawings.append(element('figure', drawing, element('figcaption', caption)))
  if not drawings:
    return None
  return Section(
    'calibration',
    'Calibration',
    join(
      [
        element('p', calibration_lib.ABOUT, class_='soft'),
        element('div', *drawings, class_='grid-of charts'),
      ]
    ),
  )


def curves(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """Learning curves of all runs, one metric on one scale."""
  trained = [each for each in named if each.run.curves]
  if not trained:
    return None
  wanted = dict.fromkeys(
    ['loss', *(m for each in trained for m in each.run.results['metrics'])]
  )
  parts = []
  for metric in wanted:
    having = [each for each in trained if metric in each.run.curves]
    if not having:
      continue
    title = NAMES.get(metric) or text.headline(metric)
    unit = ', per cent' if metric in ('uar', 'war', 'f1') else ''
    bands = [
      curve.quartiles() for each in having for curve in each.run.curves[metric]
    ]
    limits = (
      min(float(b.min()) for b in bands),
      max(float(b.max()) for b in bands),
    )
    drawings = []
    for each in having:
      drawing = charts.learning_curves(
        title, unit, each.run.curves[metric], numbers(), limits
      )
      drawings.append(
        element('figure', element('figcaption', each.name), drawing)
      )
    parts += [
      element('h3', title),
      element('div', *drawings, class_='grid-of charts'),
    ]
  splits = dict.fromkeys(
    curve.name
    for each in trained
    for lines in each.run.curves.values()
    for curve in lines
  )
  about = (
    'Line: median over folds and seeds. Band: from the lower to the upper '
    'quartile. Charts of one metric share their scale.'
  )
  return Section(
    'curves',
    'Learning curves',
    join([element('p', about, class_='soft'), single.legend(splits), *parts]),
  )


def _repeated(
  make: Callable[[Run, Numbers], Section | None],
) -> Callable[[Sequence[Named], Numbers], Section | None]:
  """A part of the single page, repeated under the name of each run."""

  def section(named: Sequence[Named], numbers: Numbers) -> Section | None:
    made = [(each.name, make(each.run, numbers)) for each in named]
    there = [(name, part) for name, part in made if part is not None]
    if not there:
      return None
    parts = [join([element('h3', name), part.content]) for name, part in there]
    return Section(there[0][1].anchor, there[0][1].heading, join(parts))

  return section


def configs(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """Fields of the configs that differ, and those that do not."""
  del numbers
  return _differing(
    'config',
    'Configs',
    {each.name: dict(flattened(each.run.config)) for each in named},
  )


def environments(named: Sequence[Named], numbers: Numbers) -> Section | None:
  """Versions and devices."""
  del numbers
  return _differing(
    'environment',
    'Environment',
    {
      each.name: dict(flattened(each.run.results['environment']))
      for each in named
    },
  )


def _differing(
  anchor: str, heading: str, fields: dict[str, dict[str, str]]
) -> Section | None:
  """A table of what differs, and the rest on demand."""
  # Nothing at all flattens to one entry without a name.
  known = {
    run: {name: value for name, value in values.items() if name}
    for run, values in fields.items()
  }
  names = list(dict.fromkeys(n for values in known.values() for n in values))
  if not names:
    return None
  rows, same = [], []
  for name in names:
    values = [values.get(name, text.MISSING) for values in known.values()]
    if len(set(values)) > 1:
      rows.append([element('code', name), *values])
    else:
      same.append((name, values[0]))
  parts: list[Markup] = []
  if rows:
    caption = f'{text.count(len(rows), "field")} that differ'
    shown = table(caption, ['field', *known], rows, class_='differing')
    parts.append(scrolling(shown, caption))
  else:
    parts.append(element('p', 'No field differs.'))
  if same:
    parts.append(
      element(
        'details',
        element('summary', f'{text.count(len(same), "field")} in common'),
        facts(same),
      )
    )
  return Section(anchor, heading, join(parts))


def commands(named: Sequence[Named], numbers: Numbers) -> Section:
  """How to run each again."""
  del numbers
  parts = []
  for each in named:
    found = each.run.results
    parts.append(element('h3', each.name))
    parts.append(
      element('pre', found['command'] or 'the command was not recorded')
    )
    told = f'Folder: {each.run.workdir}.'
    if found['wall_time_s'] is not None:
      told += f' Wall time: {text.duration(found["wall_time_s"])}.'
    parts.append(element('p', told, class_='soft'))
  return Section('rerun', 'How to run them again', join(parts))


SECTIONS = (
  recall,
  confusion,
  speakers,
  calibration,
  *map(_repeated, single.PER_RUN),
  curves,
  configs,
  environments,
  commands,
)
"""In the order of the page, after results and differences."""
