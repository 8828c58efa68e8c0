"""Every shipped table loads, and every one of its cells is a valid run."""

import pathlib

import pytest

from configs import timnet
from jaxser.report.tables import spec, state

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(p.stem for p in (ROOT / 'configs/tables').glob('[!_]*.py'))


def test_a_mistyped_name_lists_the_tables_and_nothing_else(monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(spec.TableError) as error:
    spec.load('configs/tables/timnet.py')
  listed = str(error.value).partition('Tables here: ')[2].partition('. Run')[0]
  assert len(listed.split(', ')) == 5
  for path in listed.split(', '):
    assert spec.load(path).title


def load(name):
  return spec.load(ROOT / 'configs/tables' / f'{name}.py')


@pytest.mark.parametrize('name', FILES)
def test_every_cell_is_a_valid_run(name, tmp_path):
  table = load(name)
  seen = {}
  for cell in (*table.cells, *table.demo):
    found = state.resolve(cell, tmp_path, {})
    config = found.config
    about = config.to_json()
    assert about not in seen or cell.on_request, (cell.name, seen.get(about))
    seen[about] = cell.name
    assert found.budget == ''
    assert found.command.startswith(
      f'python -m jaxser.main --config={cell.config}'
    )
    for figure in cell.figures:
      if figure.selection == 'best_on_test':
        assert config.select_on_test, cell.name
      elif figure.selection == 'best_on_dev':
        assert config.protocol in ('speaker_independent', 'official'), cell.name


@pytest.mark.parametrize('name', FILES)
def test_the_file_says_how_to_run_it(name):
  text = (ROOT / 'configs/tables' / f'{name}.py').read_text()
  assert f'python -m jaxser.tables configs/tables/{name}.py' in text


def test_the_tables_of_the_issue_are_there():
  assert FILES == [
    'dsnet_comparison',
    'emosphere',
    'timnet_ablation',
    'timnet_cross_corpus',
    'timnet_single_corpus',
  ]


def test_timnet_figures_are_those_of_its_recipe():
  """The same published figure stands in two files: they must not drift."""
  found = {
    (cell.arg.split(',')[0].removeprefix('corpus='), figure.selection): tuple(
      figure.paper[m] for m in ('uar', 'war')
    )
    for cell in load('timnet_single_corpus').cells
    for figure in cell.figures
    if figure.paper
  }
  assert found == {
    (corpus, selection): figures
    for corpus, rows in timnet.PAPER.items()
    for selection, figures in rows.items()
  }
  whole = {
    cell.name.removesuffix('-none'): tuple(cell.figures[0].paper.values())
    for cell in load('timnet_ablation').cells
    if cell.name.endswith('-none')
  }
  assert whole == {
    corpus: rows['best_on_test'] for corpus, rows in timnet.PAPER.items()
  }


def test_cross_corpus_has_all_ordered_pairs_of_ten_seeds(tmp_path):
  cells = load('timnet_cross_corpus').cells
  configs = [state.resolve(cell, tmp_path, {}).config for cell in cells]
  assert len({(c.corpus, c.test_corpus) for c in configs}) == 20
  assert {(c.protocol, c.seeds, c.epochs) for c in configs} == {
    ('cross_corpus', 10, 500)
  }
  assert {c.features.signal_length for c in configs} == {100_000}


def test_dsnet_variants_differ_in_their_losses_only(tmp_path):
  table = load('dsnet_comparison')
  configs = {
    cell.name: state.resolve(cell, tmp_path, {}).config for cell in table.cells
  }
  names = ('encoder', 'dsnet', 'dat', 'isnet')
  assert [configs[f'emodb-{n}'].model.variant for n in names] == list(names)
  for loss in ('calibration', 'orthogonality', 'reconstruction'):
    whole = configs['emodb-dsnet'].to_dict()
    less = configs[f'emodb-no-{loss}'].to_dict()
    assert less['model'].pop(f'{loss}_weight') == 0
    assert whole['model'].pop(f'{loss}_weight') == 1
    assert less == whole
  for cell in table.cells:
    assert (cell.baseline == '') == cell.name.endswith('-encoder')


def test_emosphere_has_every_row_of_the_papers_tables():
  cells = {cell.name: cell for cell in load('emosphere').cells}
  figures = {
    name.removeprefix('msp_podcast-'): tuple(cell.figures[0].paper.values())
    for name, cell in cells.items()
    if cell.figures[0].paper
  }
  assert len(figures) == 9
  assert figures['whole'] == (0.6952, 0.7482, 0.6220, 0.6884)
  groups = {f.group for f in cells['msp_podcast-whole'].figures}
  assert len(groups) == 3  # The first row stands in all three tables.
  assert 'rows=all' in cells['msp_podcast-all-rows'].on_request
