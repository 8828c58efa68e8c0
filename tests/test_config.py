import json
import pathlib

import pytest
from absl import app

from configs import timnet
from jaxser.core import command_line
from jaxser.core import config as config_lib

RECIPE = str(pathlib.Path(__file__).parents[1] / 'configs' / 'timnet.py')


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('protocol', 'loso', "choose one of 'published', 'speaker_independent'"),
    ('parallel', 'threads', "choose one of 'jit', 'pmap'"),
    ('epochs', 0, 'must be at least 1'),
    ('accumulate', 3, 'batch_size=16 must be a multiple'),
    ('selection_metric', 'accuracy', "'uar', 'war', 'f1', 'ccc_mean'"),
  ],
)
def test_impossible_values_list_the_possible_ones(field, value, message):
  config = timnet.get_config()
  config[field] = value
  with pytest.raises(config_lib.ConfigError, match=message):
    config_lib.validate(config)


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('corpse=emodb', "'corpse' is unknown; valid are ablation, corpus"),
    ('protocol=official_', 'choose one of speaker_independent'),
    ('ablation=no', 'choose one of none, tcn, forward_only'),
    ('cross_corpus,train=emodb', 'go together'),
    ('train=emodb,test=ravdess', 'go together'),
    ('runlocal=perhaps', 'must be true or false'),
  ],
)
def test_recipe_arguments_are_checked(arg, message):
  with pytest.raises(ValueError, match=message):
    timnet.get_config(arg)


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('--config.epohcs=3', r'Did you mean --config\.epochs\?.*batch_size'),
    ('--config.model.droput=0', r'Did you mean --config\.model\.dropout\?'),
    ('--config.model=3', r'group of fields: set one of model\.ablation'),
    (
      '--config=configs/tinmet.py',
      r'no such file\. Recipes here: \S+dsnet.py, \S+emosphere.py, \S+timnet.py\.',
    ),
    (f'--config={RECIPE}:protocol=x', 'choose one of speaker_'),
  ],
)
def test_mistyped_command_lines_are_explained(override, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    command_line.parse(['main', f'--config={RECIPE}', override])


def test_cross_corpus_uses_one_signal_length_for_both():
  config = timnet.get_config('cross_corpus,train=emodb,test=ravdess')
  assert config.features.signal_length == 100_000
  assert (config.corpus, config.test_corpus) == ('emodb', 'ravdess')
  assert config.select_on_test


def test_speaker_independent_is_the_default_and_reads_no_test_labels():
  config = timnet.get_config('corpus=emodb')
  assert config.protocol == 'speaker_independent'
  assert not config.select_on_test
  assert not config.paper


def test_published_recipe_has_the_papers_settings():
  config = timnet.get_config('corpus=casia,protocol=published')
  assert config.features.signal_length == 88_000
  assert config.fold_seed == 32
  assert config.epochs == 500
  assert config.paper.last.uar == 91.08
  assert timnet.get_config('corpus=iemocap').model.num_blocks == 10


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
  config = timnet.get_config()
  (tmp_path / 'file').write_text('kept')
  for workdir, reason in (
    ('/proc/nope', 'No such file or directory'),
    (tmp_path / 'file', 'File exists'),
  ):
    with pytest.raises(
      config_lib.ConfigError,
      match=rf'--workdir={workdir} cannot be written \({reason}\); give a f',
    ):
      config_lib.claim(config, workdir)


def test_a_folder_keeps_to_one_config(tmp_path):
  config = timnet.get_config()
  config_lib.claim(config, tmp_path)
  config_lib.claim(config, tmp_path)
  saved = json.loads((tmp_path / 'config.json').read_text())
  assert saved['model']['dropout'] == 0.1
  config.data_dir = 'elsewhere'
  config_lib.claim(config, tmp_path)
  config.model.dropout = 0.2
  with pytest.raises(
    config_lib.ConfigError,
    match=r'another config \(model\.dropout: there 0\.1, now 0\.2\)',
  ):
    config_lib.claim(config, tmp_path)


@pytest.mark.parametrize('flag', ['--help', '--helpfull', '-?'])
def test_asking_for_help_is_no_mistake(flag, capsys):
  app.define_help_flags()  # As app.run does.
  with pytest.raises(SystemExit) as stop:
    command_line.parse(['main', flag])
  assert stop.value.code == 0
  assert capsys.readouterr().out
