"""embeddings.npz: what is in it, when it is computed, and how it is shown."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import dsnet, emosphere
from jaxser import report
from jaxser.data import pipeline, protocols
from jaxser.engine import inspection, train
from jaxser.evaluation import embeddings
from jaxser.models import saved as models
from tests import fakes, runs, trained
from tests.random_tree import params_like

NAMES = ('relevant', 'irrelevant', 'encoding')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A run's folder with random weights, its context and its folds."""
  workdir = tmp_path_factory.mktemp('run')
  config = dsnet.get_config('corpus=emodb,size=tiny')
  config.model.update(channels=(2,), embedding=6, max_frames=8, bins=8)
  corpus = fakes.corpus(
    speakers=4, classes=4, repeats=2, frames=8, bins=8, vary=True
  )
  folds = protocols.make_folds(corpus, 'speaker_independent')[:2]
  context = train.make_experiment(config, corpus)
  trained.write_run_of(workdir, config, corpus, folds, ('best_on_dev',))
  found = inspection.inspect(workdir, context, folds)
  return workdir, context, folds, found


def test_holds_what_it_says(made):
  workdir, context, folds, _ = made
  with np.load(workdir / 'embeddings.npz', allow_pickle=False) as archive:
    held = dict(archive)
  columns = {'fold', 'id', 'speaker', 'label', 'side', 'about'}
  assert set(held) == {*columns, *NAMES, *(f'map.{name}' for name in NAMES)}
  table = context.source.corpus.table
  # All splits of the first fold, the test split of the other.
  splits = [folds[0].train, folds[0].dev, folds[0].test, folds[1].test]
  rows = np.concatenate(splits)
  assert held['id'].tolist() == table.ids[rows].tolist()
  assert held['speaker'].tolist() == table.speakers[rows].tolist()
  classes = np.array(context.source.corpus.classes)
  assert held['label'].tolist() == classes[table.labels[rows]].tolist()
  counts = [len(split) for split in splits]
  assert held['fold'].tolist() == [0] * sum(counts[:3]) + [1] * counts[3]
  names = np.repeat(['train', 'dev', 'test', 'test'], counts)
  assert held['side'].tolist() == names.tolist()
  for name in NAMES:
    mapped = np.isfinite(held[f'map.{name}']).all(-1)
    np.testing.assert_array_equal(mapped, held['fold'] == 0)


def test_embeddings_are_those_of_each_folds_own_weights(made):
  workdir, context, folds, _ = made
  found = embeddings.read(workdir)
  predict = jax.jit(context.system.predict)
  for fold in folds:
    weights = models.load(workdir, 12, fold.number, 'best_on_dev')
    batch = context.source.batch(pipeline.Slot(fold.test, 8))
    out = predict(*weights, batch)
    rows = (found.fold == fold.number) & (found.side == 'test')
    for name in NAMES:
      np.testing.assert_allclose(
        found.spaces[name][rows], out[name], rtol=1e-5, atol=1e-6
      )


def test_probes_are_reported_for_every_space(made):
  found = made[3]
  assert (found['seed'], found['selection']) == (12, 'best_on_dev')
  # Four speakers: two train, one develops, one tests.
  assert found['emotion']['chance'] == 25
  assert found['speaker']['chance'] == 50
  assert found['emotion']['scored'] == 2 * 8
  for kind in ('emotion', 'speaker'):
    assert tuple(found[kind]['spaces']) == NAMES
    for entry in found[kind]['spaces'].values():
      assert len(entry['per_fold']) == 2
      assert 0 <= entry['mean'] <= 100
  assert json.loads(json.dumps(found)) == found


def test_computed_again_only_for_other_weights(made, tmp_path):
  workdir, context, folds, found = made
  path = workdir / 'embeddings.npz'
  before = path.stat().st_mtime_ns
  assert inspection.inspect(workdir, context, folds) == found
  assert path.stat().st_mtime_ns == before
  weights = models.load(workdir, 12, 1, 'best_on_dev')
  changed = jax.tree.map(lambda x: 1.5 * x, weights)
  models.save(workdir, 12, 1, 'best_on_dev', *changed, epoch=3)
  old = embeddings.read(workdir)
  inspection.inspect(workdir, context, folds)
  new = embeddings.read(workdir)
  models.save(workdir, 12, 1, 'best_on_dev', *weights, epoch=3)
  same = old.fold == 0
  for name in NAMES:
    np.testing.assert_array_equal(
      old.spaces[name][same], new.spaces[name][same]
    )
    assert np.any(old.spaces[name][~same] != new.spaces[name][~same])


