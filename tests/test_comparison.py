"""The page of several runs: what it says is what the predictions say."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jaxser.core import command_line
from jaxser.evaluation import significance
from jaxser.evaluation.predictions import Prediction, PredictionsError
from jaxser.report import __main__ as command
from jaxser.report import derived, pages
from jaxser.report import run as run_lib
from tests import runs
from tests.runs import cells, section, words


def report(*arguments):
  """Runs `python -m jaxser.report`; returns the exit code."""
  argv = list(map(str, arguments))
  return command_line.run(
    command.main, command.FLAGS, argv, positional='WORKDIR'
  )


def _better(predictions):
  """Half of the wrong predictions made right."""
  rng = np.random.default_rng(5)
  made = []
  for p in predictions:
    if p.prediction != p.target and rng.random() < 0.5:
      scores = list(p.scores)
      i, j = (runs.CLASSES.index(x) for x in (p.prediction, p.target))
      scores[i], scores[j] = scores[j], scores[i]
      p = dataclasses.replace(p, prediction=p.target, scores=scores)
    made.append(p)
  return made


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Three runs over classes, one of them on fewer utterances."""
  root = tmp_path_factory.mktemp('runs')
  chosen = ('last', 'best_on_dev')
  base = runs.class_predictions(seeds=(0, 1), selections=chosen)
  runs.write_run(root / 'plain', base)
  runs.write_run(root / 'better', _better(base), system='dsnet')
  fewer = [p for p in base if not p.id.endswith('a00')]
  runs.write_run(root / 'fewer', fewer, environment={'jax': '0.12.0'})
  config = {'system': 'dsnet', 'optimizer': {'learning_rate': 0.01}}
  (root / 'better/config.json').write_text(json.dumps(config))
  return [root / name for name in ('plain', 'better', 'fewer')]


@pytest.fixture(scope='module')
def page(folders, tmp_path_factory):
  out = tmp_path_factory.mktemp('page') / 'page.html'
  assert pages.write_comparison(folders, out) == out
  return out.read_text('utf-8')


def test_page_has_every_part_and_says_what_differs(page):
  assert re.findall('<section id="([^"]*)"', page) == [
    *('results', 'differences', 'recall', 'confusion', 'speakers'),
    *('calibration', 'curves', 'config', 'environment', 'rerun'),
  ]
  assert cells(page, 'config')[:3] == [
    ['field', 'plain', 'better', 'fewer'],
    ['system', 'timnet', 'dsnet', 'timnet'],
    ['optimizer.learning_rate', '0.001', '0.01', '0.001'],
  ]
  assert ['jax', '0.10.2', '0.10.2', '0.12.0'] in cells(page, 'environment')
  assert len(section(page, 'rerun').findall('.//pre')) == 3


def test_results_are_those_of_every_run(page, folders):
  rows = [r for r in cells(page, 'results') if r[0] != 'run']
  for selection, part in (('last', rows[:3]), ('best_on_dev', rows[3:])):
    for row, folder in zip(part, folders, strict=True):
      results = json.loads((folder / 'results.json').read_text())
      pooled = results['selections'][selection]['pooled']
      size = f'{pooled["utterances"]} utterances'
      assert row[0] == f'{folder.name} {size}'
      assert row[1:] == [
        f'{x["value"]:.2f} {x["low"]:.2f} to {x["high"]:.2f}'
        for x in (pooled[m] for m in ('uar', 'war', 'f1'))
      ]


def test_differences_are_paired_and_on_common_utterances(page, folders):
  views = run_lib.read_views(folders)
  assert {view.selection for view in views} == {'best_on_dev'}
  found = [
    significance.compare(
      view.predictions, views[0].predictions, runs.CLASSES, runs.CLASSES
    )
    for view in views[1:]
  ]
  rows = cells(page, 'differences')[1:]
  assert rows[0][0] == 'better 60 utterances'
  assert rows[3][0] == 'fewer 55 utterances'
  for i, comparison in enumerate(found):
    for j, metric in enumerate(('uar', 'war', 'f1')):
      change = comparison.changes[metric]
      _, _, both, difference, _ = rows[3 * i + j]
      assert both == f'{change.first:.2f} {change.second:.2f}'
      value = float(difference.split()[0].replace('\N{MINUS SIGN}', '-'))
      assert value == pytest.approx(change.value, abs=0.005)
  significance.adjust(found)
  adjusted = found[0].changes['uar'].p_holm
  assert float(rows[0][4]) == pytest.approx(adjusted, abs=5e-4)
  told = words(section(page, 'differences'))
  assert 'fewer and plain have 55 utterances in common' in told
  assert '0 only fewer tested, 5 only plain' in told


