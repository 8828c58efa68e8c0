"""Table files: wrong ones are explained; averages are those of the papers."""

import statistics

import pytest

from jaxser import tables as command
from jaxser import train
from jaxser.report.tables import spec, state, summary
from tests import runs
from tests.paper_table import TABLE


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (("'uar': 80.0", "'uar': '71'"), "uar is '71', expected a number"),
    (("('best', 'best_on", "('best', 'best_at"), "'best_at_test' is unknown"),
    (("'uar': 80.0", "'f1': 71.0"), "the paper has 'f1', which is none of"),
    (("{'uar': 5.0, 'war'", "{'uar': 5.0, 'x'"), 'state its tolerance'),
    (("baseline='emodb-p", "baseline='emo-p"), "baseline 'emo-published' is"),
    (("Average('best'", "Average('worst'"), "in group 'worst'"),
    (("name=f'{corpus}-", "name=f'../"), "'../published' is to be a folder"),
    (("name=f'{corpus}-", "name=f'one-"), "two cells have the name 'one-publ"),
    (("metrics=('uar',", "metrics=('ccc_mean',"), 'are not of one task'),
    (("SOURCE = 'Somebody 2020, Table 1'", "SOURCE = ''"), 'say where'),
    (('title=', 'titel='), 'unexpected keyword'),
    (('\nTABLE = ', '\nTABEL = '), 'has no TABLE'),
    (("configs/timnet.py'", "configs/tim.py'"), 'configs/tim.py: no such file'),
    (('corpus={corpus},', 'korpus={corpus},'), "argument 'korpus' is unknown"),
    (
      ('label=corpus.upper(),', "label='x', overrides={'epochs': 'all'},"),
      "epochs='all': expected int",
    ),
  ],
)
def test_wrong_table_files_are_explained(
  tmp_path, monkeypatch, capsys, change, message
):
  assert change[0] in TABLE
  path = tmp_path / 'table_file.py'
  path.write_text(TABLE.replace(*change))
  monkeypatch.setattr(train, 'run', lambda *a, **k: pytest.fail('was run'))
  assert command.main([str(path), f'--workdir={tmp_path}/w']) == 2
  assert not (tmp_path / 'w').exists()
  told = capsys.readouterr().err
  assert message in told
  assert 'Traceback' not in told


def test_missing_table_names_those_that_are_there(tmp_path, capsys):
  assert command.main(['configs/tables/timnet.py', '--list']) == 2
  assert 'configs/tables/timnet_ablation.py' in capsys.readouterr().err


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
  for cell, seeds in zip(cells, ((0, 1, 2), (0, 1, 2)), strict=True):
    each = state.resolve(cell, tmp_path, {})
    rows = runs.class_predictions(seeds=seeds, selections=('last',))
    if cell.name == 'b':
      rows = [p for p in rows if p.speaker != '03']
    runs.write_run(each.folder, rows)
    each.read()
    made.append(each)
    expected.append(
      [
        100
        * sum(p.target == p.prediction for p in rows if p.seed == seed)
        / sum(p.seed == seed for p in rows)
        for seed in seeds
      ]
    )
  content = summary.build(table, made, file='t.py', sets={})
  mean, best = content['lines'][-2:]
  (a, b) = expected
  assert mean['values']['war']['value'] == pytest.approx(
    (sum(a) + sum(b)) / 6, abs=1e-3
  )
  assert best['values']['war']['value'] == pytest.approx(
    (max(a) + max(b)) / 2, abs=1e-3
  )
  each_seed = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
  deviation = statistics.stdev(each_seed)
  assert mean['values']['war']['over_seeds']['std'] == pytest.approx(
    deviation, abs=1e-3
  )
  assert mean['values']['war']['reason'] == '60 of the 240 utterances of demo'
  monkeypatch.setattr(summary.corpora, 'CORPORA', {})
  content = summary.build(table, made, file='t.py', sets={})
  assert content['lines'][-2]['values']['war']['verdict'] == 'within'
