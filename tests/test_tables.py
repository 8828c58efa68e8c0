"""Tables of papers: what runs, what is read again, what the verdicts say."""

import json
import pathlib
import re
import signal
import statistics
from xml.etree import ElementTree

import pytest

from configs import timnet
from data_prep import store
from jaxser.engine import interruption, opening, train
from jaxser.report.tables import spec, state, summary
from tests import fakes, paper_table, runs
from tests.paper_table import TABLE, run

FILES = pathlib.Path(__file__).parents[1] / 'configs/tables'
NAMES = sorted(path.stem for path in FILES.glob('[!_]*.py'))


@pytest.fixture
def table(tmp_path):
  """A small table as a file."""
  path = tmp_path / 'table_file.py'
  path.write_text(TABLE)
  return path


@pytest.fixture
def workdir(tmp_path):
  return tmp_path / 'w'


@pytest.fixture
def calls(monkeypatch):
  return paper_table.pretend(monkeypatch)


def read(workdir):
  return json.loads((workdir / 'table.json').read_text())


def line(content, *where):
  lines = content['lines']
  return next(x for x in lines if (x['group'], x['label']) == where)


def states(content):
  return {cell['name']: cell['state'] for cell in content['cells']}


def test_a_table_runs_its_cells_and_judges_them(table, calls, workdir, capsys):
  assert run(table, f'--workdir={workdir}') == 0
  assert calls == ['emodb-published', 'savee-published']
  content = read(workdir)
  assert list(states(content).values()) == ['finished', 'finished', 'ready']
  results = json.loads((workdir / 'emodb-published/results.json').read_text())
  entry = results['selections']['best_on_test']
  found = line(content, 'best', 'EMODB')['values']
  for metric, paper, verdict in (('uar', 80, 'within'), ('war', 99, 'below')):
    value = found[metric]
    assert entry['pooled'][metric].items() <= value.items()
    assert value['fold_mean'] == entry['fold_mean'][metric]
    assert value['verdict'] == verdict
    assert value['difference'] == pytest.approx(value['value'] - paper)
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
  printed = capsys.readouterr().out
  assert printed.startswith((workdir / 'table.md').read_text())
  assert re.search(r'\|  \| WAR \| [\d.]+ \([\d.]+ to [\d.]+\) \|', printed)
  assert '| frozen | UAR | — | — | 91.25 | — |' in printed
  assert 'Paper: Others 2024.' in printed
  for words in ('(5 folds)', '| within |', '| below |', 'a \\| store of its'):
    assert words in printed


def test_finished_cells_are_read_and_not_run_again(table, calls, workdir):
  assert run(table, f'--workdir={workdir}', '--only=emodb-published') == 0
  first = line(read(workdir), 'best', 'EMODB')
  assert states(read(workdir))['savee-published'] == 'ready'
  assert run(table, f'--workdir={workdir}') == 0
  assert calls == ['emodb-published', 'savee-published']
  assert line(read(workdir), 'best', 'EMODB') == first
  pages = [workdir / name for name in ('table.md', 'table.html')]
  before = [page.read_bytes() for page in pages]
  assert run(table, f'--workdir={workdir}') == 0
  assert [page.read_bytes() for page in pages] == before
  tree = ElementTree.fromstring((workdir / 'table.html').read_text())
  assert tree.find('.//h1').text == 'A <table>'
  links = [x.get('href') for x in tree.iter('a')]
  assert 'emodb-published/report.html' in links
  charts = list(tree.iter('{http://www.w3.org/2000/svg}svg'))
  assert len(charts) == 4
  words = ''.join(charts[0].itertext())
  assert 'EMODB: 82.00 (79.00 to 85.00), paper 80.00' in words


def test_overrides_are_not_the_papers_budget(table, calls, workdir, capsys):
  sets = ('--set=epochs=60', '--set=seeds=1', '--set=tensorboard=false')
  assert run(table, f'--workdir={workdir}', *sets) == 0
  found = line(read(workdir), 'best', 'EMODB')['values']['war']
  assert (found['verdict'], found['difference']) == ('not comparable', None)
  assert found['reason'] == "not the paper's budget: epochs=60 instead of 500"
  for name in ('table.md', 'table.html'):
    assert 'epochs=60' in (workdir / name).read_text()
  folder = workdir / 'emodb-published'
  recorded = json.loads((folder / 'results.json').read_text())['command']
  assert recorded == (
    'python -m jaxser.main --config=configs/timnet.py:corpus=emodb,'
    'protocol=published --config.epochs=60 --config.tensorboard=False '
    f'--workdir={folder}'
  )
  # What only changes the spread or the speed is the paper's budget.
  other = workdir / 'seeds'
  assert run(table, f'--workdir={other}', '--set=seeds=3') == 0
  verdict = line(read(other), 'best', 'EMODB')['values']['war']['verdict']
  assert verdict == 'below'
  # Cells that are not named are shown as they are.
  assert run(table, f'--workdir={workdir}', '--only=casia-published') == 0
  assert set(states(read(workdir)).values()) == {'finished'}
  found = line(read(workdir), 'best', 'EMODB')['values']['uar']
  assert 'epochs=60' in found['reason']
  # A run of another config is not taken.
  assert run(table, f'--workdir={workdir}') == 1
  assert 'epochs: there 60, now 500' in capsys.readouterr().err
  assert states(read(workdir))['emodb-published'] == 'failed'


