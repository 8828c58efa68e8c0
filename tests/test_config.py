"""Configs, recipes and the command line that every program shares."""

import errno
import inspect
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from configs import __main__ as fields
from configs import common, timnet
from data_prep import progress
from data_prep.errors import UserError
from jaxser import main
from jaxser.core import command_line, files
from jaxser.core import config as config_lib
from jaxser.core.config import ConfigError

SGD = 'timnet --config.optimizer.name=sgd'
FACTOR = 'timnet --config.optimizer.name=adafactor --config.optimizer'
OWN = """
import ml_collections
def get_config(arg=None):
  return ml_collections.ConfigDict({'own': arg})
"""
ROOT = pathlib.Path(__file__).parents[1]


def parse(*arguments):
  """The flags of jaxser.main after parsing."""
  command_line.parse(main.FLAGS, arguments)
  return main.FLAGS


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('protocol', 'loso', "choose one of 'published', 'speaker_independent'"),
    ('parallel', 'threads', "choose one of 'jit', 'pmap', 'fsdp'"),
    ('epochs', 0, 'must be at least 1'),
    ('accumulate', 3, 'batch_size=16 must be a multiple'),
    ('selection_metric', 'accuracy', "'uar', 'war', 'f1', 'ccc_mean'"),
    ('ema', 1.0, 'ema=1.0 must be at least 0 and less than 1'),
    ('schedule.name', 'step', "'constant', 'cosine', 'linear', 'plateau'"),
    ('schedule.warmup_epochs', 8.0, r'=8.0 must .* than --config\.epochs=8'),
    ('schedule.warmup_epochs', -1.0, 'warmup_epochs=-1.0 must be at least 0'),
    ('optimizer.clip_norm', -1.0, 'clip_norm=-1.0 must be at least 0'),
    ('optimizer.name', 'addam', "one of 'adabelief', .*'adam', 'adam_keras'"),
    ('optimizer.rho', 0.9, 'adam takes no such argument; it takes learning_r'),
    ('optimizer.nesterov', 1, 'nesterov=1 must be True or False'),
    ('optimizer.mu_dtype', 'half32', 'optimizer: adam: .*half32'),
    ('profile', '10', 'profile=10 must be FIRST:LAST'),
    ('profile', '20:10', 'profile=20:10 must be FIRST:LAST'),
    ('profile', '0:10', 'from 1 on, such as 10:20'),
  ],
)
def test_impossible_values_list_the_possible_ones(field, value, message):
  config = timnet.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ConfigError, match=message):
    config_lib.validate(config)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('timnet --config.epohcs=3', r'mean --config\.epochs\?.*batch_size'),
    ('timnet --config.model.droput=0', r'mean --config\.model\.dropout\?'),
    ('timnet --config.model=3', r'group of fields: set one of model\.ablation'),
    ('timnet --config.epochs=many', 'config.epochs=many: invalid'),
    ('configs/tinmet.py', r'no Python file.*timnet\? Recipes: baseline, dsn'),
    (f'{SGD} --config.optimizer.b1=0.5', 'b1=0.5: sgd takes no .* nesterov'),
    (f'{SGD} --config.optimizer.momentum=x', "momentum='x' must be a number"),
    (f'{FACTOR}.min_dim_size_to_factor=1.5', r'factor=1\.5 must be an integer'),
    ('timnet --config.epochs_from=W --config.epochs 3', 'both say how long to'),
    ('tests/data/goldens', 'goldens: no Python file'),
    ('jaxser/main.py', 'is no recipe, it has no get_config'),
    ('timnet:corpus=', "corpus='' is no name of a corpus"),
    ('timnet:protocol=x', 'choose one of speaker_independent'),
    ('timnet:corpse=x', "'corpse' is unknown; valid are ablation"),
    ('timnet:ablation=no', 'choose one of none, tcn, forward_only'),
    ('timnet:cross_corpus,train=emodb', 'go together'),
    ('timnet:train=emodb,test=ravdess', 'go together'),
    ('timnet:runlocal=perhaps', 'must be true or false'),
    ('dsnet:variant=dsc,dat_speakers=all', 'goes with variant=dat, not dsc'),
    ('dsnet:variant=dat,without=calibration', 'with variant=dsnet, not dat'),
    ('emosphere:weights=d', 'goes with encoder=wavlm, not with encoder=logmel'),
    ('emosphere:encoder=frames,frozen', 'frozen goes with encoder=wavlm'),
    ('emosphere:encoder=wavlm,frozen,weights=d', 'weights to `python -m data'),
    (
      'emosphere:encoder=wavlm,weights=d,size=tiny',
      'of weights=d stands in its',
    ),
    ('emosphere:encoder=wavlm,size=huge', "size='huge' is not valid"),
    ('emosphere:fine_tuning=warmup', 'fine_tuning goes with encoder=wavlm'),
    ('emosphere:encoder=wavlm,frozen,fine_tuning=warmup', 'trains no WavLM'),
    ('emosphere:encoder=wavlm,fine_tuning=slow', 'one of , published, warmup'),
    ('timnet --confg=x', r'flag .confg.\. Did you mean: config \? See --help'),
    ('timnet --mode=test', r'--mode=test: .*<train\|evaluate>\. See --help'),
  ],
)
def test_mistyped_command_lines_are_explained(arguments, message, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError, match=message):
    parse(*f'--config={arguments}'.split(' '))


