"""Figures and labels as people read them, on pages and in the terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table whose figures stand at the right."""
  lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def markdown(text: str) -> str:
  """Returns text that neither ends a cell nor is taken for markup."""
  return re.sub(r'([\\|<*_`])', r'\\\1', ' '.join(str(text).split()))


def p_value(value: float | None) -> str:
  """'p < 0.001', 'p = 0.012', or ''."""
  if value is None:
    return ''
  return 'p < 0.001' if value < 0.001 else f'p = {value:.3f}'


def interval(entry: Mapping[str, float | None], task: str) -> str:
  """'86.01 to 92.20', or a dash."""
  if entry['low'] is None:
    return MISSING
  return f'{number(entry["low"], task)} to {number(entry["high"], task)}'


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
  return (
    f'{results["system"]} on {results["corpus"]}, '
    f'protocol {results["protocol"]}'
  )


def size(results: Mapping[str, Any]) -> str:
  """'535 utterances, 10 speakers, 10 folds, 1 seed'."""
  parts = [
    count(results['utterances'], 'utterance'),
    count(results['speakers'], 'speaker'),
    count(len(results['folds']), 'fold'),
    count(len(results['seeds']), 'seed'),
  ]
  return ', '.join(parts)


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
  if results.get('trust_init_from'):
    return {}
  return {
    k: v for k, v in results['paper'].items() if k in results['selections']
  }


def incomparable(results: Mapping[str, Any]) -> list[str]:
  """Returns why published figures must not be compared with a run."""
  rows = paper(results).values()
  reasons = [r['reason'] for r in rows if r.get('comparable') is False]
  return list(dict.fromkeys(reasons))


def columns(results: Mapping[str, Any]) -> list[str]:
  """Columns of the table of a selection, after the name of the metric."""
  names = ['pooled', '95 % interval']
  if len(results['folds']) > 1:
    names.append('fold mean ± std')
  if len(results['seeds']) > 1:
    names.append(f'{len(results["seeds"])} seeds ± std')
  if paper(results):
    names.append('paper')
  if results['annotators']:
    names.append('annotators')
  return names


def rows(results: Mapping[str, Any], selection: str) -> list[list[str]]:
  """One row per metric: its name and a cell for each of `columns`."""
  task, entry = results['task'], results['selections'][selection]
  published = paper(results)
  table = []
  for name in results['metrics']:
    pooled = entry['pooled'][name]
    row = [number(pooled['value'], task), interval(pooled, task)]
    if len(results['folds']) > 1:
      row.append(spread(entry['fold_mean'][name], task))
    if len(results['seeds']) > 1:
      row.append(spread(entry['over_seeds'][name], task))
    if paper(results):
      row.append(number(published.get(selection, {}).get(name), task))
    if results['annotators']:
      row.append(number(results['annotators'].get(name), task))
    table.append([metric(name), *row])
  return table


def regions(results: Mapping[str, Any], selection: str) -> str:
  """How often the predicted point lies in the true region; '' for classes."""
  found = results['selections'][selection]['pooled'].get('regions')
  if not found:
    return ''
  kind = results['sphere']['regions']
  shown = 'octants' if kind == 'octants' else f'{kind:g} degrees'
  parts = [
    f'{name} {number(found[key]["value"], "classification")} % '
    f'({interval(found[key], "classification")})'
    for key, name in (('accuracy', 'accuracy'), ('macro_f1', 'macro F1'))
  ]
  return f'Regions of the sphere ({shown}): {", ".join(parts)}'