def test_weights_on_trust_stand_beside_no_paper(table, calls, workdir):
  assert run(table, f'--workdir={workdir}') == 0
  path = workdir / 'emodb-published/results.json'
  results = {**json.loads(path.read_text()), 'trust_init_from': True}
  results['notes'] = ['It is transductive.']
  path.write_text(json.dumps(results))
  assert run(table, f'--workdir={workdir}') == 0
  found = line(read(workdir), 'best', 'EMODB')['values']['uar']
  assert (found['paper'], found['verdict']) == (None, 'not comparable')
  assert 'may have been trained on' in found['reason']
  text = (workdir / 'table.md').read_text()
  assert '80.00' not in text
  # What a run has to say of itself stands below the table.
  assert '- emodb-published: It is transductive.' in text
  assert (
    'emodb-published: It is transductive.'
    in (workdir / 'table.html').read_text()
  )


def test_what_is_not_prepared_is_shown_with_its_command(
  table, tmp_path, workdir, monkeypatch, capsys
):
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was run'))
  more = f'--data_dir={tmp_path}/stores'
  assert run(table, f'--workdir={workdir}', more) == 0
  content = read(workdir)
  assert set(states(content).values()) == {'not prepared'}
  wanted = content['prepare'][0]
  assert wanted.startswith('python -m data_prep --corpus=emodb --audio_dir=DIR')
  assert '--signal_length=96000' in wanted
  assert wanted in capsys.readouterr().out
  assert wanted in (workdir / 'table.html').read_text()
  assert line(content, 'best', 'EMODB')['values']['uar']['paper'] == 80.0


@pytest.mark.parametrize(
  'error', [store.StoreError('disk & co'), RuntimeError('disk & co')]
)
def test_an_error_ends_its_own_cell_only(table, calls, workdir, capsys, error):
  calls.errors['emodb'] = error
  assert run(table, f'--workdir={workdir}') == 1
  assert calls == ['savee-published']
  assert states(read(workdir))['emodb-published'] == 'failed'
  assert 'disk & co' in (workdir / 'table.md').read_text()
  assert 'disk &amp; co' in (workdir / 'table.html').read_text()
  shown = capsys.readouterr().err
  assert ('Traceback' in shown) == isinstance(error, RuntimeError)
  calls.errors.clear()
  assert run(table, f'--workdir={workdir}') == 0


@pytest.mark.parametrize(
  ('stop', 'code'),
  [(interruption.Interrupted(signal.SIGTERM), 143), (KeyboardInterrupt(), 130)],
)
def test_stopping_leaves_the_table_and_the_same_command_continues(
  table, calls, workdir, stop, code
):
  calls.errors['savee'] = stop
  assert run(table, f'--workdir={workdir}') == code
  assert list(states(read(workdir)).values())[:2] == ['finished', 'started']
  assert 'begun, not finished' in (workdir / 'table.md').read_text()
  calls.errors.clear()
  assert run(table, f'--workdir={workdir}') == 0
  assert calls == ['emodb-published', 'savee-published']


def test_list_shows_states_and_writes_nothing(table, calls, workdir, capsys):
  assert run(table, f'--workdir={workdir}', '--list', '--set=epochs=2') == 0
  assert not calls
  assert not workdir.exists()
  printed = capsys.readouterr().out
  assert 'emodb-published: not run yet' in printed
  assert 'epochs=2 instead of 500' in printed
  assert '--config=configs/timnet.py:corpus=emodb,protocol=published' in printed


