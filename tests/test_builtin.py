"""The model that comes with jaxser is what its card says, and used unasked."""

import json
import pathlib
import shlex
import shutil
import types

import jax
import pytest

import jaxser
from data_prep import corpora
from jaxser import main
from jaxser.core import command_line, files
from jaxser.core import config as config_lib
from jaxser.evaluation import earlier, results
from jaxser.models import builtin, saved
from jaxser.report import __main__ as report_program
from jaxser.report import text
from jaxser.systems import registry
from tests import trained

FOLDER = pathlib.Path(builtin.__file__).parent / 'timnet-emodb'
RESULTS = pathlib.Path(__file__).parents[1] / 'docs' / 'results'


@pytest.fixture
def rebuilt(tmp_path, monkeypatch):
  """The work folder of the command in model.json, from the recipe it names."""
  model = files.read_json(FOLDER / 'model.json')
  command_line.parse(main.FLAGS, shlex.split(model['command'])[3:])
  config, workdir = main.FLAGS.config, tmp_path / main.FLAGS.workdir
  monkeypatch.chdir(tmp_path)
  shutil.copytree(FOLDER, workdir)
  (workdir / 'MODEL_CARD.md').unlink()
  pathlib.Path(config.epochs_from).symlink_to(RESULTS / 'timnet_independent')
  config.epochs = earlier.best_epoch(
    config.epochs_from, config, model['stores']
  )
  files.write_json(workdir / 'config.json', config_lib.to_json(config))
  fold = {'fold': 0, 'train': [*corpora.CORPORA['emodb'].expected], 'test': []}
  files.write_json(workdir / 'folds.json', {'folds': [fold]})
  return workdir, config, model


def write_card(workdir, baseline):
  arguments = [str(workdir), '--card', f'--baseline={RESULTS / baseline}']
  program = report_program
  return command_line.run(
    program.main, program.FLAGS, arguments, positional='WORKDIR'
  )


def test_results_alone_make_no_card(capsys):
  assert write_card(RESULTS / 'emodb_compare', 'emodb_functionals') == 2
  assert 'model.json: No such file' in capsys.readouterr().err


def test_the_card_is_what_its_commands_write(rebuilt, capsys):
  workdir, config, model = rebuilt
  assert write_card(workdir, 'emodb_egemaps_published') == 2
  message = 'its protocol is published, not speaker_independent; name a run'
  assert message in capsys.readouterr().err
  corpus = types.SimpleNamespace(name='emodb', classes=model['classes'])
  description = saved.open(FOLDER)
  assert registry.create(config, corpus) == description.system
  params, _ = saved.load(FOLDER, *description.trainings[0])
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  size = f'{count:,} parameters, 0 of them frozen\n'
  (workdir / 'parameters.txt').write_text(size)
  assert write_card(workdir, 'emodb_compare') == 0
  card = (FOLDER / 'MODEL_CARD.md').read_text()
  assert (workdir / 'MODEL_CARD.md').read_text() == card
  assert 'A linear classifier on the same folds is better (UAR 76.21' in card
  assert sum(p.stat().st_size for p in FOLDER.rglob('*.*')) < 500_000


def test_it_predicts_without_a_checkpoint(
  speech, tmp_path, capsys, monkeypatch
):
  predict = trained.predict_program(capsys, monkeypatch)
  code, line, errors = predict('--format=jsonl', speech[0])
  recording = json.loads(line)
  assert code == 0
  assert list(recording['scores']) == list(corpora.CORPORA['emodb'].classes)
  found = results.read_results(RESULTS / 'timnet_independent' / 'results.json')
  uar = found['selections']['best_on_dev']['pooled']['uar']
  figure = f'UAR {text.with_interval(uar, "classification")} on speakers'
  assert errors.startswith('Model timnet-emodb: TIM-Net, trained on all of Emo')
  assert figure in errors
  model = jaxser.load('timnet-emodb')
  assert model.predict(speech[0]).scores == pytest.approx(
    recording['scores'], abs=1e-5
  )
  card = (FOLDER / 'MODEL_CARD.md').read_text()
  assert predict('--model_card') == (0, card, '')
  # A folder of that name is the user's.
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'timnet-emodb').mkdir()
  code, _, errors = predict('--checkpoint=timnet-emodb', speech[0])
  assert code == 2
  assert 'timnet-emodb is no folder of a trained model' in errors
