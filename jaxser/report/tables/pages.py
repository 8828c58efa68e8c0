"""table.html and table.md, written from the content of table.json."""

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


def html(content: Content) -> str:
  """Returns the content of table.json as one self-contained page."""
  return _render('table.html', content)


def markdown(content: Content) -> str:
  """Returns the content of table.json as Markdown."""
  return _render('table.md', content).strip() + '\n'


def listing(states: Sequence[State]) -> str:
  """Returns how far each cell is, and the command for it."""
  return pages.render('table_list.txt', states=states, kinds=KINDS).rstrip()


def _render(template: str, content: Content) -> str:
  groups = [
    (group, [line for line in content['lines'] if line['group'] == group])
    for group in content['groups']
  ]
  values = [v for line in content['lines'] for v in line['values'].values()]
  compared = any(value['paper'] is not None for value in values)
  notes = pages.render('table_notes.txt', content=content, compared=compared)
  return pages.render(
    template,
    title=content['title'],
    content=content,
    groups=[(group, lines, _table(content, lines)) for group, lines in groups],
    notes=notes.split('\n')[:-1],
    marks=_marks,
    kinds=KINDS,
  )


def _table(
  content: Content, lines: Sequence[Mapping[str, Any]]
) -> tuple[list[Cell], list[list[list[Cell]]]]:
  """Returns the header and, for each line, a row per metric."""
  values = [value for line in lines for value in line['values'].values()]
  paper = any(value['paper'] is not None for value in values)
  against = any(line['against'] for line in lines)
  header = [Cell('cell'), Cell('metric'), Cell('measured', '95 % interval')]
  header.append(Cell('mean ± std', 'over'))
  header += [Cell('paper', 'difference'), Cell('verdict')] if paper else []
  header += [Cell('against', 'interval, p')] if against else []
  cells = {cell['name']: cell for cell in content['cells']}
  bodies = []
  for line in lines:
    cell = cells.get(line['cell'], {})  # An average has none.
    finished = cell.get('state') == 'finished'
    href = f'{cell["folder"]}/report.html' if finished else ''
    have = f'{line["have"]} of {line["need"]} cells' if 'need' in line else ''
    why, rows = _why_not(cell, line), []
    for metric, value in line['values'].items():
      name = Cell('') if rows else Cell(line['label'], have, href=href)
      row = [name, Cell(text.metric(metric))]
      if why:
        row += [Cell('' if rows else why, kind='why'), Cell('')]
      else:
        row += _measured(value, cell, content['task'])
      if paper:
        row += _compared(value, content['task'])
      if against:
        row.append(_against(line['against'], metric, content['task']))
      rows.append(row)
    bodies.append(rows)
  return header, bodies


def _why_not(cell: Mapping[str, Any], line: Mapping[str, Any]) -> str:
  """Why a line has no figures, or ''."""
  if cell.get('state') == 'failed':
    return f'failed: {cell["error"]}'
  if cell.get('state') == 'ready' and cell['on_request']:
    return f'not run: {cell["on_request"]}'
  if cell and cell['state'] != 'finished':
    return KINDS[cell['state']]
  if all(value['value'] is None for value in line['values'].values()):
    return 'no such selection in this run' if cell else 'no cell is there'
  return ''


def _measured(
  value: Mapping[str, Any], cell: Mapping[str, Any], task: str
) -> list[Cell]:
  """The figure with its interval; its spread over seeds, else over folds."""
  bounds = '' if value['low'] is None else text.interval(value, task)
  spread = Cell(text.MISSING)
  for key, noun in (('fold_mean', 'fold'), ('over_seeds', 'seed')):
    if value[key]['std'] is not None:
      over = text.count(len(cell.get(f'{noun}s') or ()), noun)
      spread = Cell(text.spread(value[key], task), over)
  return [Cell(text.number(value['value'], task), bounds, 'strong'), spread]


def _compared(value: Mapping[str, Any], task: str) -> list[Cell]:
  """The paper's figure with the difference, and the verdict."""
  word, difference = value['verdict'], value['difference']
  shown = '' if difference is None else text.signed(difference, task)
  kind = f'verdict {word.replace(" ", "-")}' if word else ''
  return [
    Cell(text.number(value['paper'], task), shown),
    Cell(word or text.MISSING, value['reason'], kind),
  ]


def _against(found: Mapping[str, Any] | None, metric: str, task: str) -> Cell:
  """'+1.20', '−0.40 to +2.80, p = 0.120 to TIM-Net' of a paired difference."""
  if not found:
    return Cell(text.MISSING)
  if found['reason']:
    return Cell('not compared', found['reason'])
  change, below = found['metrics'][metric], f'to {found["label"]}'
  if change['low'] is not None:
    bounds = text.signed_interval(change['low'], change['high'], task)
    below = f'{bounds}, {text.p_value(change["p_holm"])} {below}'
  return Cell(text.signed(change['value'], task), below)


def _marks(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple]:
  """The lines of a chart; nothing where fewer than two have a figure."""
  values = [(line['label'], line['values'][metric]) for line in lines]
  keys = ('value', 'low', 'high', 'paper')
  marks = [
    (label, *(value[key] for key in keys))
    for label, value in values
    if value['value'] is not None
  ]
  return marks if len(marks) > 1 else []
