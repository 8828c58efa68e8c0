"""Results in words and plain text: what the terminal and the page both say."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxser.evaluation import intervals
from jaxser.evaluation.results import DEMO_WARNING, NAMES

WIDTH = 80
MISSING = '—'


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


def unit(results: Mapping[str, Any]) -> str:
  """What the figures of a table are: 'per cent' or 'CCC'."""
  return 'per cent' if results['task'] == 'classification' else 'CCC'


def short(selection: str) -> str:
  """Name of a selection at the head of a column."""
  name = selection.replace('_', ' ')
  return f'{name} (optimistic)' if selection == 'best_on_test' else name


def _has_paper(results: Mapping[str, Any]) -> bool:
  """Whether a selection of this run has published figures beside it."""
  return any(name in results['paper'] for name in results['selections'])


def columns(results: Mapping[str, Any]) -> list[str]:
  """Columns of the table of a selection, after the name of the metric."""
  names = ['pooled', '95 % interval']
  if len(results['folds']) > 1:
    names.append('fold mean ± std')
  if len(results['seeds']) > 1:
    names.append(f'{len(results["seeds"])} seeds ± std')
  if _has_paper(results):
    names.append('paper')
  if results['annotators']:
    names.append('annotators')
  return names


def rows(results: Mapping[str, Any], selection: str) -> list[list[str]]:
  """One row per metric: its name and a cell for each of `columns`."""
  task, entry = results['task'], results['selections'][selection]
  paper = results['paper'].get(selection, {})
  table = []
  for name in results['metrics']:
    pooled = entry['pooled'][name]
    row = [number(pooled['value'], task), interval(pooled, task)]
    if len(results['folds']) > 1:
      row.append(spread(entry['fold_mean'][name], task))
    if len(results['seeds']) > 1:
      row.append(spread(entry['over_seeds'][name], task))
    if _has_paper(results):
      row.append(number(paper.get(name), task))
    if results['annotators']:
      row.append(number(results['annotators'].get(name), task))
    table.append([NAMES[name].removeprefix('CCC '), *row])
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


def notes(results: Mapping[str, Any]) -> list[str]:
  """What a reader must know to read the numbers rightly."""
  about, found = results['interval'], []
  speakers = about['speakers'] + about['unknown_speakers']
  if speakers > 1:
    note = (
      f'Intervals: {about["level"]:.0%} percentile bootstrap, '
      f'{about["resamples"]:,} resamples of whole speakers.'
    ).replace('%', ' %')
    if speakers < intervals.FEW_GROUPS:
      note += (
        f' With {count(speakers, "speaker")} they are somewhat too narrow.'
      )
    found.append(note)
  else:
    found.append('One speaker only: no interval can be given.')
  if about['unknown_speakers']:
    found.append(
      f'{count(about["unknown_speakers"], "utterance")} of unknown speaker: '
      'each was resampled on its own, which makes intervals narrower.'
    )
  if (
    results['speakers_in_several_folds']
    and results['protocol'] == 'cross_corpus'
  ):
    found.append(
      'Each fold trained a model on the one corpus, and each was tested on all '
      'of the other: pooled figures count an utterance once per fold.'
    )
  elif results['speakers_in_several_folds']:
    found.append(
      f'{results["speakers_in_several_folds"]} of {results["speakers"]} '
      'speakers are tested in more than one fold: the folds are not '
      'speaker-independent, so voices in the tests were also trained on.'
    )
  absent = sorted(
    {
      name
      for entry in results['selections'].values()
      for name in entry['pooled'].get('absent_classes', ())
    }
  )
  if absent:
    found.append(
      f'No utterance of class {", ".join(absent)}: left out of UAR and F1.'
    )
  if results['annotators']:
    found.append(
      f'Annotators: concordance of two of the {results["annotators"]["count"]} '
      'who rated every utterance, averaged over all pairs. They are compared '
      'with each other, the system with the mean of all.'
    )
  for selection, row in results['paper'].items():
    if 'source' in row and selection in results['selections']:
      found.append(f'Paper, {short(selection)}: {row["source"]}.')
  return found


def _aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """A text table: first column left, the others right."""
  table = [header, *lines]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if index else cell.ljust(width)
      for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in table
  )


def _wrapped(text: str) -> str:
  return textwrap.fill(text, WIDTH)


def format_table(results: Mapping[str, Any]) -> str:
  """The table shown at the end of a run; at most 80 columns of figures.

  Percentages for classes, CCC for valence, arousal and dominance; a warning
  where the corpus is the demo. `results` is the content of results.json.
  """
  parts = [f'{_wrapped(title(results))}\n{_wrapped(size(results))}']
  if results['demo']:
    parts.append(_wrapped(DEMO_WARNING))
  for name, entry in results['selections'].items():
    table = _aligned([unit(results), *columns(results)], rows(results, name))
    line = regions(results, name)
    table += f'\n{_wrapped(line)}' if line else ''
    parts.append(f'{_wrapped(headline(entry["label"]))}\n{table}')
  if results['task'] == 'classification':
    chosen = results['selections']
    recall = [
      [
        label,
        *(
          number(entry['pooled']['recall'][label], 'classification')
          for entry in chosen.values()
        ),
      ]
      for label in results['classes']
    ]
    parts.append(_aligned(['recall, per cent', *map(short, chosen)], recall))
  parts.append('\n'.join(_wrapped(note) for note in notes(results)))
  seconds = results['wall_time_s']
  if seconds is not None and math.isfinite(seconds):
    parts.append(f'Wall time: {duration(seconds)}')
  return '\n\n'.join(parts)
