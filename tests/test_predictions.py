"""predictions.jsonl: same bytes, exact reading, and what a bad line says."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jaxser.evaluation import predictions
from jaxser.evaluation.predictions import Prediction, PredictionsError
from tests import runs

VAD = {'target': [1, 2.5, 3], 'prediction': [1, 2, 1 / 3], 'scores': None}


def _one(**changes):
  pair = 'angry', 'sad'
  one = Prediction(0, 3, 'last', 500, '03a01Wa', '03', *pair, [0.25, 0.75])
  return dataclasses.replace(one, **changes)


def test_line_is_as_documented(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  predictions.write_predictions(path, [_one()])
  assert path.read_text() == (
    '{"seed": 0, "fold": 3, "selection": "last", "epoch": 500, '
    '"id": "03a01Wa", "speaker": "03", "target": "angry", '
    '"prediction": "sad", "scores": [0.25, 0.75]}\n'
  )
  line = json.loads(_one(**VAD, fold=np.int64(3)).to_json())
  assert line['prediction'] == [1.0, 2.0, 0.333333]  # Six significant digits.
  assert 'scores' not in line


@pytest.mark.parametrize('make', [runs.class_predictions, runs.vad_predictions])
def test_what_is_read_equals_what_was_written(tmp_path, make):
  made = make(seeds=(0, 1))
  path = tmp_path / 'predictions.jsonl'
  predictions.write_predictions(path, made)
  again = predictions.read_predictions(path)
  assert again == predictions.ordered(made)
  before = path.read_bytes()
  predictions.write_predictions(path, again)
  assert path.read_bytes() == before
  # Nor do the bytes depend on the order in which folds ended.
  by_fold = sorted(made, key=lambda p: (p.fold, -p.seed, p.selection))
  predictions.write_predictions(path, by_fold)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['predictions.jsonl']


def test_unusual_names_survive(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  names = ['Übung 1', 'a\u2028b', 'c"d\\e', '<b>', 'tab\there', 'new\nline']
  # Two blanks, a no-break space, and a GBK name as os.fsdecode gives it.
  names += ['clip  0', 'clip 0', 'clip\xa00', '\udcc9\udcfa\udcc6\udcf8.wav']
  made = [_one(id=name, speaker=name) for name in names]
  predictions.write_predictions(path, made)
  assert predictions.read_predictions(path) == made
  path.read_text('utf-8')  # All of it is valid text.


def test_a_wrong_field_is_named_with_its_value():
  for name, value, others in (
    ('seed', -1, {}),
    ('fold', 1.5, {}),
    ('fold', True, {}),
    ('epoch', 'last', {}),
    ('selection', 'best', {}),
    ('id', '', {}),
    ('speaker', 3, {}),
    ('target', '', {}),
    ('prediction', [1, 2, 3], {}),
    ('scores', None, {}),
    ('scores', [0.5, float('nan')], {}),
    ('target', [1, 2], VAD),
    ('prediction', 'sad', VAD),
    ('prediction', [1, 2, float('inf')], VAD),
    ('scores', [1.0], VAD),
  ):
    message = re.escape(f'"{name}" is {value!r}, which cannot be in a')
    with pytest.raises(PredictionsError, match=message):
      _one(**{**others, name: value})


def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path):
  path, good = tmp_path / 'predictions.jsonl', _one().to_json()
  with pytest.raises(PredictionsError, match=r'jsonl: no such file; the run'):
    predictions.read_predictions(path)
  for content, message in ((b'', 'holds no'), (b'\xff\xfe', 'not UTF-8 text')):
    path.write_bytes(content)
    with pytest.raises(PredictionsError, match=f'jsonl: {message}'):
      predictions.read_predictions(path)
  for line, message in (
    ('{"seed": 0, "fo', r'not JSON'),
    ('', r'not JSON'),
    ('[1, 2]', r'expected an object with seed, .*scores, got \[1, 2\]'),
    ('{"seed": 0, "speed": 1}', r'expected .* got \{"seed": 0, "speed": 1\}'),
    (good.replace('"last"', '"lost"'), r'"selection" is \'lost\''),
    (good.replace('0.75', 'NaN'), r'"scores" is \[0.25, nan\]'),
  ):
    path.write_text(f'{good}\n{line}\n')
    with pytest.raises(PredictionsError, match=message) as caught:
      predictions.read_predictions(path)
    assert str(caught.value).startswith(f'{path}:2: ')
    assert 'start the command' in str(caught.value)


def test_every_utterance_once():
  made = runs.class_predictions(seeds=(0, 1))
  # Across corpora every fold tests everything.
  again = [dataclasses.replace(p, fold=p.fold + 5) for p in made]
  for good in (made, [*made, *again]):
    predictions.check_once(good)
  moved = dataclasses.replace(made[0], fold=4)
  other = dataclasses.replace(made[-1], target='angry')
  for bad, message in (
    ([*made, made[0]], r"'03a00' was predicted more than once"),
    ([*made, moved], r'its folds overlap'),
    (made[2:], r"0, selection last: no prediction for '03a00', '03a01'$"),
    (made[9:], r"'03a03', '03a04' and 4 more"),
    ([*made[:-1], other], r'of different corpora'),
  ):
    with pytest.raises(PredictionsError, match=message):
      predictions.check_once(bad)
