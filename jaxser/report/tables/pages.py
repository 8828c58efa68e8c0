"""table.html and table.md, written from the content of table.json."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxser.report import pages, text
from jaxser.report.tables.state import KINDS, State

Content = Mapping[str, Any]


class Cell(NamedTuple):
  """A cell of a table: HTML shows `below` in a second line, Markdown in (...)."""

  text: str
  below: str = ''  # An interval, a reason.
  kind: str = ''  # Class for the style sheet.
  href: str = ''  # Where the text links to.


def listing(states: Sequence[State]) -> str:
  """Returns how far each cell is, and the command for it."""
  return pages.render('table_list.txt', states=states, kinds=KINDS).rstrip()


def render(template: str, content: Content) -> str:
  """Returns the content of table.json as 'table.html' or 'table.md'."""
  groups = []
  for group in content['groups']:
    lines = [line for line in content['lines'] if line['group'] == group]
    groups.append((group, lines, *_table(content, lines)))
  states = collections.Counter(cell['state'] for cell in content['cells'])
  whole = text.count(states.total(), 'cell')
  counts = [f'{states.pop("finished", 0)} of {whole} finished']
  counts += [f'{states[k]} {label}' for k, label in KINDS.items() if states[k]]
  compared = content['tolerance'] and any(map(_has_paper, content['lines']))
  notes = pages.render('table_notes.txt', content=content, compared=compared)
  page = pages.render(
    template,
    title=content['title'],
    content=content,
    groups=groups,
    progress=', '.join(counts),
    notes=notes.split('\n')[:-1],
    marks=_marks,
  )
  return page.strip() + '\n'


def _has_paper(line: Mapping[str, Any]) -> bool:
  return any(value['paper'] is not None for value in line['values'].values())


def _table(
  content: Content, lines: Sequence[Mapping[str, Any]]
) -> tuple[list[Cell], list[list[list[Cell]]]]:
  """Returns the header and, for each line, a row per metric."""
  paper = any(map(_has_paper, lines))
  against = any(line['against'] for line in lines)
  header = [Cell('cell'), Cell('metric'), Cell('measured', '95 % interval')]
  header.append(Cell('mean ± std', 'over'))
  # Without a tolerance nothing is judged.
  columns = (2 if content['tolerance'] else 1) if paper else 0
  header += [Cell('paper', 'difference'), Cell('verdict')][:columns]
  header += [Cell('against', 'interval, p')] if against else []
  cells, task = {c['name']: c for c in content['cells']}, content['task']
  bodies = []
  for line in lines:
    cell = cells.get(line['cell'], {})  # An average has none.
    finished = cell.get('state') == 'finished'
    href = f'{cell["folder"]}/report.html' if finished else ''
    have = f'{line["have"]} of {line["need"]} cells' if 'need' in line else ''
    name, why = Cell(line['label'], have, href=href), _why_not(cell, line)
    no_figure = [Cell(why, kind='why'), Cell('')] if why else []
    rows = []
    for metric, value in line['values'].items():
      row = [name, Cell(text.metric(metric))]
      row += no_figure or _measured(value, cell, task)
      row += _compared(value, task)[:columns]
      row += [_against(line['against'], metric, task)] if against else []
      rows.append(row)
      # Said once.
      name, no_figure = Cell(''), [c._replace(text='') for c in no_figure]
    bodies.append(rows)
  return header, bodies


def _why_not(cell: Mapping[str, Any], line: Mapping[str, Any]) -> str:
  """Returns why a line has no figures, or ''."""
  state = cell.get('state', 'finished')
  if state == 'failed':
    return f'failed: {cell["error"]}'
  if state == 'ready' and cell['on_request']:
    return f'not run: {cell["on_request"]}'
  if state != 'finished':
    return KINDS[state]
  if all(value['value'] is None for value in line['values'].values()):
    if cell:
      return 'no such selection in this run'
    return 'no cell is there' if 'need' in line else ''
  return ''


def _measured(
  value: Mapping[str, Any], cell: Mapping[str, Any], task: str
) -> list[Cell]:
  """Returns the figure with its interval; its spread over seeds, else folds."""
  bounds = '' if value['low'] is None else text.interval(value, task)
  spread = Cell(text.MISSING)
  for key, noun in (('fold_mean', 'fold'), ('over_seeds', 'seed')):
    if value[key]['std'] is not None:
      over = text.count(len(cell.get(f'{noun}s') or ()), noun)
      spread = Cell(text.spread(value[key], task), over)
  return [Cell(text.number(value['value'], task), bounds, 'strong'), spread]


def _compared(value: Mapping[str, Any], task: str) -> list[Cell]:
  """Returns the paper's figure with the difference, and the verdict."""
  word, difference = value['verdict'], value['difference']
  shown = '' if difference is None else text.signed(difference, task)
  kind = f'verdict {word.replace(" ", "-")}' if word else ''
  return [
    Cell(text.number(value['paper'], task), shown),
    Cell(word or text.MISSING, value['reason'], kind),
  ]


def _against(found: Mapping[str, Any] | None, metric: str, task: str) -> Cell:
  """Returns '+1.20', '−0.40 to +2.80, p = 0.120 to TIM-Net' of a difference."""
  if not found:
    return Cell(text.MISSING)
  if found['reason']:
    return Cell('not compared', found['reason'])
  change, below = found['metrics'][metric], f'to {found["label"]}'
  if change['low'] is not None:
    bounds = text.signed_interval(change['low'], change['high'], task)
    known = filter(None, (bounds, text.p_value(change['p_holm'])))
    below = f'{", ".join(known)} {below}'
  return Cell(text.signed(change['value'], task), below)


def _marks(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple]:
  """Returns the lines of a chart, none where fewer than two have a figure."""
  keys = ('value', 'low', 'high', 'paper')
  values = [(line['label'], line['values'][metric]) for line in lines]
  marks = [(label, *map(v.get, keys)) for label, v in values]
  marks = [mark for mark in marks if mark[1] is not None]
  return marks if len(marks) > 1 else []
