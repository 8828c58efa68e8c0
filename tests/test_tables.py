"""Tables of papers: what runs, what is read again, what the verdicts say."""

import json
import re
import signal
from xml.etree import ElementTree

import pytest

from data_prep import store
from jaxser import tables as command
from jaxser import train
from jaxser.core import config as config_lib
from jaxser.data import opening
from jaxser.engine import interruption
from jaxser.report.tables import running
from tests import fakes, paper_table
from tests.paper_table import TABLE


@pytest.fixture
def table(tmp_path):
  """The table above as a file."""
  path = tmp_path / 'table_file.py'
  path.write_text(TABLE)
  return path


@pytest.fixture
def calls(monkeypatch):
  """Pretends that all is prepared, and to train; lists the folders trained."""
  return paper_table.pretend(monkeypatch)


def run(table, workdir, *more):
  return command.main([str(table), f'--workdir={workdir}', *more])


def read(workdir):
  return json.loads((workdir / 'table.json').read_text())


def line(content, group, label):
  return next(
    x for x in content['lines'] if (x['group'], x['label']) == (group, label)
  )


def states(content):
  return {about['name']: about['state'] for about in content['cells']}


def test_a_table_runs_its_cells_and_judges_them(table, calls, tmp_path, capsys):
  assert run(table, tmp_path / 'w') == 0
  assert calls == ['emodb-published', 'savee-published']
  content = read(tmp_path / 'w')
  assert states(content) == {
    'emodb-published': 'finished',
    'savee-published': 'finished',
    'casia-published': 'ready',
  }
  results = json.loads(
    (tmp_path / 'w/emodb-published/results.json').read_text()
  )
  found = line(content, 'best', 'EMODB')['values']
  for metric, verdict in (('uar', 'within'), ('war', 'below')):
    entry = results['selections']['best_on_test']
    pooled = entry['pooled'][metric]
    assert found[metric]['value'] == pooled['value']
    assert (found[metric]['low'], found[metric]['high']) == (
      pooled['low'],
      pooled['high'],
    )
    assert found[metric]['fold_mean'] == entry['fold_mean'][metric]
    assert found[metric]['verdict'] == verdict
    paper = {'uar': 80.0, 'war': 99.0}[metric]
    assert found[metric]['difference'] == pytest.approx(pooled['value'] - paper)
  assert line(content, 'best', 'SAVEE')['values']['uar']['verdict'] == 'above'
  last = line(content, 'last', 'EMODB')['values']['uar']
  assert last['verdict'] == 'not comparable'
  assert last['reason'] == 'the paper has no figure'
  # The same predictions: no difference, and no doubt about it.
  against = line(content, 'best', 'SAVEE')['against']
  assert against['baseline'] == 'emodb-published'
  assert against['metrics']['uar']['value'] == 0
  assert against['metrics']['uar']['p_holm'] == 1
  average = line(content, 'best', 'average of all')
  assert (average['have'], average['need']) == (2, 3)
  assert average['values']['uar']['value'] == pytest.approx(
    found['uar']['value'], abs=0.01
  )
  printed = capsys.readouterr().out
  assert printed.startswith((tmp_path / 'w/table.md').read_text())
  told = f'{found["war"]["value"]:.2f}'
  assert f'|  | WAR | {told} |' in printed
  assert '(5 folds)' in printed
  assert '| within |' in printed
  assert '| below |' in printed
  assert 'needs a \\| store of its own' in printed


def test_finished_cells_are_read_and_not_run_again(table, calls, tmp_path):
  assert run(table, tmp_path / 'w', '--only=emodb-published') == 0
  first = read(tmp_path / 'w')
  assert states(first)['savee-published'] == 'ready'
  assert run(table, tmp_path / 'w') == 0
  assert calls == ['emodb-published', 'savee-published']
  assert line(read(tmp_path / 'w'), 'best', 'EMODB') == line(
    first, 'best', 'EMODB'
  )
  pages = [
    (tmp_path / 'w' / n).read_bytes() for n in ('table.md', 'table.html')
  ]
  assert run(table, tmp_path / 'w') == 0
  assert pages == [
    (tmp_path / 'w' / n).read_bytes() for n in ('table.md', 'table.html')
  ]


