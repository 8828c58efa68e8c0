"""The command line of the benchmark: what is typed is what is measured."""

import importlib.util
import json
import shlex
import subprocess
import sys

import pytest

from jaxser.benchmark import __main__ as program
from jaxser.benchmark import tables
from jaxser.core import command_line
from tests import trained

pytestmark = pytest.mark.slow
TIMNET = (
  '--config=configs/timnet.py',
  '--config.model.num_blocks=1',
  '--config.data.max_length=12',
)
QUICK = ('--rounds=2', '--seconds=0', '--noceilings')


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a command line; returns exit code, output and errors."""
  monkeypatch.setattr(program.runtime, 'keep_freed_memory', lambda: True)

  def command(*words):
    monkeypatch.setattr(sys, 'argv', ['benchmark', *map(str, words)])
    code = command_line.run(program.main, program.FLAGS)
    return code, *capsys.readouterr()

  return command


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--trainings=10'], '--trainings=10 has no effect without --topology;'),
    (['--counts=1,2'], 'without --scale=devices or --scale=folds;'),
    (['--files=8'], '--files=8 has no effect without --checkpoint;'),
    (
      ['--scale=devices', '--compare=keras'],
      '--compare=keras has no effect with --scale=devices; leave it out.',
    ),
    (['--scale=folds', '--nolatency'], '--nolatency has no effect with'),
    (['--topology=v5e:2x2', '--scale=folds'], '--scale=folds has no effect'),
    (['--checkpoint=W'], '--config has no effect with --checkpoint;'),
    (['--scale=folds', '--counts=1,x'], '--counts=1,x must be positive'),
    (
      ['--config=baseline'],
      'baseline is fitted on the host and has no training',
    ),
    (['--into=README.md'], 'give the marks too, as in --into=README.md#NAME.'),
    (['--into=README.md#absent'], 'has no <!-- absent --> followed by'),
    (['--into=none.md#t'], 'none.md: No such file'),
  ],
)
def test_mistakes_are_refused_before_measuring(run, words, message):
  code, printed, errors = run('--config=configs/timnet.py', *words)
  assert (code, printed) == (2, '')
  assert errors.startswith('Error: ')
  assert message in errors
  assert errors.count('\n') == 1


def test_every_flag_belongs_to_a_measurement():
  """A flag that the table forgets would be refused everywhere."""
  measured = set().union(*program._OPTIONS.values())
  own = {name for name in program.FLAGS if '.' not in name}
  assert own == measured | {'json', 'keep_heap'}


@pytest.fixture
def page(tmp_path):
  path = tmp_path / 'page.md'
  path.write_text('Before\n<!-- t -->\nprevious\n<!-- /t -->\nAfter', 'utf-8')
  return path


def table_of(page):
  """The cells of the table in the page, and the lines under it."""
  text = page.read_text('utf-8')
  assert text.startswith('Before\n<!-- t -->\n\n| ')
  assert text.endswith('\n\n<!-- /t -->\nAfter')
  assert 'previous' not in text
  lines = text.splitlines()[3:-2]
  table = [line.strip('| ').split(' | ') for line in lines if line[:1] == '|']
  assert len({len(row) for row in table}) == 1
  return [table[0], *table[2:]], [line for line in lines if line[:1] != '|']


@pytest.mark.parametrize(
  ('words', 'about', 'first'),
  [
    (
      # Sixteen is the recipe's own for the demo corpus, which stands for 64.
      ['--config.batch_size=16', '--only=training'],
      'timnet, 16 utterances of 12 x 128 per call in one batch',
      ['program', 'jaxser training float32'],
    ),
    (
      ['--scale=devices', '--counts=1,2', '--batch_size=4'],
      '4 utterances of 12 x 128 per device in one batch',
      ['devices', '1', '2'],
    ),
    (
      ['--scale=folds', '--counts=1', '--config.epochs=100'],
      'one epoch of 535 utterances of 12 x 128 in batches of 64',
      ['folds', '1'],
    ),
  ],
)
def test_figures_go_into_a_page(run, page, tmp_path, words, about, first):
  kept, words = tmp_path / 'kept.json', [*TIMNET, *QUICK, *words]
  code, printed, errors = run(*words, f'--into={page}#t', f'--json={kept}')
  assert code == 0, errors
  assert about in printed
  report = json.loads(kept.read_text('utf-8'))
  assert report['command'].startswith('python -m jaxser.benchmark --config=')
  table, notes = table_of(page)
  assert [row[0] for row in table] == first
  assert table[1][1] == tables.number(report['rows'][0]['utterances/s'])
  assert '% of the measured peak' not in table[0]  # It was not measured.
  machine = report['environment']
  assert about in notes[1]
  assert f'{machine["cpu_cores"]} cores of {machine["cpu"]}, JAX' in notes[1]
  assert 'medians of 2 turns' in notes[1]
  # What another person types: nobody's folders, no outputs.
  assert notes[3] == f'    python -m jaxser.benchmark {shlex.join(words)}'


def test_prediction_goes_into_a_page(run, page, tmp_path):
  paths = trained.write_speech(tmp_path, 3)
  options = {'channels': (4, 4), 'embedding': 8, 'max_frames': 64}
  trained.write_run(
    tmp_path / 'w', 'dsnet', paths, folds=1, selections=('last',), **options
  )
  kept = tmp_path / 'kept.json'
  words = [f'--checkpoint={tmp_path / "w"}', '--files=3', f'--into={page}#t']
  code, _, errors = run(*words, '--json', kept)
  assert code == 0, errors
  report = json.loads(kept.read_text('utf-8'))
  table, notes = table_of(page)
  assert table[1][0] == 'host'
  assert table[1][3] == tables.number(report['rows'][0]['files/s'])
  assert 'dsnet, 1 models, from wav files of 3 s, 3 at a time' in notes[1]
  assert notes[3] == (
    '    python -m jaxser.benchmark --checkpoint=runs/w --files=3'
  )


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu (the extra `tpu`)',
)
def test_a_topology_goes_into_its_page(run, tmp_path):
  page, kept = tmp_path / 'scaling.md', tmp_path / 'kept.json'
  words = [*TIMNET, '--topology=v5e:2x2', '--batch_size=2']
  code, printed, errors = run(*words, f'--markdown={page}', f'--json={kept}')
  assert code == 0, errors
  (row,) = json.loads(kept.read_text('utf-8'))['rows']
  assert {one['kind'] for one in row['sent']} == {'all-reduce'}
  text = page.read_text('utf-8')
  assert '| v5e:2x2 | 4 | 1 |' in text
  assert 'Collectives of v5e:2x2' in printed
  assert f'benchmark {shlex.join([*words, f"--markdown={page}"])}\n' in text


def test_what_another_person_types():
  words = [
    '--config=configs/timnet.py:corpus=emodb',
    '--into=README.md#t',
    '--json',
    'x.json',
    '--data_dir=/home/me/data',
    '--config.data_dir=/home/me/data',
    '--nolatency',
  ]
  assert tables.public_command(words) == (
    'python -m jaxser.benchmark --config=configs/timnet.py:corpus=emodb '
    '--data_dir=DIR --nolatency'
  )
  for place in ('/tmp/x/demo', '../demo/', 'runs/demo'):
    command = tables.public_command([f'--checkpoint={place}'])
    assert command.endswith(' --checkpoint=runs/demo')


# jaxser.benchmark where neither TensorFlow nor Keras nor PyTorch is there.
_WITHOUT_LIBRARIES = """
import runpy, sys
for name in ('tensorflow', 'tensorflow_datasets', 'keras', 'librosa', 'torch'):
  sys.modules[name] = None
runpy.run_module('jaxser.benchmark', run_name='__main__')
"""


@pytest.mark.parametrize('compare', ['none', 'keras'])
def test_other_libraries_are_needed_only_to_compare(compare):
  words = [*TIMNET, *QUICK, '--only=prediction', f'--compare={compare}']
  done = subprocess.run(
    [sys.executable, '-c', _WITHOUT_LIBRARIES, *words, '--nolatency'],
    capture_output=True,
    text=True,
  )
  if compare == 'none':
    assert done.returncode == 0, done.stderr
    assert 'jaxser prediction float32' in done.stdout
  else:
    assert done.returncode == 2
    assert "pip install -e '.[test]'" in done.stderr
    assert 'Traceback' not in done.stderr
