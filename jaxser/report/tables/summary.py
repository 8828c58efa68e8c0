"""The content of table.json, computed from the results of the cells.

  {"title", "about", "file", "task", "metrics", "statistic", "tolerance", "demo",
   "sets", "groups": [NAME], "prepare": [COMMAND],
   "cells": [{"name", "label", "state", "error", "prepare", "command", "folder",
      "budget", "on_request", "utterances", "speakers", "seeds", "folds",
      "wall_time_s", "environment"}],
   "lines": [{"group", "cell", "label", "selection", "selection_label",
      "source", "values": {METRIC: VALUE}, "against": AGAINST or null}]}

  VALUE is {"value", "low", "high", "fold_mean", "over_seeds", "paper",
   "difference", "verdict", "reason"}: the pooled figure with its interval, mean
   and std over folds and over seeds, the paper's figure, measured minus paper,
   and whether that is 'within' the tolerance, 'above', 'below' or 'not
   comparable', with the reason. AGAINST is {"baseline", "label", "common",
   "speakers", "reason", "metrics": {METRIC: {"value", "low", "high", "p_value",
   "p_holm"}}}, see `jaxser.evaluation.significance`.

Lines of an average have no cell ("cell": null) and say how many of their cells
are there ("have", "need").
"""

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import corpora
from jaxser.evaluation import intervals, significance
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.report import text
from jaxser.report.run import View
from jaxser.report.tables.spec import Average, Figure, Table
from jaxser.report.tables.state import State

_UNKNOWN = {'mean': None, 'std': None}


def build(
  table: Table,
  states: Sequence[State],
  *,
  file: str,
  sets: Mapping[str, str],
  demo: bool = False,
) -> dict[str, Any]:
  """Returns the table as far as it is; see the module's docstring.

  Args:
    table: as loaded.
    states: of its cells, in its order.
    file: path of the table file, for the record.
    sets: the overrides of --set.
    demo: whether these are the cells on the demo corpus.
  """
  pairs = [(state, f) for state in states for f in state.cell.figures]
  groups = list(dict.fromkeys(figure.group for _, figure in pairs))
  pairs.sort(key=lambda pair: groups.index(pair[1].group))
  by_name = {state.cell.name: state for state in states}
  lines = [_line(table, state, f, by_name) for state, f in pairs]
  _adjust(lines)
  lines += [
    _average(table, average, [p for p in pairs if p[1].group == average.group])
    for average in table.averages
    if average.group in groups
  ]
  return {
    'title': table.title,
    'about': list(table.about),
    'file': file,
    'task': table.task,
    'metrics': list(table.metrics),
    'statistic': table.statistic,
    'tolerance': dict(table.tolerance),
    'demo': demo,
    'sets': dict(sets),
    'groups': groups,
    'prepare': list(dict.fromkeys(c for s in states for c in s.prepare)),
    'cells': [_cell(state) for state in states],
    'lines': lines,
  }


def _cell(state: State) -> dict[str, Any]:
  kept = ('utterances', 'speakers', 'seeds', 'folds', 'wall_time_s')
  found = state.results or {}
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
    **{name: found.get(name) for name in (*kept, 'environment')},
  }


def _line(
  table: Table, state: State, figure: Figure, by_name: Mapping[str, State]
) -> dict[str, Any]:
  entry = state.results and state.results['selections'].get(figure.selection)
  values = {}
  for metric in table.metrics:
    value = _measured(entry, metric, table.statistic)
    paper = None if _trusted(state) else figure.paper.get(metric)
    why = _incomparable(state, figure)
    verdict = _verdict(value['value'], paper, table.tolerance.get(metric), why)
    values[metric] = value | verdict
  return {
    'group': figure.group,
    'cell': state.cell.name,
    'label': state.cell.label,
    'selection': figure.selection,
    'selection_label': SELECTIONS[figure.selection],
    'source': figure.source,
    'values': values,
    'against': _against(state, figure, by_name.get(state.cell.baseline)),
  }


def _measured(
  entry: Mapping[str, Any] | None, metric: str, statistic: str
) -> dict[str, Any]:
  """Figures of one metric from results.json; None where there are none."""
  unknown = dict.fromkeys(('value', 'low', 'high'))
  if entry is None or metric not in entry['pooled']:
    return {**unknown, 'fold_mean': _UNKNOWN, 'over_seeds': _UNKNOWN}
  spreads = {key: entry[key][metric] for key in ('fold_mean', 'over_seeds')}
  if statistic == 'fold_mean':
    # The interval is that of the pooled figure and would mislead here.
    return {**unknown, 'value': spreads['fold_mean']['mean'], **spreads}
  return {**entry['pooled'][metric], **spreads}


def _trusted(state: State) -> bool:
  """Whether tested utterances may have been trained on."""
  return bool(state.results and state.results['trust_init_from'])


