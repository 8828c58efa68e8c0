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

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import corpora
from jaxser.evaluation import intervals, significance
from jaxser.evaluation import results as results_lib
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.report.tables.spec import Average, Figure, Table
from jaxser.report.tables.state import State

NOT_COMPARABLE = 'not comparable'


def build(
  table: Table,
  states: Sequence[State],
  *,
  file: str,
  sets: Mapping[str, str],
  demo: bool = False,
) -> dict[str, Any]:
  """The table as far as it is; see the module's docstring.

  Args:
    table: as loaded.
    states: of its cells, in its order.
    file: path of the table file, for the record.
    sets: the overrides of --set.
    demo: whether these are the cells on the demo corpus.
  """
  by_name = {state.cell.name: state for state in states}
  lines = [
    _line(table, state, figure, by_name)
    for state in states
    for figure in state.cell.figures
  ]
  groups = list(dict.fromkeys(line['group'] for line in lines))
  lines.sort(key=lambda line: groups.index(line['group']))
  _adjust(lines)
  lines += [
    _average(table, average, states)
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
    'prepare': list(
      dict.fromkeys(command for state in states for command in state.prepare)
    ),
    'cells': [_cell(state) for state in states],
    'lines': lines,
  }


def _cell(state: State) -> dict[str, Any]:
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
    **{
      name: found.get(name)
      for name in (
        'utterances',
        'speakers',
        'seeds',
        'folds',
        'wall_time_s',
        'environment',
      )
    },
  }


def _line(
  table: Table, state: State, figure: Figure, by_name: Mapping[str, State]
) -> dict[str, Any]:
  """One selection of one cell."""
  values = {}
  entry = (state.results or {}).get('selections', {}).get(figure.selection)
  why = _incomparable(state, figure)
  for metric in table.metrics:
    paper = figure.paper.get(metric)
    value = _measured(entry, metric, table.statistic)
    values[metric] = {
      **value,
      **_verdict(value['value'], paper, table.tolerance.get(metric), why),
    }
  return {
    'group': figure.group,
    'cell': state.cell.name,
    'label': state.cell.label,
    'selection': figure.selection,
    'selection_label': SELECTIONS[figure.selection],
    'source': figure.source,
    'values': values,
    'against': _against(state, figure, by_name),
  }


def _measured(
  entry: Mapping[str, Any] | None, metric: str, statistic: str
) -> dict[str, Any]:
  """Figures of one metric from results.json; None where there are none."""
  if entry is None or metric not in entry['pooled']:
    unknown = {'mean': None, 'std': None}
    return {
      **dict.fromkeys(('value', 'low', 'high')),
      'fold_mean': unknown,
      'over_seeds': unknown,
    }
  value = dict(entry['pooled'][metric])
  if statistic == 'fold_mean':
    # The interval is that of the pooled figure and would mislead here.
    value = {'value': entry['fold_mean'][metric]['mean'], 'low': None}
    value['high'] = None
  return {
    **value,
    'fold_mean': dict(entry['fold_mean'][metric]),
    'over_seeds': dict(entry['over_seeds'][metric]),
  }


def _incomparable(state: State, figure: Figure) -> str:
  """Why measured and published figures are of different things, or ''."""
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
  if value is not None and paper is not None:
    found['difference'] = round(value - paper, 4)
  if value is None:
    return found
  if paper is None:
    why = 'the paper has no figure'
  if why:
    return {**found, 'verdict': NOT_COMPARABLE, 'reason': why}
  if abs(found['difference']) <= tolerance:
    return {**found, 'verdict': 'within'}
  return {**found, 'verdict': 'above' if found['difference'] > 0 else 'below'}


