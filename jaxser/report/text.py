"""Figures and labels as people read them, on pages and in the terminal."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from jaxser.evaluation.metrics import NAMES
from jaxser.evaluation.results import FITTED

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


def markdown(text: str) -> str:
  """Returns text that neither ends a cell nor is taken for markup."""
  return re.sub(r'([\\|<*_`])', r'\\\1', ' '.join(str(text).split()))


def aligned(table: Sequence[Sequence[str]]) -> str:
  """Returns a text table: first column flush left, the others flush right."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = [
    [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    for row in table
  ]
  return '\n'.join('  '.join(line).rstrip() for line in lines)


def head(label: str) -> str:
  """Returns a label as at the start of a line, its first letter a capital."""
  return label[:1].upper() + label[1:]


def count(number: int, noun: str) -> str:
  """Returns '1 seed', '3 seeds'."""
  return f'{number:,} {noun}{"" if number == 1 else "s"}'


def number(value: float | None, task: str) -> str:
  """Returns per cent with two decimals or CCC with four, as in results.json."""
  if value is None:
    return MISSING
  return f'{value:.2f}' if task == 'classification' else f'{value:.4f}'


def signed(value: float | None, task: str) -> str:
  """Returns a difference: '+1.20', with a minus sign, or a dash."""
  if value is None:
    return MISSING
  sign = '\N{MINUS SIGN}' if value < 0 else '+'
  return sign + number(abs(value), task)


def signed_interval(low: float, high: float, task: str) -> str:
  """Returns the interval of a difference: '−0.40 to +2.80'."""
  return f'{signed(low, task)} to {signed(high, task)}'


def interval(entry: Mapping[str, float | None], task: str) -> str:
  """Returns '86.01 to 92.20', or a dash."""
  if entry['low'] is None:
    return MISSING
  return f'{number(entry["low"], task)} to {number(entry["high"], task)}'


def with_interval(entry: Mapping[str, float | None], task: str) -> str:
  """Returns '88.75 (86.01 to 92.20)', or the figure alone."""
  value = number(entry['value'], task)
  return value if entry['low'] is None else f'{value} ({interval(entry, task)})'


def spread(entry: Mapping[str, float | None], task: str) -> str:
  """Returns '88.75 ± 3.90', or the mean alone."""
  mean, std = (number(entry[key], task) for key in ('mean', 'std'))
  return mean if entry['std'] is None else f'{mean} ± {std}'


def p_value(value: float | None) -> str:
  """Returns 'p < 0.001', 'p = 0.012', or ''."""
  if value is None:
    return ''
  return 'p < 0.001' if value < 0.001 else f'p = {value:.3f}'


def duration(seconds: float) -> str:
  """Returns '45 s', '3 min 20 s', '2 h 5 min'."""
  minutes, seconds = divmod(round(seconds), 60)
  if minutes >= 60:
    return f'{minutes // 60} h {minutes % 60} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def title(results: Mapping[str, Any]) -> str:
  """Returns 'timnet on emodb, protocol published'."""
  return '{system} on {corpus}, protocol {protocol}'.format_map(results)


def size(results: Mapping[str, Any]) -> str:
  """Returns '535 utterances, 10 speakers, 10 folds, 1 seed'."""
  numbers = results['utterances'], results['speakers']
  numbers += len(results['folds']), len(results['seeds'])
  return ', '.join(
    map(count, numbers, ('utterance', 'speaker', 'fold', 'seed'))
  )


def metric(name: str) -> str:
  """Returns the name of a metric in a table: 'UAR', 'valence'."""
  return NAMES[name].removeprefix('CCC ')


def unit(results: Mapping[str, Any]) -> str:
  """Returns what the figures of a table are: 'per cent' or 'CCC'."""
  return 'per cent' if results['task'] == 'classification' else 'CCC'


def short(selection: str, entry: Mapping[str, Any] | None = None) -> str:
  """Returns the name of a selection, or its entry, at the head of a column."""
  if entry and entry['label'] == FITTED:
    return FITTED
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
  names, pooled = results['metrics'], entry['pooled']
  columns = [
    [unit(results), *map(metric, names)],
    ['pooled', *(number(pooled[name]['value'], task) for name in names)],
    ['95 % interval', *(interval(pooled[name], task) for name in names)],
  ]

  def add(label, entries, shown):
    columns.append([label, *(shown(entries.get(n), task) for n in names)])

  if len(results['folds']) > 1:
    add('fold mean ± std', entry['fold_mean'], spread)
  if len(results['seeds']) > 1:
    add(f'{len(results["seeds"])} seeds ± std', entry['over_seeds'], spread)
  if paper(results):
    add('paper', paper(results).get(selection, {}), number)
  if results['annotators']:
    add('annotators', results['annotators'], number)
  return [list(row) for row in zip(*columns, strict=True)]


def next_steps(
  config: ml_collections.ConfigDict, workdir: os.PathLike[str] | str
) -> str:
  """Returns where the results of a run are, and commands that use them."""
  weights = ' --weights=DIR' if config.features.name == 'wavlm' else ''
  lines = [
    f'Results: {workdir}/results.json, predictions.jsonl and report.html',
    'To predict recordings:',
    f'  python -m jaxser.predict --checkpoint={shlex.quote(str(workdir))}'
    f'{weights} FILE.wav',
  ]
  if config.corpus == 'demo':
    # One with the labels that the system learns.
    corpus = 'emotale' if config.system == 'emosphere' else 'emodb'
    lines += [
      'The same on a real corpus:',
      f'  python -m data_prep --corpus={corpus} --audio_dir=DIR '
      f'--features={config.features.name}',
      f'  python -m jaxser.main --config={config.system}:corpus={corpus}',
    ]
  return '\n'.join(lines)
