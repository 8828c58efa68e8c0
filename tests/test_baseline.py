"""The linear baseline: functionals, the fit, and a run like any other."""

import json
import types

import jax
import numpy as np
import pytest

from configs import baseline
from jaxser.core.config import ConfigError
from jaxser.engine import opening, train
from jaxser.models import predictor
from jaxser.models.weights import ModelError
from jaxser.ops.functionals import functionals
from jaxser.report import insert
from jaxser.systems.baseline import Baseline, BaselineVad, _parts, _Scaler


def make_config(data_dir, arg='', **changes):
  config = baseline.get_config(arg)
  config.data_dir = str(data_dir)
  config.update_from_flattened_dict(changes)
  return config


def rows_of(workdir):
  lines = (workdir / 'predictions.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_functionals_are_those_of_numpy_over_valid_frames():
  x = np.random.default_rng(0).normal(5, 3, (4, 30, 6)).astype('f')
  lengths = np.array([30, 17, 2, 1], np.int32)
  found = np.asarray(jax.jit(functionals)(x, lengths))
  for frames, length, row in zip(x, lengths, found, strict=True):
    valid = frames[:length].astype(np.float64)
    padded = np.pad(valid, ((1, 1), (0, 0)), 'edge')
    expected = []
    for part in (valid, (padded[2:] - padded[:-2]) / 2):
      expected += [part.mean(0), part.std(0)]
      expected += [*np.percentile(part, (20, 50, 80), axis=0)]
    np.testing.assert_allclose(row, np.concatenate(expected), atol=2e-5)
  # Whatever the padding holds.
  longer = np.pad(x, ((0, 0), (0, 9), (0, 0)), constant_values=1e4)
  np.testing.assert_allclose(functionals(longer, lengths), found, atol=1e-5)
  # Padding rows have no frame at all.
  assert np.isfinite(functionals(x, 0 * lengths)).all()


def test_two_classes_have_two_scores():
  x = np.random.default_rng(1).normal(size=(40, 1, 3)).astype('f')
  labels, rows = (x[:, 0, 0] > 0).astype(np.int32), np.arange(40)
  speakers = np.repeat(['a', 'b'], 20)
  table = types.SimpleNamespace(labels=labels, speakers=speakers)
  system = Baseline(functionals=False)
  weights = system.fit(x[:, 0], table, rows[:30], rows[30:])
  batch = {'features': x, 'length': np.ones(40, np.int32)}
  out = system.predict(*weights, batch)
  assert out['scores'].shape == (40, 2)
  np.testing.assert_allclose(out['scores'].sum(-1), 1, rtol=1e-5)
  assert np.mean(np.argmax(out['scores'], -1) == labels) > 0.9


def test_cross_validation_keeps_speakers_apart():
  speakers = np.repeat(['a', 'b', 'c'], 4)
  train = np.array([0, 1, 4, 5, 8, 9])
  found = list(_parts(train, speakers))
  assert len(found) == 3
  for a, b in found:
    assert not {*speakers[a]} & {*speakers[b]}
    assert sorted([*a, *b]) == train.tolist()
  alone = list(_parts(np.arange(10), np.full(10, '')))
  assert sorted(np.concatenate([b for _, b in alone])) == list(range(10))


def test_a_run_is_like_that_of_any_system(data_dir, tmp_path, monkeypatch):
  config = make_config(data_dir)
  found = train.run(config, tmp_path)
  assert found['selections'].keys() == {'last'}
  assert found['selections']['last']['pooled']['utterances'] == 240
  # Five classes; the margin is wide.
  assert found['selections']['last']['pooled']['uar']['value'] > 50
  assert 'not calibrated' in found['notes'][0]
  report = (tmp_path / 'report.html').read_text('utf-8')
  assert 'not calibrated' in report
  # It has no epochs.
  assert found['selections']['last']['label'] == 'fitted'
  assert 'Fitted' in report
  assert 'ast epoch' not in report
  curve = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['fold'] for row in curve] == list(range(6))

  # The same command fits only what is not there yet.
  before = (tmp_path / 'predictions.jsonl').read_bytes()
  (tmp_path / 'folds' / 'seed0-fold03.jsonl').unlink()
  fitted, fit = [], Baseline.fit
  monkeypatch.setattr(
    Baseline, 'fit', lambda *args: fitted.append(1) or fit(*args)
  )
  train.run(config, tmp_path)
  assert len(fitted) == 1
  assert before == (tmp_path / 'predictions.jsonl').read_bytes()

  row = rows_of(tmp_path)[0]
  model = predictor.load(tmp_path, folds=(row['fold'],))
  path = next((data_dir / 'demo' / 'audio').rglob(f'{row["id"]}.wav'))
  scores = model.predict(path).scores
  np.testing.assert_allclose([*scores.values()], row['scores'], atol=1e-5)

  # Its weights are tested, but nothing starts from them.
  given = make_config(data_dir, init_from=str(tmp_path))
  with pytest.raises(ConfigError, match='starts from no weights'):
    train.run(given, tmp_path / 'more')
  tested = train.run(given, tmp_path / 'tested', 'evaluate')
  page = tmp_path / 'page.md'
  page.write_text('<!-- t --><!-- /t -->', 'utf-8')
  insert.write_into(page, 't', [tmp_path, tmp_path / 'tested'])
  rows = page.read_text('utf-8').splitlines()
  assert rows[4].startswith(f'| **{tmp_path.name}**, fitted |')
  assert rows[5].startswith('| **tested**, weights as loaded')
  pooled = [s['pooled']['uar']['value'] for s in tested['selections'].values()]
  assert pooled == [found['selections']['last']['pooled']['uar']['value']]