def test_overrides_are_not_the_papers_budget(table, calls, tmp_path):
  sets = ('--set=epochs=60', '--set=seeds=1', '--set=tensorboard=false')
  assert run(table, tmp_path / 'w', *sets) == 0
  content = read(tmp_path / 'w')
  found = line(content, 'best', 'EMODB')['values']['war']
  assert found['verdict'] == 'not comparable'
  assert found['reason'] == "not the paper's budget: epochs=60 instead of 500"
  for name in ('table.md', 'table.html'):
    told = (tmp_path / 'w' / name).read_text()
    assert 'not the paper' in told
    assert 'epochs=60' in told
  config = json.loads((tmp_path / 'w/emodb-published/config.json').read_text())
  assert (config['epochs'], config['tensorboard']) == (60, False)
  recorded = json.loads(
    (tmp_path / 'w/emodb-published/results.json').read_text()
  )['command']
  assert recorded == (
    'python -m jaxser.main --config=configs/timnet.py:corpus=emodb,'
    'protocol=published --config.epochs=60 --config.tensorboard=False '
    f'--workdir={tmp_path}/w/emodb-published'
  ), recorded
  # What only changes the spread or the speed is the paper's budget.
  assert run(table, tmp_path / 'x', '--set=seeds=3') == 0
  assert line(read(tmp_path / 'x'), 'best', 'EMODB')['values']['war'][
    'verdict'
  ] == ('below')


def test_a_run_of_another_config_is_not_taken(table, calls, tmp_path, capsys):
  assert run(table, tmp_path / 'w', '--set=epochs=60') == 0
  assert run(table, tmp_path / 'w') == 1
  assert len(calls) == 2
  assert 'epochs: there 60, now 500' in capsys.readouterr().err
  assert states(read(tmp_path / 'w'))['emodb-published'] == 'failed'


def test_what_is_not_prepared_is_shown_with_its_command(
  table, calls, tmp_path, monkeypatch, capsys
):
  monkeypatch.undo()
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was run'))
  more = (f'--data_dir={tmp_path}/stores',)
  assert run(table, tmp_path / 'w', *more) == 0
  content = read(tmp_path / 'w')
  assert set(states(content).values()) == {'not prepared'}
  wanted = content['prepare'][0]
  assert wanted.startswith('python -m data_prep --corpus=emodb --audio_dir=DIR')
  for flag in ('features=librosa22k', 'signal_length=96000', 'data_dir='):
    assert f'--{flag}' in wanted
  assert wanted in capsys.readouterr().out
  assert wanted in (tmp_path / 'w/table.html').read_text()
  assert line(content, 'best', 'EMODB')['values']['uar']['paper'] == 80.0


def test_damaged_stores_fail_their_cells_only(
  table, calls, tmp_path, monkeypatch, capsys
):
  def find(config, name):
    if name == 'savee':
      raise store.StoreError('2 stores of savee have librosa22k; delete one')

  monkeypatch.setattr(opening, 'find', find)
  assert run(table, tmp_path / 'w') == 1
  assert calls == ['emodb-published']
  assert 'savee-published: 2 stores of savee' in capsys.readouterr().err


@pytest.mark.parametrize(
  'error', [store.StoreError('disk & co'), RuntimeError('disk & co')]
)
def test_an_error_ends_its_own_cell_only(
  table, calls, tmp_path, monkeypatch, capsys, error
):
  pretend = train.run

  def fails(config, folder, **more):
    if config.corpus == 'emodb':
      raise error
    pretend(config, folder, **more)

  monkeypatch.setattr(train, 'run', fails)
  assert run(table, tmp_path / 'w') == 1
  assert calls == ['savee-published']
  assert states(read(tmp_path / 'w'))['emodb-published'] == 'failed'
  assert 'disk & co' in (tmp_path / 'w/table.md').read_text()
  assert 'disk &amp; co' in (tmp_path / 'w/table.html').read_text()
  shown = capsys.readouterr().err
  assert ('Traceback' in shown) == isinstance(error, RuntimeError)
  # The next call tries again.
  monkeypatch.setattr(train, 'run', pretend)
  assert run(table, tmp_path / 'w') == 0


@pytest.mark.parametrize(
  ('stop', 'code'),
  [
    (interruption.Interrupted(signal.SIGTERM), 143),
    (interruption.Interrupted(signal.SIGINT), 130),
    (KeyboardInterrupt(), 130),
  ],
)
def test_stopping_leaves_the_table_and_the_same_command_continues(
  table, calls, tmp_path, monkeypatch, stop, code
):
  pretend = train.run

  def stopped(config, folder, **more):
    if config.corpus == 'savee':
      config_lib.claim(config, folder)
      raise stop
    pretend(config, folder, **more)

  monkeypatch.setattr(train, 'run', stopped)
  assert run(table, tmp_path / 'w') == code
  found = states(read(tmp_path / 'w'))
  assert found['emodb-published'] == 'finished'
  assert found['savee-published'] == 'started'
  assert 'begun, not finished' in (tmp_path / 'w/table.md').read_text()
  monkeypatch.setattr(train, 'run', pretend)
  assert run(table, tmp_path / 'w') == 0
  assert calls == ['emodb-published', 'savee-published']


