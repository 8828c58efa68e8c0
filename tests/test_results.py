"""results.json is computed from predictions, and says what it is."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxser.core import files
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


def _certain(p, name):
  """The prediction of one class with certainty."""
  scores = [float(name == other) for other in runs.CLASSES]
  return dataclasses.replace(p, prediction=name, scores=scores)


def test_pooled_fold_mean_and_seeds_are_three_numbers():
  # Folds of unlike size and skill, so that pooling and averaging differ.
  made = [
    p if p.fold else _certain(p, p.target)
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
      mean, std = round(np.mean(values), 2), round(np.std(values, ddof=1), 2)
      assert entry[name]['uar'] == {'mean': mean, 'std': std}
    shown = [row['uar'] for row in entry['per_fold']]
    assert shown == [round(x, 2) for x in by_fold]
    pooled = entry['pooled']
    uar = pooled['uar']
    assert uar['value'] == round(_uar(rows), 2)
    assert uar['low'] < uar['value'] < uar['high']
    assert abs(uar['value'] - np.mean(by_fold)) > 1
    pair = [p.target for p in rows], [p.prediction for p in rows]
    confusion = reference.confusion_matrix(*pair, labels=runs.CLASSES)
    assert pooled['confusion'] == confusion.tolist()
    recall = 100 * np.diagonal(confusion) / confusion.sum(1)
    shown = dict(zip(runs.CLASSES, recall, strict=True))
    assert pooled['recall'] == pytest.approx(shown, abs=0.005)
    war, f1 = (pooled[name]['value'] for name in ('war', 'f1'))
    assert war == round(100 * reference.accuracy_score(*pair), 2)
    assert f1 == round(100 * reference.f1_score(*pair, average='macro'), 2)


def test_ccc_is_that_of_the_whole_set():
  made = runs.vad_predictions(seeds=(0, 1))
  entry = _summarise(made)['selections']['last']
  pair = [p.target for p in made], [p.prediction for p in made]
  expected = metrics.concordance(*pair)
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
  entry = _summarise(made, sphere=runs.SPHERE)['selections']['last']
  assert entry['clipped'] == {'valence': 75, 'arousal': 100, 'dominance': 0}
  assert [*entry['constant'].values()] == [None, 1.0, 3.25]
  arousal = entry['pooled']['ccc_arousal']
  assert str([*arousal.values()]) == '[0.0, 0.0, 0.0]'  # No minus before it.


def test_regions_are_scored_as_classes():
  made = runs.vad_predictions()
  entry = _summarise(made, sphere=runs.SPHERE)['selections']['last']
  target, predicted = (
    np.array([getattr(p, name) for p in made]) >= 3
    for name in ('target', 'prediction')
  )
  regions = entry['pooled']['regions']
  accuracy = 100 * (target == predicted).all(-1).mean()
  assert regions['accuracy']['value'] == round(accuracy, 2)
  assert regions['macro_f1']['low'] < regions['macro_f1']['high']
  assert np.shape(regions['confusion']) == (8, 8)


def test_what_is_not_defined_is_null_and_the_file_is_plain_json(tmp_path):
  made = [
    p
    for p in runs.class_predictions(selections=('last',))
    if p.speaker == '03' and p.target != 'sad'
  ]
  summary = _summarise(made)
  entry = summary['selections']['last']
  pooled = entry['pooled']
  assert pooled['uar']['low'] is pooled['uar']['high'] is None
  assert pooled['recall']['sad'] is None
  assert pooled['absent_classes'] == ['sad']
  assert entry['over_seeds']['uar']['std'] is None
  path = tmp_path / 'results.json'
  files.write_json(path, summary)
  assert 'NaN' not in path.read_text()
  assert results.read_results(path) == summary == json.loads(path.read_text())


def test_speakers_are_counted():
  made = runs.class_predictions(selections=('last',))
  assert _summarise(made)['speakers_in_several_folds'] == 0
  shuffled = [
    p if p.speaker == '03' else dataclasses.replace(p, fold=i % 3)
    for i, p in enumerate(made)
  ]
  assert _summarise(shuffled)['speakers_in_several_folds'] == 4
  # Utterances of unknown speaker stand alone.
  summary = _summarise([dataclasses.replace(p, speaker='') for p in made])
  interval = summary['interval']
  assert (interval['speakers'], interval['unknown_speakers']) == (0, 60)
  assert summary['selections']['last']['pooled']['uar']['low'] is not None


def test_what_is_given_is_kept():
  about = {
    'paper': {
      'last': {'source': 'the paper', 'uar': 89.19, 'war': 90.28},
      'best_on_test': {'uar': 1.0, 'comparable': False, 'reason': 'rows'},
    },
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
    ([other, *made[1:]], {}, r'seed 0, fold 0, .*several epochs'),
    *(
      (made, {'paper': paper}, r"paper\['.*uar, war, and a reason")
      for paper in (
        {'first': {'uar': 1.0}},
        {'last': {'accuracy': 1.0}},
        {'last': {'comparable': False}},
      )
    ),
  ):
    with pytest.raises(PredictionsError, match=message):
      _summarise(bad, **changes)
  with pytest.raises(PredictionsError, match='no prediction to summarise'):
    results.summarise([], **ABOUT)


def test_other_predictions_and_files_that_are_no_results_are_noticed(tmp_path):
  made = runs.class_predictions()
  summary = _summarise(made)
  results.check_results(summary, made)
  answer = 'sad' if made[0].prediction != 'sad' else 'happy'
  wrong = _certain(made[0], answer)
  with pytest.raises(PredictionsError, match=r"disagree on selection 'last'"):
    results.check_results(summary, [wrong, *made[1:]])
  last = [p for p in made if p.selection == 'last']
  with pytest.raises(PredictionsError, match=r"on selection 'best_on_test'"):
    results.check_results(summary, last)
  path = tmp_path / 'results.json'
  with pytest.raises(PredictionsError, match=r'^\S+results.json: no such file'):
    results.read_results(path)
  for text, message in (('{"system"', 'not JSON'), ('[]', 'no results of a')):
    path.write_text(text)
    with pytest.raises(PredictionsError, match=f'results.json: {message}'):
      results.read_results(path)
