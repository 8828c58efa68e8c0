"""table.json, computed from the results of its cells: see docs/files.md."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import corpora
from jaxser.evaluation import intervals, significance
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.report import derived, text
from jaxser.report.run import View
from jaxser.report.tables.spec import Average, Figure, Published, Table
from jaxser.report.tables.state import State

_UNKNOWN = {'mean': None, 'std': None}
_OF_A_CHANGE = ('value', 'low', 'high', 'p_value', 'p_holm')
_OF_A_RUN = ('utterances', 'speakers', 'seeds', 'folds', 'wall_time_s')


def build(
  table: Table,
  states: Sequence[State],
  *,
  file: str,
  sets: Mapping[str, str],
  demo: bool = False,
) -> dict[str, Any]:
  """Returns the content of table.json as far as it is there."""
  by_name = {state.cell.name: state for state in states}
  groups = collections.defaultdict(list)
  for state in states:
    for figure in state.cell.figures:
      groups[figure.group].append((state, figure))
  lines = []
  for members in groups.values():
    others = [by_name.get(state.cell.baseline) for state, _ in members]
    compared = list(map(_compare, members, others))
    significance.adjust([found for found in compared if found])
    lines += [
      _line(table, *member) | {'against': _against(found, other)}
      for member, found, other in zip(members, compared, others, strict=True)
    ]
  for average in table.averages:
    if average.group in groups:
      lines.append(_average(table, average, groups[average.group]))
  for entry in table.published:  # A line without a cell: nothing is measured.
    if entry.group in groups:
      names = ('label', 'group', 'source')
      line = {'cell': None, **{name: getattr(entry, name) for name in names}}
      line['values'] = {
        m: _value(table, m, {}, entry, '') for m in table.metrics
      }
      lines.append(line | {'against': None})
  prepare = [command for state in states for command in state.prepare]
  return {
    'title': table.title,
    'about': list(table.about),
    'file': file,
    'task': table.task,
    'metrics': list(table.metrics),
    'tolerance': dict(table.tolerance),
    'demo': demo,
    'sets': dict(sets),
    'groups': list(groups),
    'prepare': list(dict.fromkeys(prepare)),
    'cells': [_cell(state) for state in states],
    'lines': lines,
  }


def _cell(state: State) -> dict[str, Any]:
  results = state.run.results if state.run else {}
  return {
    'name': state.cell.name,
    'label': state.cell.label,
    'state': state.kind,
    'error': state.error,
    'prepare': list(state.prepare),
    'command': state.command,
    'folder': state.folder.name,
    'budget': state.budget,
    'on_request': state.cell.on_request,
    'notes': list(results.get('notes', ())),
    **{name: results.get(name) for name in (*_OF_A_RUN, 'environment')},
  }


def _line(table: Table, state: State, figure: Figure) -> dict[str, Any]:
  selections = state.run.results['selections'] if state.run else {}
  entry, why = selections.get(figure.selection), _incomparable(state, figure)
  values = {}
  for metric in table.metrics:
    measured = dict(entry['pooled'][metric]) if entry else {}
    for key in ('fold_mean', 'over_seeds') if entry else ():
      measured[key] = entry[key][metric]
    values[metric] = _value(table, metric, measured, figure, why)
  return {
    'cell': state.cell.name,
    'label': state.cell.label,
    **_origin(figure, figure.selection),
    **({'selection_label': entry['label']} if entry else {}),
    'values': values,
  }


def _origin(figure: Figure | Average, selection: str) -> dict[str, str]:
  return {
    'group': figure.group,
    'source': figure.source,
    'selection': selection,
    'selection_label': SELECTIONS[selection],
  }


def _incomparable(state: State, figure: Figure) -> str:
  """Returns why measured and published figures differ in kind, or ''."""
  results = state.run.results if state.run else {}
  if results.get('trust_init_from'):
    return text.TRUSTED
  if state.budget:
    return f"not the paper's budget: {state.budget}"
  if figure.incomparable:
    return figure.incomparable
  name, protocol = state.config.corpus, state.config.protocol
  if results and protocol in ('published', 'speaker_independent'):
    whole = corpora.CORPORA[name].count if name in corpora.CORPORA else None
    if whole and results['utterances'] != whole:
      return f'{results["utterances"]} of the {whole} utterances of {name}'
  return ''


def _value(
  table: Table,
  metric: str,
  measured: Mapping[str, Any],
  figure: Figure | Average | Published,
  why: str,
) -> dict[str, Any]:
  """Returns what was measured, the paper's figure, and the verdict."""
  paper = None if why == text.TRUSTED else figure.paper.get(metric)
  value = {
    **{'value': None, 'low': None, 'high': None},
    **{'fold_mean': _UNKNOWN, 'over_seeds': _UNKNOWN},
    **measured,
    **{'paper': paper, 'difference': None, 'verdict': '', 'reason': ''},
  }
  if value['value'] is None:
    return value
  if why or paper is None:
    why = why or 'the paper has no figure'
    return value | {'verdict': 'not comparable', 'reason': why}
  difference = round(value['value'] - paper, 4)
  within = abs(difference) <= table.tolerance[metric]
  verdict = 'within' if within else 'above' if difference > 0 else 'below'
  return value | {'difference': difference, 'verdict': verdict}


