"""The page of several runs: what it says is what the predictions say."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxser.evaluation import significance
from jaxser.evaluation.predictions import Prediction, PredictionsError
from jaxser.report import __main__ as command
from jaxser.report import calibration, comparison, named, speakers
from tests import runs

SVG = '{http://www.w3.org/2000/svg}'


def _better(predictions, share=0.5):
  """Some of the wrong answers made right."""
  rng = np.random.default_rng(5)
  made = []
  for p in predictions:
    if p.prediction != p.target and rng.random() < share:
      scores = list(p.scores)
      i, j = (runs.CLASSES.index(x) for x in (p.prediction, p.target))
      scores[i], scores[j] = scores[j], scores[i]
      p = type(p)(**{**vars(p), 'prediction': p.target, 'scores': scores})
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
  assert comparison.write_comparison(folders, out) == out
  return out


def _tree(page):
  return ElementTree.fromstring(page.read_text('utf-8'))


def _section(page, anchor):
  return _tree(page).find(f".//section[@id='{anchor}']")


def _cells(page, anchor):
  return [
    [' '.join(' '.join(cell.itertext()).split()) for cell in row]
    for row in _section(page, anchor).iter('tr')
  ]


def _words(node):
  return ' '.join(' '.join(node.itertext()).split())


def test_page_is_whole_and_asks_for_nothing(page):
  tree = _tree(page)
  ids = [x.get('id') for x in tree.iter() if x.get('id')]
  assert len(ids) == len(set(ids))
  assert {x.get('href') for x in tree.iter('a')} <= {f'#{i}' for i in ids}
  tags = {x.tag for x in tree.iter()}
  assert not tags & {'script', 'img', 'iframe', 'object'}
  anchors = [x.get('id') for x in tree.iter('section')]
  assert anchors == [
    'results',
    'differences',
    'recall',
    'confusion',
    'speakers',
    'calibration',
    'curves',
    'config',
    'environment',
    'rerun',
  ]
  for svg in tree.iter(f'{SVG}svg'):
    if svg.get('role') == 'img':
      assert re.search(r'\d', svg.find(f'{SVG}desc').text)


def test_results_are_those_of_every_run(page, folders):
  rows = [r for r in _cells(page, 'results') if r[0] != 'run']
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
  plain, better, fewer = named.read_named(folders)
  assert {each.selection for each in (plain, better, fewer)} == {'best_on_dev'}
  found = [
    significance.compare(each.chosen, plain.chosen, runs.CLASSES, runs.CLASSES)
    for each in (better, fewer)
  ]
  rows = _cells(page, 'differences')[1:]
  assert rows[0][0] == 'better 60 utterances'
  assert rows[3][0] == 'fewer 55 utterances'
  shown = [row[-4:] for row in rows]
  for i, comparison_of in enumerate(found):
    for j, metric in enumerate(('uar', 'war', 'f1')):
      change = comparison_of.changes[metric]
      name, both, difference, _ = shown[3 * i + j]
      assert name == {'uar': 'UAR', 'war': 'WAR', 'f1': 'macro F1'}[metric]
      assert both == f'{change.first:.2f} {change.second:.2f}'
      value = float(difference.split()[0].replace('\N{MINUS SIGN}', '-'))
      assert value == pytest.approx(change.value, abs=0.005)
  assert float(shown[0][2].split()[0]) > 0
  adjusted = significance.holm([c.changes['uar'].p_value for c in found])
  assert float(shown[0][3]) == pytest.approx(adjusted[0], abs=5e-4)
  told = _words(_section(page, 'differences'))
  assert 'fewer and plain have 55 utterances in common' in told
  assert '0 only fewer tested, 5 only plain' in told


def test_speakers_are_scored_on_their_own(folders):
  each = named.read_named(folders)[0]
  found, sizes = speakers.scores(each.chosen, runs.CLASSES)
  assert list(found) == list(runs.SPEAKERS)
  assert set(sizes.values()) == {12}
  for name, values in found.items():
    mine = [p for p in each.chosen if p.speaker == name]
    right = np.array([p.target == p.prediction for p in mine])
    assert values['war'] == pytest.approx(100 * right.mean())
    recalls = [
      right[[p.target == c for p in mine]].mean() for c in runs.CLASSES
    ]
    assert values['uar'] == pytest.approx(100 * np.mean(recalls))
  told = speakers.extremes(found, 'classification')
  worst = min(found, key=lambda name: found[name]['uar'])
  assert f'({worst}) to' in told


def test_speaker_table_shows_every_run(page, folders):
  rows = _cells(page, 'speakers')
  assert rows[0][2:] == [
    f'{folder.name}: {metric}'
    for folder in folders
    for metric in ('UAR', 'WAR')
  ]
  assert [row[0] for row in rows[1:]] == list(runs.SPEAKERS)


def _sure(confidence, right):
  rest = (1 - confidence) / 3
  scores = [confidence, rest, rest, rest]
  target = runs.CLASSES[0 if right else 1]
  return Prediction(
    0, 0, 'last', 1, 'x', 's', target, runs.CLASSES[0], tuple(scores)
  )


def test_calibration_error_by_hand():
  made = [_sure(0.95, True), _sure(0.95, False)]  # 95 % sure, half right.
  made += [_sure(0.55, True), _sure(0.55, True)]  # 55 % sure, all right.
  found = calibration.reliability(made)
  assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
  assert found.accuracy[[5, 9]].tolist() == [1, 0.5]
  assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
  assert found.excess == pytest.approx(0)
  assert calibration.told(found).startswith('ECE 45.0 per cent')


def test_calibrated_and_certain_predictions():
  whole = calibration.reliability([_sure(1.0, True)])
  assert (whole.ece, whole.counts[-1]) == (0, 1)
  sure = calibration.reliability([_sure(0.9, False)])
  assert sure.excess == pytest.approx(0.9)
  assert 'too sure by 90.0 points' in calibration.told(sure)


def test_configs_and_environments_show_what_differs(page):
  rows = _cells(page, 'config')
  assert rows[:3] == [
    ['field', 'plain', 'better', 'fewer'],
    ['system', 'timnet', 'dsnet', 'timnet'],
    ['optimizer.learning_rate', '0.001', '0.01', '0.001'],
  ]
  environment = _cells(page, 'environment')
  assert ['jax', '0.10.2', '0.10.2', '0.12.0'] in environment
  assert len(_section(page, 'rerun').findall('.//pre')) == 3


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
    read = named.read_named([tmp_path / name for name in names])
    return [each.selection for each in read]

  assert chosen('dev', 'last') == ['last', 'last']
  assert chosen('dev', 'test') == ['best_on_test', 'best_on_test']
  assert chosen('dev', 'given') == ['best_on_dev', 'init_from']
  out = tmp_path / 'out.html'
  comparison.write_comparison([tmp_path / 'dev', tmp_path / 'given'], out)
  assert 'No selection is common to all runs' in out.read_text()
  with pytest.raises(PredictionsError, match="no selection 'best_on_dev'; it"):
    named.read_named([tmp_path / 'dev', tmp_path / 'last'], 'best_on_dev')


def test_runs_are_told_apart_by_as_much_path_as_it_takes(tmp_path):
  paths = [tmp_path / 'a/w', tmp_path / 'b/w', tmp_path / 'b/x']
  assert named.names_of(paths) == ['a/w', 'b/w', 'b/x']
  assert named.names_of(paths[1:]) == ['w', 'x']
  with pytest.raises(PredictionsError, match=r'same run is given twice: .*b/x'):
    named.names_of([*paths, paths[-1]])


def test_runs_of_different_tasks_share_a_page(tmp_path, folders):
  runs.write_run(tmp_path / '<vad>', runs.vad_predictions(), system='emosphere')
  out = tmp_path / 'page.html'
  comparison.write_comparison([folders[0], tmp_path / '<vad>'], out)
  told = _words(_section(out, 'differences'))
  assert '<vad> is not compared with plain: one predicts classes' in told
  assert 'ccc' not in _words(_section(out, 'confusion')).lower()
  assert '<vad>' not in out.read_text()
  assert _section(out, 'scatter') is not None


def test_command_line(folders, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  pair = [str(folder) for folder in folders[:2]]
  assert command.main(pair) == 0
  assert capsys.readouterr().out.strip() == 'comparison.html'
  assert 'Last epoch' in (tmp_path / 'comparison.html').read_text()
  assert command.main([*pair, '--out=x/p.html', '--selection=last']) == 0
  first = (tmp_path / 'x/p.html').read_text()
  assert '; last</li>' in first
  assert command.main([*pair, '--out=x/p.html', '--selection=last']) == 0
  assert (tmp_path / 'x/p.html').read_text() == first
  assert command.main([pair[0], '--out=one.html']) == 0
  assert 'id="calibration"' in (tmp_path / 'one.html').read_text()
  assert command.main([pair[0], str(tmp_path / 'none')]) == 2
  assert 'results.json: no such file' in capsys.readouterr().err
  assert command.main([*pair, '--selection=init_from']) == 2
  assert "has no selection 'init_from'" in capsys.readouterr().err