def test_every_parse_starts_from_the_defaults():
  found = parse('--noconfig.tensorboard', '--config=timnet', '--mode=evaluate')
  assert (found.config.tensorboard, found.mode) == (False, 'evaluate')
  found = parse('--config', 'timnet', '--config.fold_subset=(0,2)')
  assert (found.config.tensorboard, found.mode) == (True, 'train')
  assert found.config.fold_subset == (0, 2)
  assert parse().config is None


def test_a_recipe_is_found_in_any_folder_and_a_file_wins(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('timnet', 'timnet.py', 'configs/timnet.py'):
    config = parse(f'--config={name}:corpus=emodb').config
    assert (config.system, config.corpus) == ('timnet', 'emodb')
  table = 'timnet_single_corpus'
  for name in (table, f'configs/tables/{table}.py'):
    found = command_line.find_recipe(name, 'tables')
    assert found.samefile(ROOT / 'configs' / 'tables' / f'{table}.py')
  for name in (table, 'tables/timnet', 'common/timnet.py'):
    with pytest.raises(ConfigError, match='no recipe that comes'):
      command_line.find_recipe(name)
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.py').touch()
  assert command_line.find_recipe('~/own.py') == tmp_path / 'own.py'
  # This folder's own, and a package of that name that is none of ours.
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / '__init__.py').touch()
  (tmp_path / 'configs' / 'timnet.py').write_text(OWN)
  assert parse('--config=configs/timnet.py:a').config.own == 'a'
  assert parse('--config=timnet').config.system == 'timnet'
  (tmp_path / 'own.py').write_text('import nothing_of_that_name\n')
  with pytest.raises(ConfigError, match=r'ModuleNotFoundError: .*no'):
    parse('--config=own.py')


def test_any_argument_of_the_optimizer_can_be_given():
  more = '--config.optimizer.momentum=0.9', '--config.optimizer.nesterov=true'
  weights = '--config.class_weight={"sad":2}'
  found = parse(*f'--config={SGD}'.split(), *more, weights)
  # b1 and its like are for the recipe's own optimizer, and left out.
  config_lib.validate(found.config)
  saved = config_lib.to_json(found.config)
  assert saved['optimizer']['momentum'] == 0.9
  assert saved['optimizer']['nesterov'] is True
  assert saved['class_weight'] == {'sad': 2}
  found = parse('--config=timnet', '--config.class_weight=(1,2)')
  assert found.config.class_weight == (1, 2)


