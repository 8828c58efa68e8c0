"""The program as its users run it, on the demo corpus made small."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_prep import prepare
from jaxser.evaluation import predictions
from tests import forked_main

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
  '--config.model.num_blocks=1',
  '--config.epochs=6',
  '--config.checkpoint_every=1',
  '--config.fold_subset=(0, 1)',
)

# Changes no prediction.
PLAIN = '--config.embeddings=false'


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  prepare.prepare_corpus(
    'demo', data_dir=folder, num_workers=1, report=lambda line: None
  )
  return folder


def command(data_dir, workdir, *more):
  return [
    sys.executable,
    '-m',
    'jaxser.main',
    f'--config={ROOT}/configs/timnet.py',
    f'--config.data_dir={data_dir}',
    '--config.tensorboard=false',
    f'--workdir={workdir}',
    *SMALL,
    *more,
  ]


def environment(data_dir):
  return {
    'JAX_PLATFORMS': 'cpu',
    # One device: the eight of the other tests only slow this down.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAXSER_CACHE_DIR': str(data_dir / 'cache'),
  }


def run(data_dir, *arguments):
  return subprocess.run(
    command(data_dir, *arguments),
    env={**os.environ, **environment(data_dir)},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def start(data_dir, workdir, *more):
  """The same, PLAIN, while this process goes on."""
  return forked_main.Started(
    command(data_dir, workdir, PLAIN, *more)[3:],
    environment(data_dir),
    workdir / 'printed',
  )


def finish(data_dir, workdir):
  program = start(data_dir, workdir)
  assert program.end() == 0, program.printed


@pytest.fixture(scope='module')
def finished(data_dir, tmp_path_factory):
  """A whole run: its work folder and what it printed."""
  workdir = tmp_path_factory.mktemp('run')
  done = run(data_dir, workdir)
  assert done.returncode == 0, done.stderr
  return workdir, done


def test_the_folder_holds_everything_and_the_table_ends_the_run(finished):
  workdir, done = finished
  for name in (
    'config.json',
    'folds.json',
    'metrics.jsonl',
    'predictions.jsonl',
    'results.json',
    'report.html',
    'model.json',
    'models/seed0-fold00.best_on_dev.safetensors',
    'models/seed0-fold01.last.safetensors',
    'checkpoints/folds',
  ):
    assert (workdir / name).exists(), name
  assert 'DEMO CORPUS' in done.stdout
  for text in ('UAR', 'WAR', 'macro F1', 'interval', 'recall', str(workdir)):
    assert text in done.stdout, text
  assert 'python -m data_prep --corpus=emodb' in done.stdout
  assert 'epochs' in done.stderr


def test_results_are_computed_from_the_predictions(finished):
  workdir, _ = finished
  results = json.loads((workdir / 'results.json').read_text())
  rows = predictions.read_predictions(workdir / 'predictions.jsonl')
  assert set(results['selections']) == {'last', 'best_on_dev'}
  for name, entry in results['selections'].items():
    chosen = [p for p in rows if p.selection == name]
    assert len(chosen) == 80  # Two folds of forty utterances.
    right = np.mean([p.target == p.prediction for p in chosen])
    assert entry['pooled']['war']['value'] == round(100 * right, 2)
    for p in chosen:
      best = results['classes'][int(np.argmax(p.scores))]
      assert p.prediction == best
      assert sum(p.scores) == pytest.approx(1, abs=1e-5)


def test_curves_have_one_row_per_epoch_and_no_test_label_was_read(finished):
  workdir, _ = finished
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  seen = [(r['fold'], r['epoch'], r['split']) for r in rows]
  assert seen == [
    (fold, epoch, split)
    for fold in (0, 1)
    for epoch in range(1, 7)
    for split in ('train', 'dev')
  ]


def test_repeating_the_command_only_shows_the_results_again(finished, data_dir):
  workdir, first = finished
  before = (workdir / 'predictions.jsonl').read_bytes()
  again = run(data_dir, workdir)
  assert again.returncode == 0
  assert (workdir / 'predictions.jsonl').read_bytes() == before
  table = first.stdout.split('Wall time')[0]
  assert again.stdout.split('Wall time')[0] == table


def test_another_config_in_the_same_folder_is_refused(finished, data_dir):
  workdir, _ = finished
  done = run(data_dir, workdir, '--config.model.dropout=0.5')
  assert done.returncode == 2
  assert 'model.dropout: there 0.1, now 0.5' in done.stderr
  assert 'Traceback' not in done.stderr


def checkpoints_in(workdir):
  return sorted(workdir.glob('checkpoints/*/*')) + sorted(
    workdir.glob('folds/*')
  )


def test_kill_9_at_ten_moments_changes_no_byte(finished, data_dir, tmp_path):
  whole, _ = finished
  random = np.random.default_rng(0)
  kills = 0
  while kills < 10:
    program = start(data_dir, tmp_path)
    # At a random moment of the first epoch that it comes to, or of its saving.
    before = checkpoints_in(tmp_path)
    while program.running and checkpoints_in(tmp_path) == before:
      time.sleep(0.005)
    time.sleep(random.uniform(0, 0.3))
    if not program.running:
      break
    program.process.kill()
    program.end()
    kills += 1
  finish(data_dir, tmp_path)
  for name in ('predictions.jsonl', 'metrics.jsonl', 'folds.json'):
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
  assert kills >= 5, 'the run was over too soon to be killed often'


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_save_and_exit_with_their_code(
  finished, data_dir, tmp_path, number, code
):
  whole, _ = finished
  program = start(data_dir, tmp_path, '--config.checkpoint_every=100')
  while not (tmp_path / 'metrics.jsonl').exists() or not (
    (tmp_path / 'metrics.jsonl').read_text()
  ):
    assert program.running, program.printed
    time.sleep(0.01)
  os.kill(program.process.pid, number)
  assert program.end() == code, program.printed
  assert 'the same command continues' in program.printed
  assert list(tmp_path.glob('checkpoints/*/*/arrays'))
  finish(data_dir, tmp_path)
  found = (tmp_path / 'predictions.jsonl').read_bytes()
  assert found == (whole / 'predictions.jsonl').read_bytes()
