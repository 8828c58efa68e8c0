"""The command line of the benchmark: what is typed is what is measured."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest

from jaxser.benchmark import into as into_lib
from jaxser.benchmark import modes
from jaxser.benchmark.timing import BenchmarkError
from tests import trained

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
# Flags are global, so every command gets a process: forked, since starting one
# anew takes seconds of imports. No device is there yet that could be forked.
_SERVER = """
import json, os, sys
from absl import app
from jaxser import command_line
from jaxser.benchmark import __main__ as program
from jaxser.benchmark import collectives, pages, scaling, speed, topology
for line in sys.stdin:
  words, printed, errors = json.loads(line)
  child = os.fork()
  if not child:
    for path, number in ((printed, 1), (errors, 2)):
      os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ['benchmark', *words]
    app.run(program.main, flags_parser=command_line.parse_or_exit)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
TIMNET = (
  '--config=configs/timnet.py',
  '--config.model.num_blocks=1',
  '--config.data.max_length=12',
)
QUICK = ('--rounds=2', '--seconds=0', '--noceilings')


class Done(NamedTuple):
  """What a command did."""

  code: int
  printed: str
  errors: str


@pytest.fixture(scope='module')
def server():
  with subprocess.Popen(
    [sys.executable, '-c', _SERVER],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    yield process
    process.stdin.close()


@pytest.fixture
def run(server, tmp_path):
  """Runs a command line to its end."""

  def command(*words):
    paths = [tmp_path / 'printed', tmp_path / 'errors']
    order = [list(map(str, words)), *map(str, paths)]
    print(json.dumps(order), file=server.stdin, flush=True)
    code = int(server.stdout.readline())
    return Done(code, *(path.read_text('utf-8') for path in paths))

  return command


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (
      ['--trainings=10'],
      '--trainings=10 has no effect without --topology; leave it out, or add '
      '--topology.',
    ),
    (['--counts=1,2'], 'without --scale=devices or --scale=folds;'),
    (['--files=8'], '--files=8 has no effect without --checkpoint;'),
    (
      ['--scale=devices', '--compare=keras'],
      '--compare=keras has no effect with --scale=devices; leave out one of the '
      'two.',
    ),
    (['--scale=folds', '--nolatency'], '--nolatency has no effect with'),
    (['--topology=v5e:2x2', '--dtypes=float32'], 'with --topology;'),
    (['--topology=v5e:2x2', '--scale=folds'], '--scale=folds has no effect'),
    (['--checkpoint=W'], '--config has no effect with --checkpoint;'),
  ],
)
def test_a_flag_of_another_measurement_is_refused(run, words, message):
  done = run('--config=configs/timnet.py', *words)
  assert (done.code, done.printed) == (2, '')
  assert message in done.errors
  assert done.errors.startswith('Error: ')
  assert 'Traceback' not in done.errors


def test_every_flag_of_the_command_belongs_to_a_measurement():
  """A flag that the table forgets would be taken and dropped."""
  text = (ROOT / 'jaxser/benchmark/__main__.py').read_text('utf-8')
  names = set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", text))
  assert names == modes.every_flag()


def test_a_batch_that_was_typed_is_the_one_that_is_timed(run):
  """Sixteen is also the recipe's own for the demo corpus, which stands for 64."""
  done = run(*TIMNET, *QUICK, '--nolatency', '--config.batch_size=16')
  assert done.code == 0, done.errors
  assert 'timnet, 16 utterances of 12 x 128 per call' in done.printed


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


def test_speed_goes_into_a_page(run, page, tmp_path):
  kept = tmp_path / 'kept.json'
  done = run(
    *TIMNET, *QUICK, '--batch_size=8', f'--into={page}#t', f'--json={kept}'
  )
  assert done.code == 0, done.errors
  report = json.loads(kept.read_text('utf-8'))
  table, notes = table_of(page)
  assert [row[0] for row in table[1:]] == list(report['programs'])
  training = report['programs']['jaxser training float32']
  assert table[1][1:3] == [
    f'{training["utterances_per_second"]:.1f}',
    f'{training["milliseconds_per_call"]:.1f}',
  ]
  assert table[1][4] == '—'  # Without ceilings.
  assert 'timnet, 8 utterances of 12 x 128 per call in one batch.' in notes[1]
  delay = report['latency']['training float32']['median_milliseconds']
  assert f'One utterance, training float32: {delay:.1f} ms.' in notes[1]
  about = report['environment']
  assert f'{about["cpu_cores"]} cores of {about["cpu"]}, JAX' in notes[1]
  assert 'medians of 2 turns' in notes[1]
  # What another person types: nobody's folders, no outputs.
  command = shlex.join([*TIMNET, *QUICK, '--batch_size=8'])
  assert notes[3] == f'    python -m jaxser.benchmark {command}'
  assert str(tmp_path) not in page.read_text('utf-8')