def test_speakers_are_scored_on_their_own(page, folders):
  view = run_lib.read_views(folders)[0]
  found = derived.scores_by(view)
  assert list(found) == list(runs.SPEAKERS)
  for name, scores in found.items():
    own = [p for p in view.predictions if p.speaker == name]
    right = np.array([p.target == p.prediction for p in own])
    assert scores['war'] == pytest.approx(100 * right.mean())
    recalls = [right[[p.target == c for p in own]].mean() for c in runs.CLASSES]
    assert scores['uar'] == pytest.approx(100 * np.mean(recalls))
    assert scores['utterances'] == 12
  worst = min(found, key=lambda name: found[name]['uar'])
  lowest = f'plain: UAR from {found[worst]["uar"]:.2f} ({worst}) to'
  assert lowest in words(section(page, 'speakers'))
  rows = cells(page, 'speakers')
  assert rows[0][2:4] == ['plain: UAR', 'plain: WAR']
  assert [row[0] for row in rows[1:]] == list(runs.SPEAKERS)


def test_calibration_error_by_hand():
  def sure(confidence, right):
    scores = (confidence, *[(1 - confidence) / 3] * 3)
    target = runs.CLASSES[0 if right else 1]
    about = (0, 0, 'last', 1, 'x', 's', target, runs.CLASSES[0])
    return Prediction(*about, scores)

  made = [sure(0.95, True), sure(0.95, False)]  # 95 % sure, half right.
  made += [sure(0.55, True), sure(0.55, True)]  # 55 % sure, all right.
  found = derived.reliability(made)
  assert [(n, right) for n, _, right in found.bins] == [(2, 1), (2, 0.5)]
  assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
  assert found.excess == pytest.approx(0)
  certain = derived.reliability([sure(1.0, True)])
  assert (certain.ece, certain.bins) == (0, [(1, 1.0, 1.0)])
  assert derived.reliability([sure(0.9, False)]).excess == pytest.approx(0.9)


def test_most_honest_common_selection_is_compared(tmp_path):
  made = {
    'dev': ('last', 'best_on_dev', 'best_on_test'),
    'last': ('last', 'best_on_test'),
    'test': ('best_on_test',),
    'given': ('init_from',),
  }
  for name, chosen in made.items():
    runs.write_run(tmp_path / name, runs.class_predictions(selections=chosen))

  def chosen(*names):
    views = run_lib.read_views([tmp_path / name for name in names])
    return [view.selection for view in views]

  assert chosen('dev', 'last') == ['last', 'last']
  assert chosen('dev', 'test') == ['best_on_test', 'best_on_test']
  assert chosen('dev', 'given') == ['best_on_dev', 'init_from']
  out = tmp_path / 'out.html'
  pages.write_comparison([tmp_path / 'dev', tmp_path / 'given'], out)
  assert 'No selection is common to all runs' in out.read_text()
  with pytest.raises(PredictionsError, match="no selection 'best_on_dev'; it"):
    run_lib.read_views([tmp_path / 'dev', tmp_path / 'last'], 'best_on_dev')


def test_runs_are_told_apart_by_as_much_path_as_it_takes(tmp_path):
  paths = [tmp_path / 'a/w', tmp_path / 'b/w', tmp_path / 'b/x']
  assert run_lib.names_of(paths) == ['a/w', 'b/w', 'b/x']
  assert run_lib.names_of(paths[1:]) == ['w', 'x']
  with pytest.raises(PredictionsError, match=r'same run is given twice: .*b/x'):
    run_lib.names_of([*paths, paths[-1]])


def test_runs_of_different_tasks_share_a_page(tmp_path, folders):
  runs.write_run(tmp_path / 'vad', runs.vad_predictions(), system='emosphere')
  out = tmp_path / 'page.html'
  pages.write_comparison([folders[0], tmp_path / 'vad'], out)
  page = out.read_text('utf-8')
  told = words(section(page, 'differences'))
  assert 'vad is not compared with plain: one predicts classes' in told
  assert 'ccc' not in words(section(page, 'confusion')).lower()
  assert section(page, 'scatter') is not None


def test_command_line(folders, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  pair = folders[:2]
  assert report(*pair) == 0
  assert capsys.readouterr().out.strip() == 'comparison.html'
  assert report(*pair, '--out=x/p.html', '--selection=last') == 0
  first = (tmp_path / 'x/p.html').read_text()
  assert '; last</li>' in first
  assert report(*pair, '--out=x/p.html', '--selection=last') == 0
  assert (tmp_path / 'x/p.html').read_text() == first
  more = ('--out=one.html', f'--baseline={pair[1]}')
  assert report(pair[0], *more) == 0
  assert 'Dashed: better (dsnet on' in (tmp_path / 'one.html').read_text()
  assert report('--help') == 0
  for arguments, message in (
    ([pair[0], 'none'], 'results.json: no such file'),
    ([*pair, '--selection=init_from'], "has no selection 'init_from'"),
    ([pair[0], '--selection=last'], 'the page of one has all'),
    ([pair[0], f'--out={tmp_path}'], 'cannot be written (Is a directory);'),
    ([pair[0], '--into=README.md'], 'README.md#NAME'),
    ([*pair, f'--baseline={pair[0]}'], 'is for the page of one run'),
    ([*pair, '--into=a.md#t', '--out=b.html'], 'give one of them'),
  ):
    assert report(*arguments) == 2
    assert message in capsys.readouterr().err
