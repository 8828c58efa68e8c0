"""The program as its users run it, on the demo corpus made small."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxser import main
from jaxser.core import command_line
from jaxser.evaluation import predictions

pytestmark = pytest.mark.slow

KEPT = ('predictions.jsonl', 'metrics.jsonl', 'folds.json')
# One device: the eight of the other tests only slow this down.
ENVIRONMENT = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
# Imports the program once, without touching a device, and forks: its many starts
# then take as long as it runs.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(
  ['jaxser.engine.loop', 'jaxser.engine.train', 'tests.test_main']
)


def arguments(workdir, *more):
  fields = {'tensorboard': 'false', 'embeddings': 'false', 'epochs': 6}
  fields |= {'model.num_blocks': 1, 'checkpoint_every': 1}
  fields |= {'fold_subset': '(0, 1)'}
  given = [f'--config.{name}={value}' for name, value in fields.items()]
  return ['--config=timnet', *given, f'--workdir={workdir}', *more]


def run(argv, printed):
  """`python -m jaxser.main` in a process of its own."""
  os.environ.update(ENVIRONMENT)
  file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  sys.argv = ['main', *argv]  # Results record the command.
  sys.exit(command_line.run(main.main, main.FLAGS))


def start(workdir, *more):
  """The program, while this process goes on."""
  given = arguments(workdir, *more), workdir / 'printed'
  process = SERVER.Process(target=run, args=given)
  process.start()
  return process


def end(process, workdir, code):
  """What the program has printed at its end."""
  process.join()
  printed = (workdir / 'printed').read_text('utf-8')
  assert process.exitcode == code, printed
  return printed


def finish(workdir, *more, code=0):
  return end(start(workdir, *more), workdir, code)


@pytest.fixture(scope='module')
def finished(data_dir, tmp_path_factory):
  """A whole run as it is typed: its work folder and what it printed."""
  workdir = tmp_path_factory.mktemp('run')
  command = [sys.executable, '-m', 'jaxser.main', *arguments(workdir)]
  options = {'env': os.environ | ENVIRONMENT, 'text': True}
  done = subprocess.run(command, capture_output=True, **options)
  assert done.returncode == 0, done.stderr
  return workdir, done


def test_the_folder_holds_everything_and_the_table_ends_the_run(finished):
  workdir, done = finished
  names = ['config.json', 'results.json', 'report.html', 'model.json']
  names += ['models/seed0-fold00.best_on_dev.safetensors']
  names += ['models/seed0-fold01.last.safetensors', 'checkpoints']
  for name in (*KEPT, *names):
    assert (workdir / name).exists(), name
  # One row per epoch; no test label was read.
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  expected = itertools.product((0, 1), range(1, 7), ('train', 'dev'))
  assert [(r['fold'], r['epoch'], r['split']) for r in rows] == [*expected]
  assert 'DEMO CORPUS' in done.stdout
  for text in ('UAR', 'WAR', 'macro F1', 'interval', 'recall', str(workdir)):
    assert text in done.stdout, text
  assert 'python -m data_prep --corpus=emodb' in done.stdout
  assert 'epochs' in done.stderr


def test_scores_are_those_of_the_predictions(finished):
  workdir, _ = finished
  results = json.loads((workdir / 'results.json').read_text())
  rows = predictions.read_predictions(workdir / 'predictions.jsonl')
  assert set(results['selections']) == {'last', 'best_on_dev'}
  for name, entry in results['selections'].items():
    right = [p.target == p.prediction for p in rows if p.selection == name]
    assert len(right) == 80  # Two folds of forty utterances.
    assert entry['pooled']['war']['value'] == round(100 * np.mean(right), 2)
  for p in rows:
    assert p.prediction == results['classes'][int(np.argmax(p.scores))]
    assert sum(p.scores) == pytest.approx(1, abs=1e-5)


def test_the_same_command_shows_the_results_again_another_is_refused(finished):
  workdir, first = finished
  before = (workdir / 'predictions.jsonl').read_bytes()
  table = first.stdout.split('Wall time')[0]
  assert table in finish(workdir)
  printed = finish(workdir, '--config.model.dropout=0.5', code=2)
  assert 'model.dropout: there 0.1, now 0.5' in printed
  assert 'Traceback' not in printed
  assert (workdir / 'predictions.jsonl').read_bytes() == before


def checkpoints_in(workdir):
  return set(workdir.glob('checkpoints/**/*'))


def test_kill_9_at_five_moments_changes_no_byte(finished, tmp_path):
  whole, _ = finished
  random = np.random.default_rng(0)
  kills = 0
  while kills < 5:
    process = start(tmp_path)
    # At a random moment of the first epoch that it comes to, or of its saving.
    before = checkpoints_in(tmp_path)
    while process.is_alive() and checkpoints_in(tmp_path) == before:
      time.sleep(0.005)
    time.sleep(random.uniform(0, 0.3))
    if not process.is_alive():
      break
    process.kill()
    process.join()
    kills += 1
  finish(tmp_path)
  for name in KEPT:
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
  assert kills >= 3, 'the run was over too soon to be killed often'


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_save_and_exit_with_their_code(
  finished, tmp_path, number, code
):
  whole, _ = finished
  process = start(tmp_path, '--config.checkpoint_every=100')
  curves = tmp_path / 'metrics.jsonl'
  while not curves.exists() or not curves.stat().st_size:
    assert process.is_alive(), (tmp_path / 'printed').read_text('utf-8')
    time.sleep(0.01)
  os.kill(process.pid, number)
  printed = end(process, tmp_path, code)
  assert 'run the same command to continue' in printed
  assert checkpoints_in(tmp_path)
  finish(tmp_path)
  found = (tmp_path / 'predictions.jsonl').read_bytes()
  assert found == (whole / 'predictions.jsonl').read_bytes()