def _against(
  state: State, figure: Figure, by_name: Mapping[str, State]
) -> dict[str, Any] | None:
  """The paired difference to the cell's baseline, if both have finished."""
  other = by_name.get(state.cell.baseline)
  if other is None or state.results is None or other.results is None:
    return None
  pair = [
    [p for p in s.predictions if p.selection == figure.selection]
    for s in (state, other)
  ]
  if not all(pair):
    return None
  found = significance.compare(
    *pair, state.results['classes'], other.results['classes']
  )
  return {
    'baseline': other.cell.name,
    'label': other.cell.label,
    'common': found.common,
    'speakers': found.speakers,
    'reason': found.reason,
    'metrics': {
      name: {
        'value': change.value,
        'low': change.low,
        'high': change.high,
        'p_value': change.p_value,
      }
      for name, change in found.changes.items()
    },
  }


def _adjust(lines: Sequence[dict[str, Any]]) -> None:
  """Adds Holm's p values over the comparisons of a group and metric."""
  families: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for line in lines:
    for metric, change in (
      (line['against'] or {}).get('metrics') or {}
    ).items():
      families.setdefault((line['group'], metric), []).append(change)
  for changes in families.values():
    adjusted = significance.holm([change['p_value'] for change in changes])
    for change, value in zip(changes, adjusted, strict=True):
      change['p_holm'] = value


def _average(
  table: Table, average: Average, states: Sequence[State]
) -> dict[str, Any]:
  """The mean over all cells of a group, once all of them are there."""
  members = [
    (state, figure)
    for state in states
    for figure in state.cell.figures
    if figure.group == average.group
  ]
  there = [
    (state, figure) for state, figure in members if state.results is not None
  ]
  whole = len(there) == len(members)
  reasons = [_incomparable(state, figure) for state, figure in there]
  why = next(filter(None, reasons), '')
  if not whole:
    why = f'{len(there)} of {len(members)} cells are there'
  by_cell = [_by_seed(state, figure) for state, figure in there]
  scale = 100 if table.task == 'classification' else 1
  values = {}
  for metric in table.metrics:
    column = results_lib.METRICS[table.task].index(metric)
    chosen = [
      (max if average.over == 'best' else statistics.fmean)(
        scale * seeds[column] for seeds in cell.values()
      )
      for cell in by_cell
    ]
    value = round(statistics.fmean(chosen), 4) if chosen else None
    values[metric] = {
      'value': value,
      'low': None,
      'high': None,
      'fold_mean': {'mean': None, 'std': None},
      'over_seeds': _spread_of_average(by_cell, column, scale, average.over),
      **_verdict(
        value, average.paper.get(metric), table.tolerance.get(metric), why
      ),
    }
  return {
    'group': average.group,
    'cell': None,
    'label': average.label,
    'selection': members[0][1].selection,
    'selection_label': SELECTIONS[members[0][1].selection],
    'source': average.source,
    'have': len(there),
    'need': len(members),
    'values': values,
    'against': None,
  }


def _by_seed(state: State, figure: Figure) -> dict[int, tuple[float, ...]]:
  """Seed -> the metrics of all folds pooled, as fractions or CCC."""
  task = state.results['task']
  parts: dict[int, list[Any]] = {}
  for p in state.predictions:
    if p.selection == figure.selection:
      parts.setdefault(p.seed, []).append(p)
  return {
    seed: tuple(
      results_lib.STATISTICS[task](
        results_lib.grouped(rows, task, state.results['classes']).sum(0)
      )
    )
    for seed, rows in parts.items()
  }


def _spread_of_average(
  by_cell: Sequence[Mapping[int, Sequence[float]]],
  column: int,
  scale: float,
  over: str,
) -> dict[str, float | None]:
  """Mean and std, over seeds, of the average over cells."""
  seeds = set.intersection(*map(set, by_cell)) if by_cell else set()
  if over == 'best' or len(seeds) < 2:
    return {'mean': None, 'std': None}
  averages = [
    statistics.fmean(scale * cell[seed][column] for cell in by_cell)
    for seed in sorted(seeds)
  ]
  mean, std = intervals.mean_std(averages)
  return {'mean': round(mean, 4), 'std': round(std, 4)}