def test_what_a_machine_must_give_is_asked_for(table, calls, workdir, capsys):
  needs = "cell('emodb', required={'init_from': 'FILE'})"
  table.write_text(TABLE.replace("cell('emodb')", needs))
  assert run(table, f'--workdir={workdir}') == 0
  assert calls == ['savee-published']
  assert '--set=init_from=FILE' in capsys.readouterr().out
  more = ('--only=emodb-published', '--set=init_from=weights.zip')
  assert run(table, f'--workdir={workdir}', *more) == 0
  found = line(read(workdir), 'best', 'EMODB')['values']['war']
  assert found['verdict'] == 'below'  # It is part of the paper's run.


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--only=emodb-publish'], r'is no cell .*Did you mean emodb-published'),
    (['--set=epochs'], '--set=epochs=: invalid'),
    (['--set=epocs=3'], 'epocs is no field .* Did you mean --set=epochs'),
    (['--set=epochs=many'], "--set=epochs=many: .*'many'"),
    (['--set=epochs=0'], r'epochs=0 must be at least 1'),
    (['other.py'], 'give one file of configs/tables'),
  ],
)
def test_wrong_arguments_are_explained(
  table, calls, workdir, capsys, arguments, message
):
  assert run(table, f'--workdir={workdir}', *arguments) == 2
  assert not calls
  words = ' '.join(capsys.readouterr().err.split())
  assert re.search(message, words), words


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (("'uar': 80.0", "'uar': '71'"), "uar is '71', expected a number"),
    (("('best', 'best_on", "('best', 'best_at"), "'best_at_test' is unknown"),
    (("'uar': 80.0", "'f1': 71.0"), "metric 'f1' is unknown"),
    (("{'uar': 5.0, 'war'", "{'uar': 5.0, 'x'"), 'state its tolerance'),
    (("baseline='emodb-p", "baseline='emo-p"), "baseline 'emo-published' is"),
    (("Average('best'", "Average('worst'"), "group 'worst' is unknown"),
    (("Published('last'", "Published('l'"), "group 'l' is unknown"),
    (("name=f'{corpus}-", "name=f'../"), "'../published' is to be a folder"),
    (("name=f'{corpus}-", "name=f'one-"), "two cells have the name 'one-publ"),
    (("metrics=('uar',", "metrics=('ccc_mean',"), 'are not of one task'),
    (("SOURCE = 'Somebody 2020, Table 1'", "SOURCE = ''"), 'say where'),
    (('title=', 'titel='), 'unexpected keyword'),
    (('\nTABLE = ', '\nTABEL = '), 'has no TABLE'),
    (("configs/timnet.py'", "configs/tim.py'"), 'configs/tim.py: no'),
    (('corpus={corpus},', 'korpus={corpus},'), "argument 'korpus' is unknown"),
    (
      ('label=corpus.upper(),', "label='x', overrides={'epochs': 'all'},"),
      'epochs=all: invalid',
    ),
  ],
)
def test_wrong_table_files_are_explained(
  table, workdir, monkeypatch, capsys, change, message
):
  assert change[0] in TABLE
  table.write_text(TABLE.replace(*change))
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was run'))
  assert run(table, f'--workdir={workdir}') == 2
  assert not workdir.exists()
  words = capsys.readouterr().err
  assert message in words
  assert 'Traceback' not in words


def test_averages_over_seeds_as_cross_corpus_papers_give_them(
  tmp_path, monkeypatch
):
  """Mean over cells of the mean, or of the best, seed; spread over seeds."""
  figures = (spec.Figure('g', 'last'),)
  cells = tuple(
    spec.Cell(name, name, 'configs/timnet.py', 'corpus=demo', figures)
    for name in ('a', 'b')
  )
  table = spec.Table(
    title='t',
    metrics=('war',),
    tolerance={'war': 50.0},
    cells=cells,
    averages=(
      spec.Average('g', 'mean', 'mean', {'war': 70.0}, 's'),
      spec.Average('g', 'best', over='best'),
    ),
  )
  made, expected = [], []
  rows = runs.class_predictions(seeds=(0, 1, 2), selections=('last',))
  for cell in cells:
    made.append(state.resolve(cell, tmp_path, {}))
    runs.write_run(made[-1].folder, rows)
    made[-1].read()
    right = [
      [p.target == p.prediction for p in rows if p.seed == seed]
      for seed in (0, 1, 2)
    ]
    expected.append([100 * statistics.fmean(x) for x in right])
    rows = [p for p in rows if p.speaker != '03']
  content = summary.build(table, made, file='t.py', sets={})
  mean, best = (entry['values']['war'] for entry in content['lines'][-2:])
  a, b = expected
  assert mean['value'] == pytest.approx((sum(a) + sum(b)) / 6, abs=1e-3)
  assert best['value'] == pytest.approx((max(a) + max(b)) / 2, abs=1e-3)
  std = statistics.stdev((x + y) / 2 for x, y in zip(a, b, strict=True))
  assert mean['over_seeds']['std'] == pytest.approx(std, abs=1e-3)
  assert mean['reason'] == '60 of the 240 utterances of demo'
  monkeypatch.setattr(summary.corpora, 'CORPORA', {})
  content = summary.build(table, made, file='t.py', sets={})
  assert content['lines'][-2]['values']['war']['verdict'] == 'within'


