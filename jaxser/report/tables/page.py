"""table.html: the table as one self-contained page."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxser.evaluation.results import DEMO_WARNING
from jaxser.report import forest, page, text
from jaxser.report.charts import Numbers
from jaxser.report.markup import Markup, element, facts, join, scrolling
from jaxser.report.section import Section, stacked
from jaxser.report.tables import wording
from jaxser.report.tables.wording import Content


def render(content: Content) -> str:
  """HTML of the content of table.json; same content, same bytes."""
  numbers = Numbers()
  parts = [element('h1', content['title'])]
  if content['demo']:
    parts.append(element('p', DEMO_WARNING, class_='warning', role='note'))
  parts += [element('p', about) for about in content['about']]
  parts.append(element('p', wording.progress(content), class_='soft'))
  sections = [
    _group(content, group, f'group-{i}', numbers)
    for i, group in enumerate(content['groups'], 1)
  ]
  notes = [element('li', note) for note in wording.notes(content)]
  reading = element('ul', *notes, class_='notes')
  sections.append(Section('reading', 'How to read this', reading))
  if content['prepare']:
    commands = '\n'.join(content['prepare'])
    sections.append(
      Section('prepare', 'What is not prepared', element('pre', commands))
    )
  sections += [_cells(content), _environments(content)]
  return page.document(
    content['title'],
    element('header', *parts),
    [section for section in sections if section is not None],
    'Every figure on this page was computed from the predictions of its cell; '
    'table.json holds them for programs.',
  )


def _group(
  content: Content, group: str, anchor: str, numbers: Numbers
) -> Section:
  lines = [line for line in content['lines'] if line['group'] == group]
  paper = any(
    v['paper'] is not None for line in lines for v in line['values'].values()
  )
  against = any(line['against'] for line in lines)
  head = [
    ('cell', ''),
    ('metric', ''),
    ('measured', '95 % interval'),
    ('mean ± std', 'over'),
  ]
  head += [('paper', 'difference'), ('verdict', '')] if paper else []
  head += [('against', 'interval, p')] if against else []
  heads = [element('th', stacked(*h), scope='col') for h in head]
  bodies = [_body(content, line, paper, against, len(head)) for line in lines]
  grid = element(
    'table',
    element('caption', _caption(content)),
    element('thead', element('tr', *heads)),
    *bodies,
    class_='cells',
  )
  parts: list[Any] = [scrolling(grid, group)]
  sources = dict.fromkeys(line['source'] for line in lines if line['source'])
  if sources:
    parts.append(element('p', f'Paper: {"; ".join(sources)}.', class_='soft'))
  charts = [
    _chart(content, lines, metric, numbers) for metric in content['metrics']
  ]
  if any(charts):
    legend = 'Dot: measured, with its interval.'
    legend += " Ring: the paper's figure." if paper else ''
    parts += [
      element('p', legend, class_='soft'),
      element('div', *filter(None, charts), class_='grid-of wide'),
    ]
  return Section(anchor, text.headline(group), join(parts))


def _caption(content: Content) -> str:
  over = {'pooled': 'all folds pooled', 'fold_mean': 'mean over folds'}
  return text.headline(f'{_unit(content)}, {over[content["statistic"]]}')


def _unit(content: Content) -> str:
  return 'per cent' if content['task'] == 'classification' else 'CCC'


def _body(
  content: Content,
  line: Mapping[str, Any],
  paper: bool,
  against: bool,
  width: int,
) -> Markup:
  """The rows of one line of the table, one per metric."""
  why = wording.state(content, line)
  about = wording.cell(content, line)
  name: Any = line['label']
  if about.get('state') == 'finished':
    name = element('a', name, href=f'{about["folder"]}/report.html')
  if 'need' in line:
    name = stacked(name, f'{line["have"]} of {line["need"]} cells')
  rows = []
  for i, metric in enumerate(content['metrics']):
    found = line['values'][metric]
    cells = []
    if i == 0:
      span = len(content['metrics'])
      cells.append(element('th', name, scope='rowgroup', rowspan=span))
    cells.append(element('td', wording.metric(content, metric)))
    if why:
      if i == 0:
        cells.append(
          element(
            'td',
            element('span', why),
            colspan=2,
            rowspan=len(content['metrics']),
            class_='why',
          )
        )
    else:
      cells.append(element('td', _measured(content, found)))
      cells.append(
        element('td', stacked(*wording.spread(content, line, metric)))
      )
    if paper:
      cells.append(element('td', _paper(content, found)))
      word, reason = wording.verdict(found)
      kind = f'verdict {word.replace(" ", "-")}' if found['verdict'] else None
      cells.append(element('td', stacked(word, reason), class_=kind))
    if against:
      cells.append(element('td', _against(content, line, metric)))
    rows.append(element('tr', *cells))
  return element('tbody', *rows)


def _measured(content: Content, found: Mapping[str, Any]) -> Markup:
  bounds = ''
  if found['low'] is not None:
    low, high = (wording.value(content, found[key]) for key in ('low', 'high'))
    bounds = f'{low} to {high}'
  return stacked(element('b', wording.value(content, found['value'])), bounds)


def _paper(content: Content, found: Mapping[str, Any]) -> Markup:
  difference = ''
  if found['difference'] is not None:
    difference = wording.signed(content, found['difference'])
  return stacked(wording.value(content, found['paper']), difference)


def _against(content: Content, line: Mapping[str, Any], metric: str) -> Markup:
  found = line['against']
  if not found:
    return element('span', text.MISSING)
  if found['reason']:
    return stacked('not compared', found['reason'])
  value, below = wording.change(content, found['metrics'][metric])
  return stacked(value, f'{below} to {found["label"]}'.strip())


def _chart(
  content: Content,
  lines: Sequence[Mapping[str, Any]],
  metric: str,
  numbers: Numbers,
) -> Markup | None:
  marks = [
    forest.Mark(
      line['label'],
      *(line['values'][metric][key] for key in ('value', 'low', 'high')),
      line['values'][metric]['paper'],
    )
    for line in lines
    if line['values'][metric]['value'] is not None
  ]
  if len(marks) < 2:
    return None
  name = wording.metric(content, metric)
  drawing = forest.forest(
    f'{text.headline(name)} of {lines[0]["group"]}',
    marks,
    f'{name}, {_unit(content)}',
    numbers(),
    digits=2 if content['task'] == 'classification' else 4,
  )
  return element('figure', drawing)


def _cells(content: Content) -> Section:
  """Every run: its state, its size and the command that does it alone."""
  parts = []
  for about in content['cells']:
    told = about['state']
    if about['error']:
      told += f': {about["error"]}'
    if about['budget']:
      told += f"; not the paper's budget ({about['budget']})"
    entries: list[tuple[str, Any]] = [('state', told)]
    if about['state'] == 'finished':
      size = ', '.join(
        text.count(n, noun)
        for n, noun in (
          (about['utterances'], 'utterance'),
          (about['speakers'], 'speaker'),
          (len(about['folds']), 'fold'),
          (len(about['seeds']), 'seed'),
        )
      )
      entries.append(('tested', size))
      if about['wall_time_s'] is not None:
        entries.append(('wall time', text.duration(about['wall_time_s'])))
    entries.append(('command', element('code', about['command'])))
    parts.append(
      element(
        'details',
        element('summary', f'{about["name"]} ({about["state"]})'),
        facts(entries),
      )
    )
  return Section('cells', 'The cells, one by one', join(parts))


def _environments(content: Content) -> Section | None:
  """Versions and devices; cells that agree are named together."""
  shown = ('jaxser', 'python', 'jax', 'flax', 'optax', 'numpy', 'device')
  shown += ('devices', 'processes')
  groups: dict[str, list[str]] = {}
  for about in content['cells']:
    if about['environment']:
      told = ', '.join(
        f'{name} {about["environment"][name]}'
        for name in shown
        if name in about['environment']
      )
      groups.setdefault(told, []).append(about['name'])
  if not groups:
    return None
  entries = [(', '.join(names), told) for told, names in groups.items()]
  return Section('environment', 'Environment', facts(entries))
