"""A work folder belongs to one run and to one process at a time."""

import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from configs import timnet
from jaxser.core import config as config_lib
from jaxser.core.errors import ConfigError, UserError
from jaxser.core.files import read_json, write_json
from jaxser.engine import workdir as workdir_lib
from jaxser.evaluation import curves

ROOT = pathlib.Path(__file__).parents[1]
FOLDS = {'folds': [{'fold': 0, 'train': ['a', 'b'], 'dev': [], 'test': ['c']}]}
STORES = {'emodb': '1fae6e85'}
HOLDER = """
import sys, time
from jaxser.engine import workdir
with workdir.lock(sys.argv[1]):
  print('locked', flush=True)
  time.sleep(60)
"""


def claimed(folder):
  """A folder with a checkpoint of a run."""
  write_json(folder / 'model.json', {'stores': STORES})
  write_json(folder / 'folds.json', FOLDS)
  (folder / 'checkpoints/folds/8').mkdir(parents=True)


@pytest.mark.parametrize(
  ('stores', 'folds', 'message'),
  [
    (
      {'emodb': 'ffffffff'},
      FOLDS['folds'],
      'on the dataset emodb 1fae6e85; prepared now is emodb ffffffff',
    ),
    (
      STORES,
      [{'fold': 0, 'train': ['a'], 'dev': ['b'], 'test': ['c']}],
      r'another fold 0 \(2 train, 0 dev, 1 test\) than this one \(1 train, 1',
    ),
    (STORES, [], 'with 1 folds, this one has 0'),
  ],
)
def test_another_dataset_or_fold_is_refused(tmp_path, stores, folds, message):
  config = timnet.get_config()
  claimed(tmp_path)
  workdir_lib.check_identity(tmp_path, config, STORES, FOLDS)
  with pytest.raises(ConfigError, match=message):
    workdir_lib.check_identity(tmp_path, config, stores, {'folds': folds})
  # Without a result or a checkpoint the folder is free.
  (tmp_path / 'checkpoints/folds/8').rmdir()
  workdir_lib.check_identity(tmp_path, config, stores, {'folds': folds})


def test_a_folder_keeps_to_one_config(tmp_path):
  config = timnet.get_config()
  write_json(tmp_path / 'config.json', config_lib.to_json(config))
  config.model.num_blocks = 3
  # Nothing was trained there yet, so a mistyped command can be corrected.
  workdir_lib.check_config(tmp_path, config)
  (tmp_path / 'checkpoints/folds/8').mkdir(parents=True)
  config.model.num_blocks, config.data_dir = 8, 'elsewhere'
  workdir_lib.check_config(tmp_path, config)
  config.model.dropout = 0.2
  with pytest.raises(
    ConfigError,
    match=r'another config \(model\.dropout: there 0\.1, now 0\.2\)',
  ):
    workdir_lib.check_config(tmp_path, config)
  (tmp_path / 'config.json').write_text('')
  with pytest.raises(UserError, match=r'config\.json: is empty'):
    workdir_lib.check_config(tmp_path, config)


def test_fields_of_later_versions_have_their_defaults(tmp_path):
  """A run of an older version goes on, unless its config is changed now."""
  older = ROOT / 'tests/data/older_config.json'
  shutil.copy(older, tmp_path / 'config.json')
  (tmp_path / 'checkpoints/folds/8').mkdir(parents=True)
  config = timnet.get_config()
  assert 'ema' not in read_json(older)
  workdir_lib.check_config(tmp_path, config)
  # Of the recipe, of the system, and of the optimizer, which adds it.
  content = read_json(older)
  del content['model']['ablation']
  write_json(tmp_path / 'config.json', content)
  workdir_lib.check_config(tmp_path, config)
  config.ema, config.model.ablation = 0.9, 'tcn'
  config.optimizer.nesterov = True
  with pytest.raises(
    ConfigError,
    match=r'\(ema: there 0\.0, now 0\.9; model\.ablation: there \'none\', now '
    r"'tcn'; optimizer\.nesterov: there None, now True\)",
  ):
    workdir_lib.check_config(tmp_path, config)


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
  (tmp_path / 'file').write_text('kept')
  for workdir, reason in (
    ('/proc/nope', 'No such file or directory'),
    (tmp_path / 'file', 'File exists'),
  ):
    with (
      pytest.raises(
        ConfigError,
        match=rf'--workdir={workdir} cannot be written \({reason}\); give a f',
      ),
      workdir_lib.lock(workdir),
    ):
      pass


def test_a_damaged_file_is_named(tmp_path):
  claimed(tmp_path)
  (tmp_path / 'folds.json').write_text('')
  with pytest.raises(UserError, match=r'folds\.json: is empty'):
    workdir_lib.check_identity(tmp_path, timnet.get_config(), STORES, FOLDS)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLDER, tmp_path],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert holder.stdout.readline() == 'locked\n'
  with (
    pytest.raises(
      ConfigError,
      match=rf'{re.escape(str(tmp_path))} is in use: process {holder.pid} on '
      r'.* since \d{4}-',
    ),
    workdir_lib.lock(tmp_path),
  ):
    pass
  # However it ends, its lock is taken over.
  holder.kill()
  holder.communicate()
  with workdir_lib.lock(tmp_path):
    assert f'process {os.getpid()} on' in (tmp_path / '.lock').read_text()


@pytest.mark.parametrize(
  ('tensorboard', 'limit', 'reason'),
  [(False, 10, 'File too large'), (True, 100, 'TensorBoard files')],
)
def test_a_full_disk_is_one_message(tmp_path, tensorboard, limit, reason):
  if tensorboard:
    pytest.importorskip('tensorflow')
  row = {'seed': 0, 'fold': 0, 'epoch': 1, 'split': 'dev', 'uar': 0.5}
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  writer = curves.Curves(tmp_path, tensorboard=tensorboard)

  def write():
    with workdir_lib.writing(tmp_path):
      writer.add([row])
      writer.close()

  message = rf'written \({reason}\); free disk space'
  try:
    # Files larger than this fail to grow, as on a disk without room.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    with pytest.raises(workdir_lib.DiskError, match=message):
      write()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_other_errors_are_not_hidden(tmp_path):
  with pytest.raises(FileNotFoundError), workdir_lib.writing(tmp_path):
    (tmp_path / 'absent').read_text()
