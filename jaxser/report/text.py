"""Figures and labels as people read them, on pages and in the terminal."""

import re
from collections.abc import Mapping
from typing import Any

from jaxser.evaluation.results import NAMES

MISSING = '—'
TRUSTED = (
  'Tested utterances may have been trained on: the weights were taken on trust '
  '(trust_init_from), so no published figure stands beside.'
)


# Characters that XML cannot hold, not even escaped: controls and surrogates.
_FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')


def printable(value: Any) -> str:
  """Returns text without characters that a page cannot hold."""
  return _FORBIDDEN.sub('\N{REPLACEMENT CHARACTER}', str(value))


def count(number: int, noun: str) -> str:
  """'1 seed', '3 seeds'."""
  return f'{number:,} {noun}{"" if number == 1 else "s"}'


def number(value: float | None, task: str) -> str:
  """Per cent with two decimals or CCC with four, as in results.json."""
  if value is None:
    return MISSING
  return f'{value:.2f}' if task == 'classification' else f'{value:.4f}'


def signed(value: float | None, task: str) -> str:
  """A difference: '+1.20', with a minus sign, or a dash."""
  if value is None:
    return MISSING
  sign = '\N{MINUS SIGN}' if value < 0 else '+'
  return sign + number(abs(value), task)


def signed_interval(low: float, high: float, task: str) -> str:
  """The interval of a difference: '−0.40 to +2.80'."""
  return f'{signed(low, task)} to {signed(high, task)}'


def markdown(text: str) -> str:
  """Returns text that neither ends a cell nor is taken for markup."""
  return re.sub(r'([\\|<*_`])', r'\\\1', ' '.join(str(text).split()))


def p_value(value: float | None) -> str:
  """'p < 0.001', 'p = 0.012', or ''."""
  small = value is not None and value < 0.001
  return '' if value is None else 'p < 0.001' if small else f'p = {value:.3f}'


def interval(entry: Mapping[str, float | None], task: str) -> str:
  """'86.01 to 92.20', or a dash."""
  if entry['low'] is None:
    return MISSING
  return f'{number(entry["low"], task)} to {number(entry["high"], task)}'


def with_interval(entry: Mapping[str, float | None], task: str) -> str:
  """'88.75 (86.01 to 92.20)', or the figure alone."""
  value = number(entry['value'], task)
  return value if entry['low'] is None else f'{value} ({interval(entry, task)})'


def spread(entry: Mapping[str, float | None], task: str) -> str:
  """'88.75 ± 3.90', or the mean alone."""
  mean = number(entry['mean'], task)
  if entry['std'] is None:
    return mean
  return f'{mean} ± {number(entry["std"], task)}'


def duration(seconds: float) -> str:
  """'45 s', '3 min 20 s', '2 h 5 min'."""
  seconds = round(seconds)
  hours, minutes = seconds // 3600, seconds // 60 % 60
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds % 60} s' if minutes else f'{seconds} s'


def title(results: Mapping[str, Any]) -> str:
  """'timnet on emodb, protocol published'."""
  return '{system} on {corpus}, protocol {protocol}'.format_map(results)


def size(results: Mapping[str, Any]) -> str:
  """'535 utterances, 10 speakers, 10 folds, 1 seed'."""
  numbers = results['utterances'], results['speakers']
  numbers += len(results['folds']), len(results['seeds'])
  nouns = ('utterance', 'speaker', 'fold', 'seed')
  return ', '.join(map(count, numbers, nouns))


def headline(label: str) -> str:
  """A label at the start of a line: its first letter in upper case."""
  return label[:1].upper() + label[1:]


def metric(name: str) -> str:
  """'UAR', 'valence': a metric in a table."""
  return NAMES[name].removeprefix('CCC ')


def unit(results: Mapping[str, Any]) -> str:
  """What the figures of a table are: 'per cent' or 'CCC'."""
  return 'per cent' if results['task'] == 'classification' else 'CCC'


def short(selection: str) -> str:
  """Name of a selection at the head of a column."""
  name = selection.replace('_', ' ')
  return f'{name} (optimistic)' if selection == 'best_on_test' else name


def paper(results: Mapping[str, Any]) -> dict[str, Any]:
  """Returns published figures by selection, {} where none may stand beside."""
  rows = {} if results.get('trust_init_from') else results['paper']
  return {
    name: row for name, row in rows.items() if name in results['selections']
  }


def incomparable(results: Mapping[str, Any]) -> list[str]:
  """Returns why published figures must not be compared with a run."""
  rows = paper(results).values()
  reasons = [r['reason'] for r in rows if r.get('comparable') is False]
  return list(dict.fromkeys(reasons))


def table(results: Mapping[str, Any], selection: str) -> list[list[str]]:
  """Returns a header and a row per metric, as the terminal and a page show."""
  task, entry = results['task'], results['selections'][selection]
  header = [unit(results), 'pooled', '95 % interval']
  spreads = []
  if len(results['folds']) > 1:
    spreads.append(entry['fold_mean'])
    header.append('fold mean ± std')
  if len(results['seeds']) > 1:
    spreads.append(entry['over_seeds'])
    header.append(f'{len(results["seeds"])} seeds ± std')
  others = []
  if paper(results):
    others.append(paper(results).get(selection, {}))
    header.append('paper')
  if results['annotators']:
    others.append(results['annotators'])
    header.append('annotators')
  return [
    header,
    *(
      [
        metric(name),
        number(entry['pooled'][name]['value'], task),
        interval(entry['pooled'][name], task),
        *(spread(found[name], task) for found in spreads),
        *(number(found.get(name), task) for found in others),
      ]
      for name in results['metrics']
    ),
  ]
