"""How figures, verdicts and states are told, in Markdown and HTML alike."""

from collections.abc import Mapping
from typing import Any

from jaxser.evaluation.results import NAMES
from jaxser.report import text

Content = Mapping[str, Any]

STATES = {
  'finished': 'finished',
  'ready': 'not run yet',
  'started': 'begun, not finished',
  'not prepared': 'not prepared',
  'failed': 'failed',
}


def metric(content: Content, name: str) -> str:
  """'UAR', 'valence'."""
  del content
  return NAMES[name].removeprefix('CCC ')


def value(content: Content, number: float | None) -> str:
  """Per cent with two decimals, CCC with four, or a dash."""
  return text.number(number, content['task'])


def signed(content: Content, number: float | None) -> str:
  """A difference with its sign, or a dash."""
  return text.signed(number, content['task'])


def cell(content: Content, line: Mapping[str, Any]) -> Mapping[str, Any]:
  """The cell of a line; nothing for an average."""
  return next((c for c in content['cells'] if c['name'] == line['cell']), {})


def state(content: Content, line: Mapping[str, Any]) -> str:
  """Why a line has no figures, or ''."""
  about = cell(content, line)
  if not about or about['state'] == 'finished':
    if all(v['value'] is None for v in line['values'].values()):
      return 'no such selection in this run' if about else 'no cell is there'
    return ''
  if about['state'] == 'failed':
    return f'failed: {about["error"]}'
  if about['on_request'] and about['state'] == 'ready':
    return f'not run: {about["on_request"]}'
  return STATES[about['state']]


def spread(
  content: Content, line: Mapping[str, Any], name: str
) -> tuple[str, str]:
  """('88.75 ± 3.90', '10 folds'): over seeds, else over folds, else nothing."""
  found, about = line['values'][name], cell(content, line)
  for key, noun in (('over_seeds', 'seed'), ('fold_mean', 'fold')):
    if found[key]['std'] is not None:
      count = len(about.get(f'{noun}s') or ())
      over = text.count(count, noun) if count else f'over {noun}s'
      if key == 'fold_mean' and len(about.get('seeds') or ()) > 1:
        over += f' x {len(about["seeds"])} seeds'
      return text.spread(found[key], content['task']), over
  return text.MISSING, ''


def verdict(found: Mapping[str, Any]) -> tuple[str, str]:
  """('below', ''), or ('not comparable', 'the reason')."""
  return found['verdict'] or text.MISSING, found['reason']


def change(content: Content, found: Mapping[str, Any]) -> tuple[str, str]:
  """('+1.20', '−0.40 to +2.80, p = 0.120') of a paired difference."""
  below = ''
  if found['low'] is not None:
    below = (
      f'{signed(content, found["low"])} to {signed(content, found["high"])}, '
      f'{text.p_value(found["p_holm"])}'
    )
  return signed(content, found['value']), below


def notes(content: Content) -> list[str]:
  """What a reader must know to read the figures rightly."""
  found = []
  measured = {
    'pooled': 'Measured: all folds (and seeds) put into one set',
    'fold_mean': 'Measured: mean over folds',
  }[content['statistic']]
  measured += (
    ', with the 95 % interval of a bootstrap over whole speakers.'
    if content['statistic'] == 'pooled'
    else '.'
  )
  found.append(measured)
  compared = any(
    value['paper'] is not None
    for line in content['lines']
    for value in line['values'].values()
  )
  if compared:
    limits = ', '.join(
      f'{metric(content, name)} ±{value(content, limit)}'
      for name, limit in content['tolerance'].items()
    )
    found.append(
      "Verdict: 'within' if measured and paper differ by no more than "
      f"{limits}; else 'above' or 'below' the paper."
    )
  if content['sets']:
    sets = ', '.join(f'{k}={v}' for k, v in content['sets'].items())
    found.append(f'Run with --set: {sets}.')
    if compared and any(about['budget'] for about in content['cells']):
      found.append(
        "This is not the paper's budget, so no figure is compared with it."
      )
  if any(line['against'] for line in content['lines']):
    found.append(
      'Differences: paired bootstrap over whole speakers on the same '
      'utterances; p values are adjusted for the number of comparisons in a '
      'group (Holm). They do not cover the luck of a training seed.'
    )
  return found


def progress(content: Content) -> str:
  """'2 of 18 cells finished, 12 not prepared, 4 not run yet.'"""
  states = [about['state'] for about in content['cells']]
  parts = [f'{states.count("finished")} of {len(states)} cells finished']
  parts += [
    f'{states.count(kind)} {words}'
    for kind, words in STATES.items()
    if kind in states and kind != 'finished'
  ]
  return ', '.join(parts) + '.'