def _compare(
  member: tuple[State, Figure], other: State | None
) -> significance.Comparison | None:
  """Compares a cell with its baseline, if both have finished."""
  state, figure = member
  if other is None or state.run is None or other.run is None:
    return None
  same = [f for f in other.cell.figures if f.group == figure.group]
  chosen = (*same, figure)[0].selection
  views = [View('', other.run, chosen), View('', state.run, figure.selection)]
  if not all(view.predictions for view in views):
    return None
  ((_, found),) = derived.compare_with_first(views)
  return found


def _against(
  found: significance.Comparison | None, other: State | None
) -> dict[str, Any] | None:
  """Returns a comparison with another cell."""
  if found is None:
    return None
  return {
    'baseline': other.cell.name,
    'label': other.cell.label,
    **{k: getattr(found, k) for k in ('common', 'speakers', 'reason')},
    'metrics': {
      name: {key: getattr(change, key) for key in _OF_A_CHANGE}
      for name, change in found.changes.items()
    },
  }


def _average(
  table: Table, average: Average, members: Sequence[tuple[State, Figure]]
) -> dict[str, Any]:
  """Returns the mean over all cells of a group that are there."""
  there = [member for member in members if member[0].run is not None]
  reasons = [_incomparable(*member) for member in there]
  why = next(filter(None, reasons), '')
  if text.TRUSTED in reasons:
    why = text.TRUSTED
  elif len(there) < len(members):
    why = f'{len(there)} of {len(members)} cells are there'
  by_cell = [
    derived.scores_by(View('', state.run, figure.selection), 'seed')
    for state, figure in there
  ]
  choose = max if average.over == 'best' else statistics.fmean
  values = {}
  for metric in table.metrics:
    cells = [{k: v[metric] for k, v in seeds.items()} for seeds in by_cell]
    measured = {}
    if cells:
      mean = statistics.fmean(choose(seeds.values()) for seeds in cells)
      measured['value'] = round(mean, 4)
    if average.over == 'mean':
      measured['over_seeds'] = _over_seeds(cells)
    values[metric] = _value(table, metric, measured, average, why)
  return {
    'cell': None,
    'label': average.label,
    **_origin(average, members[0][1].selection),
    'have': len(there),
    'need': len(members),
    'values': values,
    'against': None,
  }


def _over_seeds(cells: Sequence[Mapping[int, float]]) -> dict[str, Any]:
  """Returns mean and std, over seeds, of the average over cells."""
  seeds = set.intersection(*map(set, cells)) if cells else set()
  if len(seeds) < 2:
    return _UNKNOWN
  averages = [statistics.fmean(c[s] for c in cells) for s in sorted(seeds)]
  mean, std = intervals.mean_std(averages)
  return {'mean': round(mean, 4), 'std': round(std, 4)}