def test_list_shows_states_and_writes_nothing(table, calls, tmp_path, capsys):
  assert run(table, tmp_path / 'w', '--list', '--set=epochs=2') == 0
  assert not calls
  assert not (tmp_path / 'w').exists()
  printed = capsys.readouterr().out
  assert 'emodb-published: not run yet' in printed
  assert 'epochs=2 instead of 500' in printed
  assert '--config=configs/timnet.py:corpus=emodb,protocol=published' in printed


def test_cells_not_named_are_shown_as_they_are(table, calls, tmp_path):
  assert run(table, tmp_path / 'w', '--set=epochs=60') == 0
  assert run(table, tmp_path / 'w', '--only=casia-published') == 0
  assert calls[2:] == ['casia-published']
  content = read(tmp_path / 'w')
  assert set(states(content).values()) == {'finished'}
  assert (
    'epochs=60' in line(content, 'best', 'EMODB')['values']['uar']['reason']
  )
  assert line(content, 'last', 'CASIA')['values']['uar']['reason'] == (
    'the paper has no figure'
  )


def test_what_a_machine_must_give_is_asked_for(table, calls, tmp_path, capsys):
  table.write_text(
    TABLE.replace(
      "cell('emodb')", "cell('emodb', required={'init_from': 'FILE'})"
    )
  )
  assert run(table, tmp_path / 'w') == 0
  assert calls == ['savee-published']
  assert '--set=init_from=FILE' in capsys.readouterr().out
  only = '--only=emodb-published'
  assert run(table, tmp_path / 'w', only, '--set=init_from=weights.zip') == 0
  found = line(read(tmp_path / 'w'), 'best', 'EMODB')['values']['war']
  assert found['verdict'] == 'below'  # It is part of the paper's run.


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--only=emodb-publish'], r'is no cell .*Did you mean emodb-published'),
    (['--set=epochs'], '--set=epochs: is not FIELD=VALUE'),
    (['--set=epocs=3'], 'epocs is no field .* Did you mean epochs'),
    (['--set=epochs=many'], '--set=epochs=many: expected int'),
    (['--set=tensorboard=2'], '--set=tensorboard=2: expected bool'),
    (['--set=epochs=0'], r'epochs=0 must be at least 1'),
    (['--set=epochs=3', '--set=epochs=4'], 'epochs is set twice'),
  ],
)
def test_wrong_arguments_are_explained(
  table, calls, tmp_path, capsys, arguments, message
):
  assert run(table, tmp_path / 'w', *arguments) == 2
  assert not calls
  told = ' '.join(capsys.readouterr().err.split())
  assert re.search(message, told), told


def test_page_is_well_formed_and_asks_for_nothing(table, calls, tmp_path):
  assert run(table, tmp_path / 'w') == 0
  page = (tmp_path / 'w/table.html').read_text()
  tree = ElementTree.fromstring(page)
  assert tree.find('.//h1').text == 'A <table>'
  ids = [x.get('id') for x in tree.iter() if x.get('id')]
  assert len(ids) == len(set(ids))
  links = [x.get('href') for x in tree.iter('a')]
  assert 'emodb-published/report.html' in links
  for link in links:
    assert link.lstrip('#') in ids or (tmp_path / 'w' / link).parent.is_dir()
  assert not list(tree.iter('script'))
  assert 'default-src &#x27;none&#x27;' in page
  svgs = list(tree.iter('{http://www.w3.org/2000/svg}svg'))
  assert len(svgs) == 4
  told = ''.join(svgs[0].itertext())
  assert 'EMODB: 82.00 (79.00 to 85.00)' in told
  assert 'paper 80.00' in told


def test_a_cell_runs_for_real_and_is_then_read(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(running.jax, 'clear_caches', lambda: None)
  corpus = fakes.corpus(speakers=3, repeats=1)
  monkeypatch.setattr(opening, 'open_corpus', lambda config: corpus)
  arguments = (
    'configs/tables/timnet_single_corpus.py',
    tmp_path / 'w',
    '--demo',
    '--only=demo-speaker_independent',
    '--set=epochs=1',
    '--set=model.num_blocks=1',
    '--set=fold_subset=(0,)',
    '--set=tensorboard=false',
    '--set=embeddings=false',
  )
  assert run(*arguments) == 0
  content = read(tmp_path / 'w')
  assert states(content) == {
    'demo-published': 'ready',
    'demo-speaker_independent': 'finished',
  }
  assert content['cells'][1]['utterances'] == 3
  assert 'DEMO CORPUS' in capsys.readouterr().out
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was rerun'))
  assert run(*arguments) == 0
  assert read(tmp_path / 'w') == content
