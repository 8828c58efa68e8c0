"""table.md: the table for people who read text."""

from collections.abc import Sequence

from jaxser.evaluation.results import DEMO_WARNING
from jaxser.report.tables import wording
from jaxser.report.tables.wording import Content


def render(content: Content) -> str:
  """Markdown of the content of table.json."""
  parts = [f'# {content["title"]}']
  if content['demo']:
    parts.append(f'**{DEMO_WARNING}**')
  parts += [*content['about'], wording.progress(content)]
  for group in content['groups']:
    parts += [f'## {_safe(group)}', _group(content, group)]
  parts.append('\n'.join(f'- {note}' for note in wording.notes(content)))
  if content['prepare']:
    commands = '\n'.join(f'    {command}' for command in content['prepare'])
    parts.append(f'## What is not prepared\n\n{commands}')
  commands = '\n'.join(f'    {about["command"]}' for about in content['cells'])
  parts.append(f'## The cells, one by one\n\n{commands}')
  return '\n\n'.join(parts) + '\n'


def _group(content: Content, group: str) -> str:
  """The lines of one group: a row per cell and metric."""
  lines = [line for line in content['lines'] if line['group'] == group]
  paper = any(
    v['paper'] is not None for line in lines for v in line['values'].values()
  )
  against = any(line['against'] for line in lines)
  head = ['cell', 'metric', 'measured', '95 % interval', 'mean ± std']
  head += ['paper', 'difference', 'verdict'] if paper else []
  head += ['against the baseline'] if against else []
  rows = []
  for line in lines:
    why = wording.state(content, line)
    if why:
      blank = [''] * (len(head) - 3)
      if paper:
        blank[2] = ' / '.join(
          wording.value(content, line['values'][m]['paper'])
          for m in content['metrics']
        )
      names = ' / '.join(wording.metric(content, m) for m in content['metrics'])
      rows.append([line['label'], names, why, *blank])
      continue
    for i, metric in enumerate(content['metrics']):
      found = line['values'][metric]
      low, high = found['low'], found['high']
      mean, over = wording.spread(content, line, metric)
      row = [
        line['label'] if i == 0 else '',
        wording.metric(content, metric),
        wording.value(content, found['value']),
        f'{wording.value(content, low)} to {wording.value(content, high)}'
        if low is not None
        else '—',
        f'{mean} ({over})' if over else mean,
      ]
      if paper:
        word, reason = wording.verdict(found)
        row += [
          wording.value(content, found['paper']),
          wording.signed(content, found['difference']),
          f'{word} ({reason})' if reason else word,
        ]
      if against:
        row.append(_against(content, line, metric))
      rows.append(row)
  table = [_row(head), _row(['---'] * len(head)), *map(_row, rows)]
  sources = dict.fromkeys(line['source'] for line in lines if line['source'])
  told = f'\n\nPaper: {"; ".join(sources)}.' if sources else ''
  return '\n'.join(table) + told


def _against(content: Content, line, metric: str) -> str:
  found = line['against']
  if not found:
    return '—'
  if found['reason']:
    return f'not compared: {found["reason"]}'
  value, below = wording.change(content, found['metrics'][metric])
  told = f'{value} ({below})' if below else value
  return f'{told} to {found["label"]}'


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(map(_safe, cells))} |'


def _safe(text: str) -> str:
  """Text that neither ends a cell nor is taken for markup."""
  text = ' '.join(text.split())
  for sign in '\\|<*_`':
    text = text.replace(sign, f'\\{sign}')
  return text
