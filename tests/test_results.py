"""results.json is computed from predictions, and says what it is."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxser.evaluation import metrics, results
from jaxser.evaluation.predictions import DIMENSIONS, PredictionsError
from tests import runs

ABOUT = {'system': 'timnet', 'corpus': 'emodb', 'protocol': 'published'}


def _summarise(made, **changes):
  classes = runs.CLASSES if made[0].task == 'classification' else ()
  return results.summarise(made, **{**ABOUT, 'classes': classes, **changes})


def _uar(rows):
  return 100 * reference.balanced_accuracy_score(
    [p.target for p in rows], [p.prediction for p in rows]
  )


def test_pooled_fold_mean_and_seeds_are_three_numbers():
  # Folds of unlike size and skill, so that pooling and averaging differ.
  made = [
    dataclasses.replace(p, prediction=p.target, scores=_certain(p.target))
    if p.fold == 0
    else p
    for p in runs.class_predictions(seeds=(0, 1, 2), each=24)
    if p.fold > 1 or int(p.id[-2:]) < 8
  ]
  for selection, entry in _summarise(made)['selections'].items():
    rows = [p for p in made if p.selection == selection]
    by_seed = [_uar([p for p in rows if p.seed == s]) for s in range(3)]
    by_fold = [
      _uar([p for p in rows if (p.seed, p.fold) == (s, f)])
      for s in range(3)
      for f in range(5)
    ]
    for name, values in (('over_seeds', by_seed), ('fold_mean', by_fold)):
      mean, std = np.mean(values), np.std(values, ddof=1)
      assert entry[name]['uar'] == {
        'mean': round(mean, 2),
        'std': round(std, 2),
      }
    assert [row['uar'] for row in entry['per_fold']] == [
      round(x, 2) for x in by_fold
    ]
    pooled = entry['pooled']['uar']
    assert pooled['value'] == round(_uar(rows), 2)
    assert pooled['low'] < pooled['value'] < pooled['high']
    assert abs(pooled['value'] - np.mean(by_fold)) > 1


def _certain(name):
  return [float(name == other) for other in runs.CLASSES]


def test_recall_and_confusion_equal_scikit_learn():
  made = runs.class_predictions()
  for selection, entry in _summarise(made)['selections'].items():
    rows = [p for p in made if p.selection == selection]
    pair = [p.target for p in rows], [p.prediction for p in rows]
    pooled = entry['pooled']
    for name, function, more in (
      ('war', reference.accuracy_score, {}),
      ('f1', reference.f1_score, {'average': 'macro'}),
    ):
      assert pooled[name]['value'] == round(100 * function(*pair, **more), 2)
    confusion = reference.confusion_matrix(*pair, labels=runs.CLASSES)
    assert pooled['confusion'] == confusion.tolist()
    recall = np.diagonal(confusion) / confusion.sum(1)
    assert [*pooled['recall'].values()] == pytest.approx(
      100 * recall, abs=0.005
    )
    assert [*pooled['recall']] == [*runs.CLASSES]
    assert pooled['utterances'] == 60


def test_ccc_is_that_of_the_whole_set():
  made = runs.vad_predictions(seeds=(0, 1))
  summary = _summarise(made)
  assert summary['task'] == 'regression'
  entry = summary['selections']['last']
  expected = metrics.concordance(
    [p.target for p in made], [p.prediction for p in made]
  )
  for name, value in zip(DIMENSIONS, expected, strict=True):
    assert entry['pooled'][f'ccc_{name}']['value'] == round(value, 4)
  mean = entry['pooled']['ccc_mean']
  assert mean['value'] == round(np.mean(expected), 4)
  assert mean['low'] < mean['value'] < mean['high']
  assert entry['fold_mean']['ccc_mean']['mean'] != mean['value']
  # Nothing is clipped, as far as is known, nor constant.
  assert entry['clipped'] == {}
  assert entry['constant'] == dict.fromkeys(DIMENSIONS)


def test_a_ccc_of_zero_explains_itself():
  made = [
    dataclasses.replace(p, prediction=(5.0 if i % 4 else 2.5, 1.0, 3.25))
    for i, p in enumerate(runs.vad_predictions())
  ]
  sphere = {'regions': 'octants', 'vad_range': [1.0, 5.0], 'centre': None}
  entry = _summarise(made, sphere=sphere)['selections']['last']
  assert entry['clipped'] == {'valence': 75, 'arousal': 100, 'dominance': 0}
  assert entry['constant'] == {
    'valence': None,
    'arousal': 1.0,
    'dominance': 3.25,
  }
  arousal = entry['pooled']['ccc_arousal']
  assert str([*arousal.values()]) == '[0.0, 0.0, 0.0]'  # No minus before it.


def test_regions_are_scored_as_classes():
  made = runs.vad_predictions()
  sphere = {'regions': 'octants', 'vad_range': [1.0, 5.0], 'centre': None}
  found = _summarise(made, sphere=sphere)['selections']['last']['pooled']
  octants = [
    [tuple(x >= 3 for x in values) for values in (p.target, p.prediction)]
    for p in made
  ]
  same = np.mean([target == predicted for target, predicted in octants])
  regions = found['regions']
  assert regions['accuracy']['value'] == round(100 * same, 2)
  assert regions['macro_f1']['low'] < regions['macro_f1']['high']
  assert np.shape(regions['confusion']) == (8, 8)


def test_what_is_not_defined_is_null_and_the_file_is_plain_json(tmp_path):
  made = [
    p
    for p in runs.class_predictions(selections=('last',))
    if p.speaker == '03' and p.target != 'sad'
  ]
  summary = _summarise(made)
  pooled = summary['selections']['last']['pooled']
  assert pooled['uar']['low'] is None
  assert pooled['uar']['high'] is None
  assert pooled['recall']['sad'] is None
  assert pooled['absent_classes'] == ['sad']
  assert summary['selections']['last']['over_seeds']['uar']['std'] is None
  path = tmp_path / 'results.json'
  results.write_results(path, summary)
  assert 'NaN' not in path.read_text()
  assert results.read_results(path) == summary == json.loads(path.read_text())


def test_speakers_are_counted():
  made = runs.class_predictions(selections=('last',))
  assert _summarise(made)['speakers_in_several_folds'] == 0
  shuffled = [
    dataclasses.replace(p, fold=i % 3) if p.speaker != '03' else p
    for i, p in enumerate(made)
  ]
  assert _summarise(shuffled)['speakers_in_several_folds'] == 4
  # Utterances of unknown speaker stand alone.
  summary = _summarise([dataclasses.replace(p, speaker='') for p in made])
  assert summary['interval']['speakers'] == 0
  assert summary['interval']['unknown_speakers'] == 60
  assert summary['selections']['last']['pooled']['uar']['low'] is not None


def test_what_is_given_is_kept():
  about = {
    'paper': {'last': {'source': 'the paper', 'uar': 89.19, 'war': 90.28}},
    'wall_time_s': 12.5,
    'command': 'python -m jaxser.main',
    'environment': {'jax': '0.10.2'},
    'annotators': {'count': 3},
    'demo': True,
  }
  summary = _summarise(runs.class_predictions(), **about)
  assert {name: summary[name] for name in about} == about
  assert summary['seeds'] == [0]
  assert summary['folds'] == [0, 1, 2, 3, 4]
  assert summary['utterances'] == 60


def test_predictions_that_do_not_fit_are_refused():
  made, vad = runs.class_predictions(), runs.vad_predictions()
  other = dataclasses.replace(made[0], epoch=7)
  surprise = ('angry', 'boredom', 'happy', 'surprise')
  for bad, changes, message in (
    (
      made,
      {'classes': surprise},
      "'sad' and .* do not go with classes angry, b",
    ),
    (made, {'classes': (*runs.CLASSES, 'x')}, 'do not go with .* sad, x'),
    (made, {'classes': runs.CLASSES[::-1]}, 'were they ordered differently'),
    (vad, {'classes': runs.CLASSES}, r"of regression do not go .* \['angry"),
    ([*made, *vad], {}, 'of classification and regression do not go'),
    ([*made, made[0]], {}, 'was predicted more than once'),
    (made, {'ids': ['x', *(p.id for p in made)]}, "no prediction for 'x'"),
    ([other, *made[1:]], {}, r'seed 0, fold 0, .*several epochs'),
  ):
    with pytest.raises(PredictionsError, match=message):
      _summarise(bad, **changes)
  with pytest.raises(PredictionsError, match='no prediction to summarise'):
    results.summarise([], **ABOUT)


def test_paper_rows_are_checked():
  made = runs.class_predictions()
  order = {'uar': 1.0, 'comparable': False, 'reason': 'row order not confirmed'}
  assert _summarise(made, paper={'last': order})['paper'] == {'last': order}
  for paper in (
    {'first': {'uar': 1.0}},
    {'last': {'accuracy': 1.0}},
    {'last': {'comparable': False}},
  ):
    with pytest.raises(
      PredictionsError, match=r"paper\['.*uar, war, and a reas"
    ):
      _summarise(made, paper=paper)


def test_results_of_other_predictions_are_noticed():
  made = runs.class_predictions()
  summary = _summarise(made)
  results.check_results(summary, made)
  answer = 'sad' if made[0].prediction != 'sad' else 'happy'
  wrong = dataclasses.replace(
    made[0], prediction=answer, scores=_certain(answer)
  )
  with pytest.raises(PredictionsError, match=r"disagree on selection 'last'"):
    results.check_results(summary, [wrong, *made[1:]])
  last = [p for p in made if p.selection == 'last']
  with pytest.raises(PredictionsError, match=r"on selection 'best_on_test'"):
    results.check_results(summary, last)


def test_results_files_that_are_none(tmp_path):
  path = tmp_path / 'results.json'
  with pytest.raises(PredictionsError, match=r'results.json: no such file'):
    results.read_results(path)
  for text, message in (('{"system"', 'not JSON'), ('[]', 'no results of a')):
    path.write_text(text)
    with pytest.raises(PredictionsError, match=f'results.json: {message}'):
      results.read_results(path)
