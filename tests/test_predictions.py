"""predictions.jsonl: same bytes, exact reading, and what a bad line says."""

import dataclasses
import json

import numpy as np
import pytest

from jaxser.evaluation import predictions
from jaxser.evaluation.predictions import Prediction, PredictionsError
from tests import runs


def _one(**changes):
  fields = {
    'seed': 0,
    'fold': 3,
    'selection': 'last',
    'epoch': 500,
    'id': '03a01Wa',
    'speaker': '03',
    'target': 'angry',
    'prediction': 'sad',
    'scores': [0.25, 0.75],
  }
  return Prediction(**{**fields, **changes})


def test_line_is_as_documented(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  predictions.write_predictions(path, [_one()])
  assert path.read_text() == (
    '{"seed": 0, "fold": 3, "selection": "last", "epoch": 500, '
    '"id": "03a01Wa", "speaker": "03", "target": "angry", '
    '"prediction": "sad", "scores": [0.25, 0.75]}\n'
  )
  row = _one(
    target=[1, 2.5, 3], prediction=np.float32([1, 2, 1 / 3]), scores=None
  )
  assert json.loads(row.to_json()) == {
    'seed': 0,
    'fold': 3,
    'selection': 'last',
    'epoch': 500,
    'id': '03a01Wa',
    'speaker': '03',
    'target': [1.0, 2.5, 3.0],
    'prediction': [1.0, 2.0, 0.333333],
  }


@pytest.mark.parametrize('make', [runs.class_predictions, runs.vad_predictions])
def test_what_is_read_equals_what_was_written(tmp_path, make):
  made = make(seeds=(0, 1))
  path = tmp_path / 'predictions.jsonl'
  predictions.write_predictions(path, made)
  assert predictions.read_predictions(path) == predictions.ordered(made)
  before = path.read_bytes()
  predictions.write_predictions(path, predictions.read_predictions(path))
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['predictions.jsonl']


def test_bytes_do_not_depend_on_the_order_of_runs(tmp_path):
  made = runs.class_predictions(seeds=(0, 1))
  by_fold = sorted(made, key=lambda p: (p.fold, -p.seed, p.selection))
  first, second = tmp_path / 'a', tmp_path / 'b'
  predictions.write_predictions(first, made)
  predictions.write_predictions(second, by_fold)
  assert first.read_bytes() == second.read_bytes()
  rows = predictions.read_predictions(first)
  assert [r.selection for r in rows[:61]] == ['last'] * 60 + ['best_on_test']
  assert [r.id for r in rows[:3]] == ['03a00', '03a01', '03a02']


def test_numbers_have_six_significant_digits():
  made = _one(scores=[1 / 3, 1.23456789e-7, np.float32(0.1)], fold=np.int64(3))
  assert made == Prediction.from_json(made.to_json())
  assert made.scores == (0.333333, 1.23457e-07, 0.1)


def test_unusual_names_survive(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  names = [
    'Übung 1',
    'a\u2028b',
    'c"d\\e',
    '<script>',
    'tab\there',
    'new\nline',
  ]
  made = [_one(id=name) for name in names]
  predictions.write_predictions(path, made)
  assert predictions.read_predictions(path) == made


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': -1}, r'"seed" is -1, expected a whole number from 0'),
    ({'fold': 1.5}, r'"fold" is 1.5, expected a whole number'),
    ({'fold': True}, r'"fold" is True'),
    ({'epoch': 'last'}, r'"epoch" is \'last\', .* or null'),
    (
      {'selection': 'best'},
      r'"selection" is \'best\', expected one of last, b',
    ),
    ({'id': ''}, r'"id" is \'\', expected the name of an utterance'),
    ({'speaker': 3}, r'"speaker" is 3, expected a name'),
    ({'target': ''}, r'"target" is \'\''),
    ({'prediction': [1, 2, 3]}, r'"prediction" is .* as the target is one'),
    ({'scores': None}, r'"scores" is None, expected one finite number'),
    ({'scores': [0.5, float('nan')]}, r'"scores" is .*nan.*all finite'),
    ({'target': [1, 2]}, r'"target" is \[1, 2\], expected .* three numbers'),
    ({'target': [1, 2, 3]}, r'"prediction" is \'sad\', expected three numbers'),
    (
      {'target': [1, 2, 3], 'prediction': [1, 2, float('inf')]},
      r'"prediction" is .*inf.*all finite',
    ),
    (
      {'target': [1, 2, 3], 'prediction': [1, 2, 3]},
      r'"scores" is .* expected absent',
    ),
  ],
)
def test_a_wrong_field_is_named_with_its_value(changes, message):
  with pytest.raises(PredictionsError, match=message):
    _one(**changes)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"seed": 0, "fo', r'not JSON'),
    ('', r'not JSON'),
    ('[1, 2]', r'expected a JSON object, got list'),
    ('{"seed": 0, "speed": 1}', r"missing fields \['fold', .*\['speed'\]"),
    (_one().to_json().replace('"last"', '"lost"'), r'"selection" is \'lost\''),
    (_one().to_json().replace('0.75', 'NaN'), r'"scores" is \[0.25, nan\]'),
  ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, message):
  path = tmp_path / 'predictions.jsonl'
  path.write_text(f'{_one().to_json()}\n{line}\n')
  with pytest.raises(PredictionsError, match=message) as caught:
    predictions.read_predictions(path)
  assert str(caught.value).startswith(f'{path}:2: ')
  assert 'start the command' in str(caught.value)


def test_missing_empty_and_binary_files(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  with pytest.raises(PredictionsError, match=r'jsonl: no such file; the run'):
    predictions.read_predictions(path)
  path.write_bytes(b'')
  with pytest.raises(PredictionsError, match=r'jsonl: holds no prediction'):
    predictions.read_predictions(path)
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(PredictionsError, match=r'jsonl: not UTF-8 text'):
    predictions.read_predictions(path)


def test_every_utterance_once():
  made = runs.class_predictions(seeds=(0, 1))
  ids = {p.id for p in made}
  predictions.check_once(made)
  predictions.check_once(made, ids)

  with pytest.raises(
    PredictionsError, match=r"'03a00' was predicted more than"
  ):
    predictions.check_once([*made, made[0]])
  moved = dataclasses.replace(made[0], fold=4)
  with pytest.raises(PredictionsError, match=r'its folds overlap'):
    predictions.check_once([*made, moved])
  # Across corpora every fold tests everything.
  again = [dataclasses.replace(p, fold=p.fold + 5) for p in made]
  predictions.check_once([*made, *again], ids)
  with pytest.raises(
    PredictionsError,
    match=r"seed 0, selection last: no prediction for '03a00', '03a01'$",
  ):
    predictions.check_once(made[2:])
  with pytest.raises(PredictionsError, match=r"no prediction for 'z1'"):
    predictions.check_once(made, ids | {'z1'})
  with pytest.raises(PredictionsError, match=r"does not test: '03a00'"):
    predictions.check_once(made, ids - {'03a00'})
  other = dataclasses.replace(made[-1], target='angry')
  with pytest.raises(PredictionsError, match=r'of different corpora'):
    predictions.check_once([*made[:-1], other])


def test_many_missing_utterances_are_counted_not_listed():
  made = runs.class_predictions(selections=('last',))
  ids = [f'x{i:03d}' for i in range(100)]
  with pytest.raises(PredictionsError, match=r"'x004' and 95 more"):
    predictions.check_once(made, [*ids, *(p.id for p in made)])
