"""Every recipe trains end to end on the demo corpus, in the same process."""

import json

import numpy as np
import pytest

from configs import dsnet, emosphere, timnet
from data_prep import prepare
from jaxser.core.errors import UserError
from jaxser.core.files import write_json
from jaxser.engine import opening, train
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.models import predictor
from jaxser.report import text
from jaxser.systems.dsnet import NEUTRAL_KNOWN, TRANSDUCTIVE
from tests import shared

SHORT = {'epochs': 1, 'tensorboard': False, 'embeddings': False}
TIMNET = {'model.num_blocks': 1}
DSNET = {'model.channels': (4, 4), 'data.max_length': 32}
RECIPES = {
  'timnet': (timnet, '', TIMNET),
  'timnet-augment': (timnet, 'augment', TIMNET),
  'timnet-pmap': (timnet, '', {**TIMNET, 'parallel': 'pmap'}),
  'dsnet': (dsnet, '', {**DSNET, 'embeddings': True}),
  'emosphere': (emosphere, '', {'model.width': 8}),
}
VARIANTS = 'encoder dat dat,dat_speakers=all isnet dsc menan'
for variant in VARIANTS.split():
  # Of menan, passes take turns.
  more = {'embeddings': variant == 'dsc', 'epochs': 1 + (variant == 'menan')}
  arg = f'size=tiny,variant={variant}'
  RECIPES[f'dsnet-{variant}'] = dsnet, arg, {**DSNET, **more}
NOTES = {
  'dsnet-dat,dat_speakers=all': [TRANSDUCTIVE],
  'dsnet-dsc': [NEUTRAL_KNOWN],
}
FOLDS = 'folds.json'


def make_config(module, arg, data_dir, changes):
  config = module.get_config(f'{arg},runlocal' if arg else 'runlocal')
  config.data_dir = str(data_dir)
  config.update_from_flattened_dict({**SHORT, **changes})
  return config


SLOW = [
  pytest.param(n, marks=pytest.mark.slow) for n in RECIPES if n != 'timnet'
]


@pytest.mark.parametrize('name', ['timnet', *SLOW])
def test_recipe_trains_and_reports(name, data_dir, tmp_path):
  module, arg, changes = RECIPES[name]
  config = make_config(module, arg, data_dir, changes)
  found = train.run(config, tmp_path)
  assert found['demo']
  assert set(found['selections']) == {'last', 'best_on_dev'}
  assert found['selections']['last']['pooled']['utterances'] == 40
  assert found == json.loads((tmp_path / 'results.json').read_text())
  page = (tmp_path / 'report.html').read_text()
  assert len(page) > 10_000
  assert found['notes'] == [*NOTES.get(name, []), '1 of 6 folds were tested.']
  assert all(note in page for note in found['notes'])


@pytest.mark.slow
def test_published_checkpoints_give_the_papers_row(data_dir, tmp_path):
  """Wav files to results.json: pooled WAR 95.70 and UAR 95.17."""
  options = {'data_dir': data_dir, 'report': lambda line: None}
  prepare.prepare_corpus('emodb', shared.require('corpora/emodb'), **options)
  config = timnet.get_config('corpus=emodb,protocol=published')
  config.data_dir = str(data_dir)
  config.init_from = str(shared.require('weights/timnet/EMODB_46.zip'))
  found = train.run(config, tmp_path, 'evaluate')
  scores = found['selections']['init_from']
  pooled = scores['pooled']
  assert pooled['utterances'] == 535
  assert (pooled['war']['value'], pooled['uar']['value']) == (95.70, 95.17)
  assert scores['fold_mean']['uar']['mean'] == 94.89
  assert found['paper']['init_from']['war'] == 95.70

  # The same weights predict one of the files.
  row = json.loads((tmp_path / 'predictions.jsonl').read_text().splitlines()[0])
  path = shared.require('corpora/emodb') / f'wav/{row["id"]}.wav'
  model = predictor.load(tmp_path, folds=(row['fold'],))
  found = model.predict(path).scores
  np.testing.assert_allclose([*found.values()], row['scores'], atol=2e-6)