def test_the_home_folder_may_be_a_tilde(monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere')
  found = parse('--workdir=~/x', '--config=timnet', '--config.data_dir=~/y')
  assert found.workdir == pathlib.Path('/somewhere/x')
  assert found.config.data_dir == '/somewhere/y'
  assert parse('--workdir=').workdir is None
  # A container's user without an entry in /etc/passwd.
  monkeypatch.delenv('HOME')
  monkeypatch.setattr('os.path.expanduser', lambda path: path)
  for argument in ('--workdir=~/x', '--config.folds=~/f'):
    with pytest.raises(UserError, match='HOME is not set'):
      parse('--config=timnet', argument)


def run(error):
  """The exit code of a program that raises."""

  def program(arguments):
    raise error

  return command_line.run(program, flags.FlagValues(), ['x'], positional='FILE')


FULL = OSError(errno.ENOSPC, 'Full', 'W/events')


@pytest.mark.parametrize(
  ('error', 'code', 'printed'),
  [
    (UserError('x.wav: is empty.'), 2, 'Error: x.wav: is empty.\n'),
    (KeyboardInterrupt(), 130, '\nStopped.\n'),
    (FULL, 2, 'Error: W/events cannot be read or written (Full).\n'),
  ],
)
def test_what_a_user_can_mend_is_one_message(error, code, printed, capsys):
  assert (run(error), capsys.readouterr().err) == (code, printed)
  with pytest.raises(FileNotFoundError):  # A bug shows where it is.
    run(FileNotFoundError(errno.ENOENT, 'gone'))


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h'], ['--helpfull']])
def test_asking_for_help_is_no_mistake(arguments, capsys):
  assert command_line.run(main.main, main.FLAGS, arguments) == 0
  shown = capsys.readouterr().out
  assert shown.startswith(main.__doc__.partition('\n')[0])
  assert '--workdir: Folder for everything' in shown


def test_closed_streams_are_no_surprise():
  script = """if True:
    import sys; from absl import flags; from jaxser.core import command_line
    def main(arguments): return len(sys.stdin.buffer.read())
    none = flags.FlagValues()
    sys.exit(command_line.run(main, none, ['-'], positional='FILE'))
  """
  shell = f'exec {sys.executable} -c "$0" <&- >&- 2>&-'
  assert subprocess.run(['sh', '-c', shell, script], cwd=ROOT).returncode == 0


def test_names_that_are_not_utf8_are_printed_escaped(monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), 'utf-8')
  monkeypatch.setattr(sys, 'stderr', stream)
  run(UserError(f'{os.fsdecode(bytes([0xB0]))}.wav'))
  stream.flush()
  assert stream.buffer.getvalue() == b'Error: \\udcb0.wav\n'


def test_recipes_choose_what_their_protocol_needs():
  config = timnet.get_config('corpus=emodb')
  assert config.protocol == 'speaker_independent'
  assert not config.select_on_test  # No test label is read.
  assert not config.paper
  config = timnet.get_config('cross_corpus,train=emodb,test=ravdess')
  assert config.features.signal_length == 100_000  # One for both.
  assert (config.corpus, config.test_corpus) == ('emodb', 'ravdess')
  assert config.select_on_test
  config = timnet.get_config('corpus=casia,protocol=published')
  assert config.features.signal_length == 88_000
  assert (config.fold_seed, config.epochs) == (32, 500)
  assert config.paper.last.uar == 91.08
  assert timnet.get_config('corpus=iemocap').model.num_blocks == 10
  # Of one's own, with whatever it was prepared with.
  config = timnet.get_config('corpus=my_calls')
  assert (config.corpus, config.features.signal_length) == ('my_calls', 0)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'config.json: is empty'),
    (b'{"epochs": ', 'config.json: is damaged'),
    (b'\xff\xfe', 'config.json: is damaged'),
    (b'[1]', 'config.json: holds a list'),
  ],
)
def test_damaged_files_are_named(tmp_path, content, message):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(UserError, match=message):
    files.read_json(tmp_path / 'config.json')


@pytest.mark.parametrize('terminal', [False, True])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(terminal):
  stream = io.StringIO()
  stream.isatty = lambda: terminal
  bar = progress.Progress(4, stream)
  bar.skip(2)
  bar.note('continues after epoch 2')
  for score in (50, 60):
    bar.advance(f'fold 0: UAR {score}')
  bar.close()
  shown = stream.getvalue()
  assert 'continues after epoch 2\n' in shown
  assert 'fold 0: UAR 60' in shown
  assert ('\r' in shown) == terminal
  assert terminal or '4/4 epochs, 0 s: fold 0: UAR 60\n' in shown


def test_progress_may_be_silent_or_wait():
  stream = io.StringIO()
  bar = progress.Progress(1, stream, show=False)
  bar.note('nothing')
  bar.advance('to be seen')
  progress.Progress(1, stream, patience=60).advance('not yet')
  assert not stream.getvalue()
  bar.print('a result', stream)
  assert stream.getvalue() == 'a result\n'


def test_the_page_of_fields_is_up_to_date():
  written = (ROOT / 'docs' / 'config.md').read_text('utf-8')
  assert written == fields.page(), 'run: python -m configs > docs/config.md'


def test_a_field_without_a_comment_is_an_error(monkeypatch):
  source = re.sub('  # The first; it names .*\n', '', inspect.getsource(common))
  monkeypatch.setattr(inspect, 'getsource', lambda module: source)
  with pytest.raises(ValueError, match=r'what they mean: seed$'):
    fields.page()
