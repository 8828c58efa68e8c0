"""results.json is computed from predictions, and says what it is."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxser.evaluation import results
from jaxser.evaluation.predictions import (
  DIMENSIONS,
  Prediction,
  PredictionsError,
)
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
    p
    for p in runs.class_predictions(seeds=(0, 1, 2), each=24)
    if p.fold > 1 or int(p.id[-2:]) < 8
  ]
  made = [
    dataclasses.replace(p, prediction=p.target, scores=_certain(p.target))
    if p.fold == 0
    else p
    for p in made
  ]
  summary = _summarise(made)
  for selection in ('last', 'best_on_test'):
    rows = [p for p in made if p.selection == selection]
    entry = summary['selections'][selection]
    pooled = _uar(rows)
    by_seed = [_uar([p for p in rows if p.seed == s]) for s in range(3)]
    by_fold = [
      _uar([p for p in rows if (p.seed, p.fold) == (s, f)])
      for s in range(3)
      for f in range(5)
    ]
    assert entry['pooled']['uar']['value'] == round(pooled, 2)
    assert entry['over_seeds']['uar'] == {
      'mean': round(np.mean(by_seed), 2),
      'std': round(np.std(by_seed, ddof=1), 2),
    }
    assert entry['fold_mean']['uar'] == {
      'mean': round(np.mean(by_fold), 2),
      'std': round(np.std(by_fold, ddof=1), 2),
    }
    assert abs(pooled - np.mean(by_fold)) > 1
    assert [row['uar'] for row in entry['per_fold']] == [
      round(x, 2) for x in by_fold
    ]
    interval = entry['pooled']['uar']
    assert interval['low'] < interval['value'] < interval['high']


def _certain(name):
  return [float(name == other) for other in runs.CLASSES]


def test_accuracy_f1_recall_and_confusion_equal_scikit_learn():
  made = runs.class_predictions()
  summary = _summarise(made)
  for selection, entry in summary['selections'].items():
    rows = [p for p in made if p.selection == selection]
    targets = [p.target for p in rows]
    answers = [p.prediction for p in rows]
    pooled = entry['pooled']
    assert pooled['war']['value'] == round(
      100 * reference.accuracy_score(targets, answers), 2
    )
    assert pooled['f1']['value'] == round(
      100 * reference.f1_score(targets, answers, average='macro'), 2
    )
    assert pooled['confusion'] == (
      reference.confusion_matrix(targets, answers, labels=runs.CLASSES).tolist()
    )
    recall = 100 * reference.recall_score(
      targets, answers, labels=runs.CLASSES, average=None
    )
    assert pooled['recall'] == dict(
      zip(runs.CLASSES, recall.round(2).tolist(), strict=True)
    )
    assert pooled['utterances'] == 60


def test_ccc_is_that_of_the_whole_set():
  made = runs.vad_predictions(seeds=(0, 1))
  summary = _summarise(made)
  assert summary['task'] == 'regression'
  entry = summary['selections']['last']
  targets = np.array([p.target for p in made])
  answers = np.array([p.prediction for p in made])
  expected = []
  for i, name in enumerate(DIMENSIONS):
    t, p = targets[:, i], answers[:, i]
    ccc = (
      2
      * np.cov(t, p, bias=True)[0, 1]
      / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
    )
    expected.append(ccc)
    assert entry['pooled'][f'ccc_{name}']['value'] == round(ccc, 4)
  mean = entry['pooled']['ccc_mean']
  assert mean['value'] == round(np.mean(expected), 4)
  assert mean['low'] < mean['value'] < mean['high']
  assert entry['fold_mean']['ccc_mean']['mean'] != mean['value']


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


def test_labels_say_which_selection_is_optimistic():
  made = runs.class_predictions(
    selections=('last', 'best_on_dev', 'best_on_test')
  )
  selections = _summarise(made)['selections']
  assert list(selections) == ['last', 'best_on_dev', 'best_on_test']
  optimistic = [n for n, e in selections.items() if 'optimistic' in e['label']]
  assert optimistic == ['best_on_test']


def test_no_minus_stands_before_a_zero():
  made = [
    dataclasses.replace(p, prediction=(5.0, 1.0, 1.0 + 1e-5 * (i % 2)))
    for i, p in enumerate(runs.vad_predictions())
  ]
  pooled = _summarise(made)['selections']['last']['pooled']
  for name in ('valence', 'arousal', 'dominance', 'mean'):
    assert str(pooled[f'ccc_{name}']['value']) == '0.0'


def test_speakers_in_several_folds_are_counted():
  made = runs.class_predictions(selections=('last',))
  assert _summarise(made)['speakers_in_several_folds'] == 0
  shuffled = [
    dataclasses.replace(p, fold=i % 3) if p.speaker != '03' else p
    for i, p in enumerate(made)
  ]
  assert _summarise(shuffled)['speakers_in_several_folds'] == 4


def test_utterances_of_unknown_speaker_stand_alone():
  made = runs.class_predictions(selections=('last',))
  nameless = [dataclasses.replace(p, speaker='') for p in made]
  summary = _summarise(nameless)
  assert summary['interval']['speakers'] == 0
  assert summary['interval']['unknown_speakers'] == 60
  assert summary['selections']['last']['pooled']['uar']['low'] is not None


def test_what_is_given_is_kept():
  made = runs.class_predictions()
  summary = _summarise(
    made,
    paper={'last': {'source': 'the paper', 'uar': 89.19, 'war': 90.28}},
    wall_time_s=12.5,
    command='python -m jaxser.main',
    environment={'jax': '0.10.2'},
    demo=True,
  )
  assert summary['paper']['last']['uar'] == 89.19
  assert summary['command'] == 'python -m jaxser.main'
  assert summary['wall_time_s'] == 12.5
  assert summary['environment'] == {'jax': '0.10.2'}
  assert summary['demo'] is True
  assert summary['seeds'] == [0]
  assert summary['folds'] == [0, 1, 2, 3, 4]
  assert summary['utterances'] == 60


def test_predictions_that_do_not_fit_are_refused():
  made = runs.class_predictions()
  with pytest.raises(PredictionsError, match="'sad' is no class of angry, bor"):
    _summarise(made, classes=('angry', 'boredom', 'happy', 'surprise'))
  with pytest.raises(PredictionsError, match='4 scores for 5 classes'):
    _summarise(made, classes=(*runs.CLASSES, 'surprise'))
  with pytest.raises(
    PredictionsError, match=r'has the highest score; were the classes ordered'
  ):
    _summarise(made, classes=runs.CLASSES[::-1])
  with pytest.raises(PredictionsError, match='no prediction to summarise'):
    results.summarise([], **ABOUT)
  vad = runs.vad_predictions()
  with pytest.raises(PredictionsError, match='have no classes, got angry'):
    _summarise(vad, classes=runs.CLASSES)
  with pytest.raises(PredictionsError, match='is not a classification'):
    _summarise([*made, *vad])
  with pytest.raises(PredictionsError, match='was predicted more than once'):
    _summarise([*made, made[0]])
  with pytest.raises(PredictionsError, match="no prediction for 'missing'"):
    _summarise(made, ids=[*(p.id for p in made), 'missing'])
  other = dataclasses.replace(made[0], epoch=7)
  with pytest.raises(
    PredictionsError, match=r'seed 0, fold 0, .*several epochs'
  ):
    _summarise([other, *made[1:]])


def test_paper_rows_are_checked():
  made = runs.class_predictions()
  with pytest.raises(ValueError, match="'first' is no selection"):
    _summarise(made, paper={'first': {'uar': 1.0}})
  with pytest.raises(ValueError, match=r"unknown \['accuracy'\]; expected"):
    _summarise(made, paper={'last': {'accuracy': 1.0}})


def test_results_of_other_predictions_are_noticed():
  made = runs.class_predictions()
  summary = _summarise(made)
  results.check_results(summary, made)
  wrong = dataclasses.replace(
    made[0],
    prediction='sad' if made[0].prediction != 'sad' else 'happy',
    scores=_certain('sad' if made[0].prediction != 'sad' else 'happy'),
  )
  with pytest.raises(PredictionsError, match=r"disagree on selection 'last'"):
    results.check_results(summary, [wrong, *made[1:]])
  last = [p for p in made if p.selection == 'last']
  with pytest.raises(PredictionsError, match=r"predictions.jsonl \['last'\]"):
    results.check_results(summary, last)


def test_results_files_that_are_none(tmp_path):
  path = tmp_path / 'results.json'
  with pytest.raises(PredictionsError, match=r'results.json: no such file'):
    results.read_results(path)
  path.write_text('{"system"')
  with pytest.raises(PredictionsError, match=r'results.json: not JSON'):
    results.read_results(path)
  path.write_text('[]')
  with pytest.raises(PredictionsError, match=r'no results of a run, lacks'):
    results.read_results(path)


def test_many_seeds_and_selections_take_seconds():
  made = [
    Prediction(s, i % 10, 'last', 5, f'u{i}', f's{i % 10}', *pair)
    for s in range(10)
    for i in range(535)
    for pair in [('angry', 'sad', _certain('sad'))]
  ]
  summary = _summarise(made)
  assert summary['selections']['last']['pooled']['war']['value'] == 0
  assert summary['selections']['last']['pooled']['utterances'] == 535
