"""table.html and table.md, written from the content of table.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxser.report import pages, text
from jaxser.report.tables.state import KINDS

Content = Mapping[str, Any]
Line = Mapping[str, Any]


class Cell(NamedTuple):
  """A cell of a table: HTML shows `below` in a second line, Markdown in (...).

  Attributes:
    text: what it says.
    below: an interval, a reason.
    kind: class for the style sheet.
    href: where the text links to.
  """

  text: str
  below: str = ''
  kind: str = ''
  href: str = ''


def html(content: Content) -> str:
  """Returns the content of table.json as one self-contained page."""
  return _render('table.html', content)


def markdown(content: Content) -> str:
  """Returns the content of table.json as Markdown."""
  return _render('table.md', content).strip() + '\n'


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
    progress=progress(content),
    notes=notes.split('\n')[:-1],
    marks=_marks,
    environments=_environments(content),
  )


def progress(content: Content) -> str:
  """Returns '2 of 18 cells finished, 12 not prepared, 4 not run yet.'"""
  states = [cell['state'] for cell in content['cells']]
  parts = [f'{states.count("finished")} of {len(states)} cells finished']
  parts += [
    f'{states.count(kind)} {words}'
    for kind, words in KINDS.items()
    if kind in states and kind != 'finished'
  ]
  return f'{", ".join(parts)}.'


def _table(
  content: Content, lines: Sequence[Line]
) -> tuple[list[Cell], list[list[list[Cell]]]]:
  """Header and, for each line, a row per metric."""
  values = [value for line in lines for value in line['values'].values()]
  paper = any(value['paper'] is not None for value in values)
  against = any(line['against'] for line in lines)
  header = [Cell('cell'), Cell('metric'), Cell('measured', '95 % interval')]
  header.append(Cell('mean ± std', 'over'))
  header += [Cell('paper', 'difference'), Cell('verdict')] if paper else []
  header += [Cell('against', 'interval, p')] if against else []
  bodies = []
  for line in lines:
    cell = _cell_of(content, line)
    name = Cell(
      line['label'],
      f'{line["have"]} of {line["need"]} cells' if 'need' in line else '',
      href=f'{cell["folder"]}/report.html'
      if cell.get('state') == 'finished'
      else '',
    )
    why, rows = _why_not(cell, line), []
    for metric, value in line['values'].items():
      row = [Cell('') if rows else name, Cell(text.metric(metric))]
      if why:
        row += [Cell('' if rows else why, kind='why'), Cell('')]
      else:
        row += [_measured(content, value), _spread(content, cell, value)]
      if paper:
        row += [_paper(content, value), _verdict(value)]
      if against:
        row.append(_against(content, line['against'], metric))
      rows.append(row)
    bodies.append(rows)
  return header, bodies


def _cell_of(content: Content, line: Line) -> Mapping[str, Any]:
  """The cell of a line; {} for an average."""
  cells = (cell for cell in content['cells'] if cell['name'] == line['cell'])
  return next(cells, {})


def _why_not(cell: Mapping[str, Any], line: Line) -> str:
  """Why a line has no figures, or ''."""
  if not cell or cell['state'] == 'finished':
    if all(value['value'] is None for value in line['values'].values()):
      return 'no such selection in this run' if cell else 'no cell is there'
    return ''
  if cell['state'] == 'failed':
    return f'failed: {cell["error"]}'
  if cell['on_request'] and cell['state'] == 'ready':
    return f'not run: {cell["on_request"]}'
  return KINDS[cell['state']]


def _measured(content: Content, value: Mapping[str, Any]) -> Cell:
  bounds = '' if value['low'] is None else text.interval(value, content['task'])
  return Cell(text.number(value['value'], content['task']), bounds, 'strong')


def _spread(
  content: Content, cell: Mapping[str, Any], value: Mapping[str, Any]
) -> Cell:
  """'88.75 ± 3.90', '10 folds': over seeds, else over folds, else nothing."""
  for key, noun in (('over_seeds', 'seed'), ('fold_mean', 'fold')):
    if value[key]['std'] is not None:
      count = len(cell.get(f'{noun}s') or ())
      over = text.count(count, noun) if count else f'over {noun}s'
      if key == 'fold_mean' and len(cell.get('seeds') or ()) > 1:
        over += f' x {len(cell["seeds"])} seeds'
      return Cell(text.spread(value[key], content['task']), over)
  return Cell(text.MISSING)


def _paper(content: Content, value: Mapping[str, Any]) -> Cell:
  difference = value['difference']
  shown = '' if difference is None else text.signed(difference, content['task'])
  return Cell(text.number(value['paper'], content['task']), shown)


def _verdict(value: Mapping[str, Any]) -> Cell:
  word = value['verdict']
  kind = f'verdict {word.replace(" ", "-")}' if word else ''
  return Cell(word or text.MISSING, value['reason'], kind)


def _against(
  content: Content, found: Mapping[str, Any] | None, metric: str
) -> Cell:
  """'+1.20', '−0.40 to +2.80, p = 0.120 to TIM-Net' of a paired difference."""
  if not found:
    return Cell(text.MISSING)
  if found['reason']:
    return Cell('not compared', found['reason'])
  change, task = found['metrics'][metric], content['task']
  below = f'to {found["label"]}'
  if change['low'] is not None:
    bounds = text.signed_interval(change['low'], change['high'], task)
    below = f'{bounds}, {text.p_value(change["p_holm"])} {below}'
  return Cell(text.signed(change['value'], task), below)


def _marks(lines: Sequence[Line], metric: str) -> list[tuple]:
  """The lines of a chart; nothing where fewer than two have a figure."""
  values = [(line['label'], line['values'][metric]) for line in lines]
  marks = [
    (label, v['value'], v['low'], v['high'], v['paper'])
    for label, v in values
    if v['value'] is not None
  ]
  return marks if len(marks) > 1 else []


def _environments(content: Content) -> list[tuple[str, str]]:
  """Versions and devices; cells that agree are named together."""
  shown = ('jaxser', 'python', 'jax', 'flax', 'optax', 'numpy', 'device')
  shown += ('devices', 'processes')
  groups: dict[str, list[str]] = {}
  for cell in content['cells']:
    found = cell['environment'] or {}
    words = ', '.join(f'{n} {found[n]}' for n in shown if n in found)
    if words:
      groups.setdefault(words, []).append(cell['name'])
  return [(', '.join(names), words) for words, names in groups.items()]