def _incomparable(state: State, figure: Figure) -> str:
  """Why measured and published figures are of different things, or ''."""
  if _trusted(state):
    return text.TRUSTED
  if state.budget:
    return f"not the paper's budget: {state.budget}"
  if figure.incomparable:
    return figure.incomparable
  found, name = state.results, state.config.corpus
  if found and state.config.protocol in ('published', 'speaker_independent'):
    whole = corpora.CORPORA[name].count if name in corpora.CORPORA else None
    if whole and found['utterances'] != whole:
      return f'{found["utterances"]} of the {whole} utterances of {name}'
  return ''


def _verdict(
  value: float | None, paper: float | None, tolerance: float | None, why: str
) -> dict[str, Any]:
  """The paper's figure, how far it is, and what that means."""
  found = {'paper': paper, 'difference': None, 'verdict': '', 'reason': ''}
  if value is None:
    return found
  if why or paper is None:
    why = why or 'the paper has no figure'
    return {**found, 'verdict': 'not comparable', 'reason': why}
  difference = round(value - paper, 4)
  verdict = 'above' if difference > 0 else 'below'
  if abs(difference) <= tolerance:
    verdict = 'within'
  return {**found, 'difference': difference, 'verdict': verdict}


def _against(
  state: State, figure: Figure, other: State | None
) -> dict[str, Any] | None:
  """The paired difference to the cell's baseline, if both have finished."""
  if other is None or state.run is None or other.run is None:
    return None
  one, two = (View('', s.run, figure.selection) for s in (state, other))
  if not one.predictions or not two.predictions:
    return None
  found = significance.compare(
    one.predictions,
    two.predictions,
    state.results['classes'],
    other.results['classes'],
  )
  kept = ('value', 'low', 'high', 'p_value')
  return {
    'baseline': other.cell.name,
    'label': other.cell.label,
    'common': found.common,
    'speakers': found.speakers,
    'reason': found.reason,
    'metrics': {
      name: {key: getattr(change, key) for key in kept}
      for name, change in found.changes.items()
    },
  }


def _adjust(lines: Sequence[dict[str, Any]]) -> None:
  """Adds Holm's p values over the comparisons of a group and metric."""
  families = collections.defaultdict(list)
  for line in lines:
    if line['against']:
      for metric, change in line['against']['metrics'].items():
        families[line['group'], metric].append(change)
  for changes in families.values():
    adjusted = significance.holm([change['p_value'] for change in changes])
    for change, value in zip(changes, adjusted, strict=True):
      change['p_holm'] = value


def _average(
  table: Table, average: Average, pairs: Sequence[tuple[State, Figure]]
) -> dict[str, Any]:
  """The mean over all cells of a group, once all of them are there."""
  there = [pair for pair in pairs if pair[0].run is not None]
  reasons = [_incomparable(*pair) for pair in there]
  why = next(filter(None, reasons), '')
  if len(there) < len(pairs):
    why = f'{len(there)} of {len(pairs)} cells are there'
  paper = {} if any(_trusted(s) for s, _ in there) else average.paper
  by_cell = [_by_seed(*pair) for pair in there]
  choose = max if average.over == 'best' else statistics.fmean
  values = {}
  for metric in table.metrics:
    cells = [{k: v[metric] for k, v in seeds.items()} for seeds in by_cell]
    chosen = [choose(seeds.values()) for seeds in cells]
    value = round(statistics.fmean(chosen), 4) if chosen else None
    tolerance = table.tolerance.get(metric)
    values[metric] = {
      **_measured(None, metric, ''),
      'over_seeds': _over_seeds(cells) if average.over == 'mean' else _UNKNOWN,
      **_verdict(value, paper.get(metric), tolerance, why),
      'value': value,
    }
  selection = pairs[0][1].selection
  return {
    'group': average.group,
    'cell': None,
    'label': average.label,
    'selection': selection,
    'selection_label': SELECTIONS[selection],
    'source': average.source,
    'have': len(there),
    'need': len(pairs),
    'values': values,
    'against': None,
  }


def _by_seed(state: State, figure: Figure) -> dict[int, dict[str, float]]:
  """Seed -> metrics of all folds pooled, in per cent or CCC."""
  task, classes = state.results['task'], state.results['classes']
  parts = collections.defaultdict(list)
  for p in View('', state.run, figure.selection).predictions:
    parts[p.seed].append(p)
  scale = 100 if task == 'classification' else 1
  found = {}
  for seed, rows in parts.items():
    sums = results_lib.grouped(rows, task, classes).sum(0)
    values = scale * results_lib.STATISTICS[task](sums)
    names = results_lib.METRICS[task]
    found[seed] = dict(zip(names, values.tolist(), strict=True))
  return found


def _over_seeds(cells: Sequence[Mapping[int, float]]) -> dict[str, Any]:
  """Mean and std, over seeds, of the average over cells."""
  seeds = set.intersection(*map(set, cells)) if cells else set()
  if len(seeds) < 2:
    return _UNKNOWN
  averages = [
    statistics.fmean(c[seed] for c in cells) for seed in sorted(seeds)
  ]
  mean, std = intervals.mean_std(averages)
  return {'mean': round(mean, 4), 'std': round(std, 4)}