@pytest.mark.slow
def test_the_region_head_is_scored_on_the_test_splits(tmp_path):
  config = emosphere.get_config('corpus=emotale')
  config.model.width = 8
  config.data.max_length = 0
  corpus = fakes.corpus(speakers=4, repeats=3, frames=12, bins=8, vary=True)
  corpus.table.vad[3] = np.nan  # Nobody knows its region.
  folds = protocols.make_folds(corpus, 'speaker_independent')[:2]
  context = train.make_experiment(config, corpus)
  system = context.system
  models.describe(
    tmp_path, config, system, context.source, folds, ['best_on_dev']
  )
  batch = context.source.batch(pipeline.Slot(folds[0].test, 12))
  targets, predicted = [], []
  for fold in folds:
    params, state = params_like(
      system.init, jax.random.key(0), batch, seed=fold.number
    )
    state = jax.tree.map(np.abs, state) | system.initial_state()
    state = system.prepare(
      state, corpus.table.vad[fold.train], corpus.table.labels[fold.train]
    )
    models.save(tmp_path, 0, fold.number, 'best_on_dev', params, state, epoch=3)
    batch = context.source.batch(pipeline.Slot(fold.test, 12))
    scores = jax.jit(system.predict)(params, state, batch)['region_logits']
    known = np.isfinite(corpus.table.vad[fold.test]).all(-1)
    targets.extend(system.region_of(state, corpus.table.vad[fold.test][known]))
    predicted.extend(np.argmax(scores, -1)[known])
  found = inspection.inspect(tmp_path, context, folds)['region_head']
  assert found['utterances'] == len(targets) == 2 * 9 - 1
  right = np.mean(np.array(targets) == np.array(predicted))
  assert found['accuracy'] == round(100 * right, 2)
  assert 0 < found['macro_f1'] < 100


def test_without_development_side_the_last_epoch_counts(made):
  folds = [dataclasses.replace(fold, dev=fold.dev[:0]) for fold in made[2]]
  assert inspection.headline(folds) == 'last'
  with pytest.raises(models.ModelError, match=r'last\.safetensors: no such'):
    inspection.inspect(made[0], made[1], folds)


def test_page_shows_probes_and_maps(tmp_path):
  counts = {'classes': [4, 4], 'folds': 2, 'fitted': 90, 'scored': 60}
  space = {'mean': 71.25, 'std': 3.5, 'per_fold': [70, 72.5]}
  names = ('relevant', 'irrelevant')
  emotion = {'chance': 25.0, **counts, 'spaces': dict.fromkeys(names, space)}
  about = {'seed': 0, 'selection': 'last', 'measure': 'balanced accuracy'}
  rng = np.random.default_rng(0)
  one_fold_of_13_speakers = embeddings.Embeddings(
    fold=np.zeros(52, np.int64),
    id=np.array([f'u{i}' for i in range(52)]),
    speaker=np.repeat([f'<s{i:02d}>' for i in range(13)], 4),
    label=np.tile(['angry', 'happy'], 26),
    side=np.repeat(['train', 'test'], [48, 4]),
    spaces={name: rng.normal(size=(52, 3)) for name in names},
    maps={name: rng.normal(size=(52, 2)).astype('f') for name in names},
    about={'seed': 0, 'selection': 'last', 'names': names, 'probes': {}},
  )
  embeddings.write(tmp_path, one_fold_of_13_speakers)
  made = runs.class_predictions()
  runs.write_run(tmp_path, made, probes={**about, 'emotion': emotion})
  text = report.write_report(tmp_path).read_text()
  for wanted in ('71.25', 'Relevant, by emotion', 'Irrelevant, by speaker'):
    assert wanted in text, wanted
  assert '&lt;s00&gt;' in text
  path = tmp_path / 'embeddings.npz'
  path.write_bytes(path.read_bytes()[:900])
  with pytest.raises(
    embeddings.EmbeddingsError, match=r'embeddings\.npz cannot be read.*delete'
  ):
    embeddings.read(tmp_path)
  path.unlink()
  assert embeddings.read(tmp_path) is None
  runs.write_run(tmp_path, made)
  assert 'Relevant, by' not in report.write_report(tmp_path).read_text()