@pytest.mark.parametrize(
  'protocol',
  ['speaker_independent', pytest.param('published', marks=pytest.mark.slow)],
)
def test_no_test_label_is_read(data_dir, tmp_path, monkeypatch, protocol):
  """With wrong test labels C, weights and predictions are the same."""
  config = make_config(data_dir, f'protocol={protocol}', fold_subset=(2,))
  train.run(config, tmp_path / 'clean')
  tested = {row['id'] for row in rows_of(tmp_path / 'clean')}
  honest = opening.open_corpus

  def poisoned(config):
    corpus = honest(config)
    rows = np.isin(corpus.table.ids, list(tested))
    corpus.table.labels[rows] = (corpus.table.labels[rows] + 1) % 5
    return corpus

  monkeypatch.setattr(opening, 'open_corpus', poisoned)
  train.run(config, tmp_path / 'poisoned')
  clean, wrong = (rows_of(tmp_path / name) for name in ('clean', 'poisoned'))
  assert [r['scores'] for r in clean] == [r['scores'] for r in wrong]
  assert [r['target'] for r in clean] != [r['target'] for r in wrong]


@pytest.mark.slow
def test_vad_stays_on_the_scale(data_dir, tmp_path):
  found = train.run(make_config(data_dir, 'task=vad'), tmp_path)
  assert found['selections']['last']['pooled']['ccc_arousal']['value'] > 0.3
  values = np.array([row['prediction'] for row in rows_of(tmp_path)])
  assert values.shape == (240, 3)
  assert 1 <= values.min() < values.max() <= 7
  path = next((data_dir / 'demo' / 'audio').rglob('*.wav'))
  assert len(predictor.load(tmp_path).predict(path).vad) == 3


@pytest.mark.slow
def test_speakers_standardised_by_themselves(data_dir, tmp_path):
  config = make_config(data_dir, 'speaker_normalization', fold_subset=(0, 1))
  found = train.run(config, tmp_path)
  assert any('Each speaker was standardised' in n for n in found['notes'])
  with pytest.raises(ModelError, match='on single recordings'):
    predictor.load(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.functionals': False}, 'do not go together; choose features='),
    ({'model.num_coefficients': 81}, 'is more than the 80 mels'),
    ({'model.num_coefficients': -1}, 'num_coefficients=-1; it must be'),
    ({'model.dropout': 0.5}, 'dropout'),
  ],
)
def test_wrong_settings_are_said(data_dir, tmp_path, changes, message):
  with pytest.raises(ConfigError, match=message):
    train.run(make_config(data_dir, **changes), tmp_path)
  with pytest.raises(ValueError, match='choose one of functionals, egemaps'):
    baseline.get_config('features=mfcc')


def test_vad_needs_a_scale():
  corpus = type('Corpus', (), {'name': 'x', 'vad_range': None})
  with pytest.raises(ValueError, match='has no valence, arousal and dominance'):
    BaselineVad.create({}, corpus)


@pytest.mark.parametrize('shape', [(5, 3), (3, 5)])
def test_utterances_that_are_all_alike_leave_one_direction(shape):
  scaler = _Scaler(np.ones(shape))
  np.testing.assert_array_equal(scaler(np.ones(shape)), np.zeros((shape[0], 1)))