@pytest.mark.parametrize('name', NAMES)
def test_every_cell_of_a_shipped_table_is_a_valid_run(name, tmp_path):
  table, seen = spec.load(FILES / f'{name}.py'), set()
  asked, with_baseline = set(), set()
  for cell in (*table.cells, *table.demo):
    found = state.resolve(cell, tmp_path, {})
    about = found.config.to_json()
    assert about not in seen or cell.on_request, cell.name
    seen.add(about)
    question = tuple(
      found.config[field] for field in ('corpus', 'test_corpus', 'protocol')
    )
    asked.add(question)
    if cell.config == 'configs/baseline.py':
      with_baseline.add(question)
    assert found.budget == ''
    for figure in cell.figures:
      if figure.selection == 'best_on_test':
        assert found.config.select_on_test, cell.name
      if found.config.protocol == 'official':
        assert not figure.paper or figure.incomparable, cell.name
      if 'savee-' in cell.name and found.config.protocol == 'published':
        assert 'assumed, not confirmed' in figure.incomparable, cell.name
  assert with_baseline == asked
  command = f'python -m jaxser.tables configs/tables/{name}.py'
  assert command in (FILES / f'{name}.py').read_text()
  assert spec.load(name).title == table.title  # From any folder.


def test_shipped_tables_have_what_the_papers_have(tmp_path):
  cells = {name: spec.load(name).cells for name in NAMES}
  for cell in cells['timnet_ablation']:
    corpus, _, ablation = cell.name.partition('-')
    if ablation == 'none':
      paper = timnet.PAPER[corpus]['best_on_test']
      assert tuple(cell.figures[0].paper.values()) == paper

  def configs(name):
    resolved = [state.resolve(cell, tmp_path, {}) for cell in cells[name]]
    return {each.cell.name: each.config for each in resolved}

  pairs = [
    config
    for config in configs('timnet_cross_corpus').values()
    if config.system == 'timnet'
  ]
  assert len({(c.corpus, c.test_corpus) for c in pairs}) == 20
  assert {(c.seeds, c.epochs) for c in pairs} == {(10, 500)}
  assert {c.features.signal_length for c in pairs} == {100_000}
  dsnet = configs('dsnet_comparison')
  for loss in ('calibration', 'orthogonality', 'reconstruction'):
    less = dsnet[f'emodb-no-{loss}'].to_dict()
    assert less['model'][f'{loss}_weight'] == 0
    less['model'][f'{loss}_weight'] = 1
    assert less == dsnet['emodb-dsnet'].to_dict()
  whole = next(c for c in cells['emosphere'] if c.name == 'msp_podcast-whole')
  assert len(whole.figures) == 3  # The first row stands in all three tables.
  assert sum(bool(c.figures[0].paper) for c in cells['emosphere']) == 9

  (emovo,) = (
    entry.paper
    for entry in spec.load('emobox').published
    if (entry.group, entry.label) == ('EMOVO', 'WavLM-large')
  )
  assert emovo == {'uar': 48.82}


@pytest.mark.slow
def test_a_cell_runs_for_real_and_is_then_read(workdir, monkeypatch, capsys):
  monkeypatch.setattr('jax.clear_caches', lambda: None)
  corpus = fakes.corpus(speakers=3, repeats=1)
  monkeypatch.setattr(opening, 'open_corpus', lambda config: corpus)
  sets = 'epochs=1 model.num_blocks=1 fold_subset=(0,) tensorboard=false'
  arguments = (
    'timnet_single_corpus',
    f'--workdir={workdir}',
    '--demo',
    '--only=demo-speaker_independent',
    *(f'--set={field}' for field in (*sets.split(), 'embeddings=false')),
  )
  assert run(*arguments) == 0
  content = read(workdir)
  assert states(content).pop('demo-speaker_independent') == 'finished'
  assert sorted(states(content).values()) == ['finished', *['ready'] * 3]
  (cell,) = (c for c in content['cells'] if c['state'] == 'finished')
  assert cell['utterances'] == 3
  assert 'DEMO CORPUS' in capsys.readouterr().out
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was rerun'))
  assert run(*arguments) == 0
  assert read(workdir) == content
