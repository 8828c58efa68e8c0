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
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.report import derived, text
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

  States are those of the table's cells or, for `demo`, of those on the demo
  corpus; `file` and the overrides `sets` are recorded.
  """
  by_name = {state.cell.name: state for state in states}
  groups = collections.defaultdict(list)
  for state in states:
    for figure in state.cell.figures:
      groups[figure.group].append((state, figure))
  lines = []
  for members in groups.values():
    found = [_line(table, *member, by_name) for member in members]
    _adjust(found)
    lines += found
  averages = [a for a in table.averages if a.group in groups]
  lines += [
    _average(table, average, groups[average.group]) for average in averages
  ]
  prepare = [command for state in states for command in state.prepare]
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
    'groups': list(groups),
    'prepare': list(dict.fromkeys(prepare)),
    'cells': [_cell(state) for state in states],
    'lines': lines,
  }


def _cell(state: State) -> dict[str, Any]:
  found = state.run.results if state.run else {}
  kept = (
    'utterances',
    'speakers',
    'seeds',
    'folds',
    'wall_time_s',
    'environment',
  )
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
    **{name: found.get(name) for name in kept},
  }


def _line(
  table: Table, state: State, figure: Figure, by_name: Mapping[str, State]
) -> dict[str, Any]:
  selections = state.run.results['selections'] if state.run else {}
  entry, why = selections.get(figure.selection), _incomparable(state, figure)
  paper = {} if why == text.TRUSTED else figure.paper
  values = {}
  for metric in table.metrics:
    value = dict.fromkeys(('value', 'low', 'high'))
    value |= {'fold_mean': _UNKNOWN, 'over_seeds': _UNKNOWN}
    if entry:
      value |= {key: entry[key][metric] for key in ('fold_mean', 'over_seeds')}
      if table.statistic == 'pooled':
        value |= entry['pooled'][metric]
      else:  # The interval is that of the pooled figure and would mislead.
        value['value'] = value['fold_mean']['mean']
    values[metric] = value | _verdict(table, metric, value['value'], paper, why)
  other = by_name.get(state.cell.baseline)
  return {
    'cell': state.cell.name,
    'label': state.cell.label,
    **_origin(figure, figure.selection),
    'values': values,
    'against': _against(state, figure, other) if other else None,
  }


def _origin(figure: Figure | Average, selection: str) -> dict[str, str]:
  return {
    'group': figure.group,
    'source': figure.source,
    'selection': selection,
    'selection_label': SELECTIONS[selection],
  }


def _incomparable(state: State, figure: Figure) -> str:
  """Why measured and published figures are of different things, or ''."""
  found = state.run.results if state.run else {}
  if found.get('trust_init_from'):
    return text.TRUSTED
  if state.budget:
    return f"not the paper's budget: {state.budget}"
  if figure.incomparable:
    return figure.incomparable
  name, protocol = state.config.corpus, state.config.protocol
  if found and protocol in ('published', 'speaker_independent'):
    whole = corpora.CORPORA[name].count if name in corpora.CORPORA else None
    if whole and found['utterances'] != whole:
      return f'{found["utterances"]} of the {whole} utterances of {name}'
  return ''


def _verdict(
  table: Table,
  metric: str,
  value: float | None,
  paper: Mapping[str, float],
  why: str,
) -> dict[str, Any]:
  """The paper's figure, how far it is, and what that means."""
  published = paper.get(metric)
  found = {'paper': published, 'difference': None, 'verdict': '', 'reason': ''}
  if value is None:
    return found
  if why or published is None:
    why = why or 'the paper has no figure'
    return {**found, 'verdict': 'not comparable', 'reason': why}
  difference = round(value - published, 4)
  verdict = 'above' if difference > 0 else 'below'
  if abs(difference) <= table.tolerance[metric]:
    verdict = 'within'
  return {**found, 'difference': difference, 'verdict': verdict}


def _against(
  state: State, figure: Figure, other: State
) -> dict[str, Any] | None:
  """The paired difference to the cell's baseline, if both have finished."""
  if state.run is None or other.run is None:
    return None
  one, two = (View('', s.run, figure.selection) for s in (state, other))
  if not one.predictions or not two.predictions:
    return None
  found = derived.compare(one, two)
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
  compared = [line['against']['metrics'] for line in lines if line['against']]
  for metric in lines[0]['values']:
    changes = [found[metric] for found in compared if metric in found]
    adjusted = significance.holm([change['p_value'] for change in changes])
    for change, value in zip(changes, adjusted, strict=True):
      change['p_holm'] = value


def _average(
  table: Table, average: Average, members: Sequence[tuple[State, Figure]]
) -> dict[str, Any]:
  """The mean over all cells of a group, once all of them are there."""
  there = [member for member in members if member[0].run is not None]
  reasons = [_incomparable(*member) for member in there]
  paper = {} if text.TRUSTED in reasons else average.paper
  why = next(filter(None, reasons), '')
  if len(there) < len(members):
    why = f'{len(there)} of {len(members)} cells are there'
  by_cell = [_by_seed(*member) for member in there]
  choose = max if average.over == 'best' else statistics.fmean
  values = {}
  for metric in table.metrics:
    cells = [{k: v[metric] for k, v in seeds.items()} for seeds in by_cell]
    chosen = [choose(seeds.values()) for seeds in cells]
    value = round(statistics.fmean(chosen), 4) if chosen else None
    values[metric] = {
      **{'value': value, 'low': None, 'high': None, 'fold_mean': _UNKNOWN},
      'over_seeds': _over_seeds(cells) if average.over == 'mean' else _UNKNOWN,
      **_verdict(table, metric, value, paper, why),
    }
  return {
    'cell': None,
    'label': average.label,
    **_origin(average, members[0][1].selection),
    'have': len(there),
    'need': len(members),
    'values': values,
    'against': None,
  }


def _by_seed(state: State, figure: Figure) -> dict[int, dict[str, float]]:
  """Seed -> metrics of all folds pooled, in per cent or CCC."""
  parts = collections.defaultdict(list)
  for p in View('', state.run, figure.selection).predictions:
    parts[p.seed].append(p)
  results = state.run.results
  return {k: derived.metrics_of(rows, results) for k, rows in parts.items()}


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