def test_weak_scaling_goes_into_a_page(run, page):
  words = ['--scale=devices', '--counts=1,2', '--batch_size=4']
  done = run(*TIMNET, *QUICK, *words, f'--into={page}#t')
  assert done.code == 0, done.errors
  assert '4 utterances of 12 x 128 per device in one batch' in done.printed
  table, notes = table_of(page)
  assert [row[0] for row in table] == ['devices', '1', '2']
  assert table[1][4] == '100.0 %'
  assert 'the devices are parts of one CPU' in notes[1]
  assert shlex.join(words) in notes[3]


def test_trainings_in_one_program_go_into_a_page(run, page):
  words = ['--scale=folds', '--counts=1,2', '--config.epochs=100']
  done = run(*TIMNET, *QUICK, *words, f'--into={page}#t')
  assert done.code == 0, done.errors
  assert '2 trainings of 100 epochs take' in done.printed
  table, notes = table_of(page)
  assert [row[0] for row in table[1:]] == ['jaxser, 1', 'jaxser, 2']
  assert 'one epoch of 535 utterances of 12 x 128 in batches of 64' in notes[1]
  assert 'At this speed 2 trainings of 100 epochs take' in notes[1]


def test_prediction_goes_into_a_page(run, page, tmp_path):
  paths = trained.write_speech(tmp_path, 3)
  trained.write_run(
    tmp_path / 'w',
    'dsnet',
    paths,
    folds=1,
    selections=('last',),
    channels=(4, 4),
    embedding=8,
    max_frames=64,
  )
  kept = tmp_path / 'kept.json'
  done = run(
    f'--checkpoint={tmp_path / "w"}',
    '--files=3',
    f'--into={page}#t',
    '--json',
    kept,
  )
  assert done.code == 0, done.errors
  report = json.loads(kept.read_text('utf-8'))
  assert 'kaldi16k features on the host; 3 files of 3 s' in done.printed
  table, notes = table_of(page)
  assert table[1][0] == 'host'
  assert table[1][3] == f'{report["host"]["files_per_s"]:.1f}'
  assert 'dsnet, 1 members, from wav files of 3 s, 3 at a time' in notes[1]
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
  done = run(*words, f'--markdown={page}', f'--json={kept}')
  assert done.code == 0, done.errors
  (row,) = json.loads(kept.read_text('utf-8'))['rows']
  total = sum(item['bytes_per_step'] for item in row['collective_list'])
  assert total == row['collectives']['all-reduce']['bytes']
  text, program = page.read_text('utf-8'), 'python -m jaxser.benchmark'
  assert '| v5e:2x2 | 4 | 1 |' in text
  for printed in (done.printed, text):
    assert 'Collectives of v5e:2x2' in printed
  assert f'    {program} {shlex.join([*words, f"--markdown={page}"])}\n' in text


@pytest.mark.parametrize(
  ('into', 'message'),
  [
    ('#t', 'give the marks too, as in --into=README.md#NAME.'),
    ('page.md', 'give the marks too'),
    (
      'README.md#absent',
      'has no <!-- absent --> followed by <!-- /absent -->;',
    ),
    ('none.md#t', 'none.md: No such file'),
  ],
)
def test_a_page_without_a_place_is_refused_before_measuring(run, into, message):
  done = run('--config=configs/timnet.py', f'--into={into}')
  assert (done.code, done.printed) == (2, '')
  assert message in done.errors


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
  assert into_lib.typed(words) == (
    'python -m jaxser.benchmark --config=configs/timnet.py:corpus=emodb '
    '--data_dir=DIR --nolatency'
  )
  for place in ('/tmp/x/demo', '../demo/', 'runs/demo'):
    assert into_lib.typed([f'--checkpoint={place}']).endswith(
      ' --checkpoint=runs/demo'
    )


def test_modes():
  assert modes.choose({'config': '--config'}) == modes.SPEED
  scaled = {'scale': '--scale=folds', 'compare': '--compare=keras'}
  assert modes.choose(scaled) == modes.FOLDS
  with pytest.raises(BenchmarkError, match='without --checkpoint;'):
    modes.choose({'files': '--files=3'})
