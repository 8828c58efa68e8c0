"""A work folder belongs to one run and to one process at a time."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from configs import timnet
from jaxser.core.errors import ConfigError
from jaxser.core.files import read_json, write_json
from jaxser.engine import workdir as workdir_lib
from jaxser.evaluation import curves
from tests.recorder import full_disk

ROOT = pathlib.Path(__file__).parents[1]
FOLDS = [{'fold': 0, 'train': ['a', 'b'], 'dev': [], 'test': ['c']}]
OTHER = [{'fold': 0, 'train': ['a'], 'dev': ['b'], 'test': ['c']}]
STORES = {'emodb': '1fae6e85'}
HOLDER = """
import sys, time
from jaxser.engine import workdir
with workdir.lock(sys.argv[1]):
  print('locked', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
  """A folder with a checkpoint of a run."""
  write_json(tmp_path / 'model.json', {'stores': STORES})
  write_json(tmp_path / 'folds.json', {'folds': FOLDS})
  (tmp_path / 'checkpoints/folds/8').mkdir(parents=True)
  return tmp_path


@pytest.mark.parametrize(
  ('stores', 'folds', 'message'),
  [
    (
      {'emodb': 'ffffffff'},
      FOLDS,
      'on the dataset emodb 1fae6e85; prepared now is emodb ffffffff',
    ),
    (
      STORES,
      OTHER,
      r'another fold 0 \(2 train, 0 dev, 1 test\) than .* \(1 tr',
    ),
    (STORES, [], 'with 1 folds, this one has 0'),
  ],
)
def test_another_dataset_or_fold_is_refused(folder, stores, folds, message):
  def check(stores, folds):
    content = {'folds': folds}
    workdir_lib.check_identity(folder, timnet.get_config(), stores, content)

  check(STORES, FOLDS)
  with pytest.raises(ConfigError, match=message):
    check(stores, folds)
  # Without a result or a checkpoint the folder is free.
  (folder / 'checkpoints/folds/8').rmdir()
  check(stores, folds)


def test_a_folder_keeps_to_one_config_also_of_an_older_version(folder):
  shutil.copy(ROOT / 'tests/data/older_config.json', folder / 'config.json')
  config, content = timnet.get_config(), read_json(folder / 'config.json')
  config.schedule.name, config.optimizer.learning_rate = 'constant', 1e-3
  config.epochs, config.model.batch_norm_momentum = 30, 0.99
  assert 'ema' not in content
  workdir_lib.check_config(folder, config)
  # Of the recipe, of the system, and of the optimizer, which adds it.
  del content['model']['ablation']
  write_json(folder / 'config.json', content)
  config.data_dir = 'elsewhere'
  workdir_lib.check_config(folder, config)
  config.ema, config.model.ablation = 0.9, 'tcn'
  config.optimizer.nesterov = True
  message = r"another config \(ema: there 0\.0, now 0\.9; model\.ablation: there 'none', now 'tcn'; optimizer\.nesterov: there None, now True\)"
  with pytest.raises(ConfigError, match=message):
    workdir_lib.check_config(folder, config)
  # Before anything is trained there, a mistyped command can be corrected.
  (folder / 'checkpoints/folds/8').rmdir()
  workdir_lib.check_config(folder, config)


def refused(workdir, message):
  with pytest.raises(ConfigError, match=message), workdir_lib.lock(workdir):
    pass


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
  (tmp_path / 'file').touch()
  nowhere, file = '/proc/nope', tmp_path / 'file'
  reason = 'No such file or directory'
  refused(nowhere, rf'--workdir={nowhere} cannot be written \({reason}\); giv')
  refused(file, rf'--workdir={file} cannot be written \(File exists\); giv')


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLDER, tmp_path],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert holder.stdout.readline() == 'locked\n'
  where = re.escape(str(tmp_path))
  refused(tmp_path, rf'{where} is in use: process {holder.pid} on .* since \d')
  # However it ends, its lock is taken over.
  holder.kill()
  holder.communicate()
  with workdir_lib.lock(tmp_path):
    assert f'process {os.getpid()} on' in (tmp_path / '.lock').read_text()


@pytest.mark.parametrize(('tensorboard', 'limit'), [(False, 10), (True, 70)])
def test_a_full_disk_is_one_message(tmp_path, tensorboard, limit):
  row = {'seed': 0, 'fold': 0, 'epoch': 1, 'split': 'dev', 'uar': 0.5}
  writer = curves.Curves(tmp_path, tensorboard=tensorboard)
  message = r'written \(File too large\); free disk space'
  with (
    full_disk(limit),
    pytest.raises(workdir_lib.DiskError, match=message),
    workdir_lib.writing(tmp_path),
    contextlib.closing(writer),
  ):
    writer.add([row])
  # Other errors are not hidden.
  with pytest.raises(FileNotFoundError), workdir_lib.writing(tmp_path):
    (tmp_path / 'absent').read_text()


def test_tensorboard_shows_the_curves(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator

  for epochs in ((1, 2), (3,)):  # Continued after the second.
    writer = curves.Curves(tmp_path)
    row = {'seed': 0, 'fold': 3, 'split': 'dev', 'uar': 0.5}
    writer.add([{**row, 'epoch': epoch} for epoch in epochs])
    writer.close()
  folder = tmp_path / 'tensorboard' / 'seed0-fold03' / 'dev'
  shown = event_accumulator.EventAccumulator(str(folder)).Reload()
  found = [(event.step, event.value) for event in shown.Scalars('uar')]
  assert found == [(1, 0.5), (2, 0.5), (3, 0.5)]