@pytest.mark.parametrize(
  ('arg', 'changes', 'mode', 'message'),
  [
    ('corpus=savee', {}, 'train', '--corpus=savee --audio_dir=DIR'),
    ('', {}, 'evaluate', r'give --config\.init_from=FILE'),
    ('', {'fold_subset': (0, 9)}, 'train', r'names \[9\]; the prot'),
    ('', {'augment.speed': (1.1,)}, 'train', 'not defined for the '),
    ('', {'folds': FOLDS}, 'train', "the first is '03a01Fa'"),
  ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
  data_dir, tmp_path, monkeypatch, arg, changes, mode, message
):
  monkeypatch.chdir(tmp_path)
  fold = {'fold': 0, 'train': ['03a01Fa'], 'dev': [], 'test': []}
  write_json(tmp_path / FOLDS, {'folds': [fold]})  # Of another corpus.
  config = make_config(timnet, arg, data_dir, changes)
  with pytest.raises(UserError, match=message):
    train.run(config, tmp_path / 'refused', mode)
  assert not (tmp_path / 'refused').exists()


def test_a_run_is_augmented_as_its_config_says(data_dir):
  config = make_config(timnet, 'augment', data_dir, {})
  experiment = train.make_experiment(config, opening.open_corpus(config))
  assert experiment.augment.mixup == 0.2


def test_a_run_that_diverges_says_so_and_leaves_the_others(data_dir, tmp_path):
  changes = {**TIMNET, 'optimizer.learning_rate': 1e30}
  config = make_config(timnet, '', data_dir, changes)
  message = r'1 of 1 runs have no result: seed \d+ fold 0, epoch \d: '
  for _ in range(2):  # Nor is it trained again.
    with pytest.raises(train.NotFiniteError, match=message):
      train.run(config, tmp_path)
  assert not (tmp_path / 'results.json').exists()


def test_changed_labels_are_another_run(data_dir, tmp_path, monkeypatch):
  changes = {**TIMNET, 'fold_subset': (0,)}
  config = make_config(timnet, '', data_dir, changes)
  config.paper.last = {'uar': 90.0, 'source': 'Table 1'}
  (reason,) = text.incomparable(train.run(config, tmp_path))
  assert reason == '1 of 6 folds were tested'  # So the paper's may not compare.
  before = {p: p.read_bytes() for p in tmp_path.glob('*.json*')}
  corpus = opening.open_corpus(config)
  corpus.stores['demo']['fingerprint'] = 'ffffffff'
  monkeypatch.setattr(opening, 'open_corpus', lambda config: corpus)
  message = 'dataset demo .*; prepared now is demo'
  with pytest.raises(UserError, match=message):
    train.run(config, tmp_path)
  assert before == {p: p.read_bytes() for p in tmp_path.glob('*.json*')}


def test_without_a_test_split_there_are_weights_and_no_results(
  data_dir, tmp_path
):
  small = {**TIMNET, 'epochs': 3}
  before = make_config(timnet, '', data_dir, small)
  found = train.run(before, tmp_path / 'tested')['selections']['best_on_dev']
  longer = {'epochs': 9, 'epochs_from': str(tmp_path / 'tested')}
  config = make_config(timnet, 'protocol=all', data_dir, {**small, **longer})
  assert train.run(config, tmp_path / 'all') == {}
  assert list(tmp_path.glob('all/models/*.last.safetensors'))
  assert not (tmp_path / 'all' / 'results.json').exists()
  (fold,) = found['per_fold']
  kept = json.loads((tmp_path / 'all' / 'config.json').read_text())
  assert kept['epochs'] == fold['epoch']
  assert config.epochs == 9
  # The card of the one quotes the results of the other.
  tested, every = (
    (tmp_path / f'{n}/MODEL_CARD.md').read_text() for n in ('tested', 'all')
  )
  scores = text.with_interval(found['pooled']['uar'], 'classification')
  for line in (
    'DEMO CORPUS',
    f'| {SELECTIONS["best_on_dev"]} | {scores} |',
    ' parameters, 0 of them frozen.',
  ):
    assert line in tested
    assert line in every
  assert 'no test score of its own' not in tested
  for line in (
    'All utterances were trained on, so this model has no test',
    f'- Epochs: {fold["epoch"]}, the median of the epochs that were best on the '
    f'development splits of {tmp_path}/tested.',
    '1 fold with 240 training utterances, 1 seed',
  ):
    assert line in every
  # What a clock says lies apart from what is the same every time.
  metrics, speed = (
    (tmp_path / f'tested/{name}.jsonl').read_text()
    for name in ('metrics', 'speed')
  )
  assert 'examples_per_second' not in metrics
  rows = [json.loads(row) for row in speed.splitlines()]
  assert len(rows) == 3
  assert min(row['examples_per_second'] for row in rows) > 0
  assert min(row['memory_gib'] for row in rows) > 0.01
