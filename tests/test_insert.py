"""Tables that a command writes into a page of Markdown."""

import dataclasses

import pytest

from jaxser.evaluation.predictions import PredictionsError
from jaxser.report import insert
from tests import runs

PAGE = 'Before\n<!-- speed -->x<!-- /speed -->\n<!-- t -->\nprevious figures\n<!-- /t -->\nEnd'
COMMAND = (
  "python -m jaxser.main '--config=configs/x.py:a b' --config.data_dir=/tmp/x "
  '--config.init_from=/home/me/best.pt --workdir=/tmp/y'
)


@pytest.fixture
def page(tmp_path):
  path = tmp_path / 'page.md'
  path.write_text(PAGE, 'utf-8')
  return path


def write(folder, made, **more):
  runs.write_run(folder, made, command=COMMAND, **more)
  return str(folder)


def test_figures_stand_between_the_marks_and_nothing_else_changes(
  page, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  made = runs.class_predictions(selections=('last',))
  paper = {'last': {'source': 'Somebody 2023', 'war': 90.28}}
  first = write(tmp_path / 'first', made, paper=paper)
  other = []
  for p in made:
    sure = [float(p.target == name) for name in runs.CLASSES]
    other.append(dataclasses.replace(p, prediction=p.target, scores=sure))
  second = write(tmp_path / 'second', other)
  for _ in range(2):
    assert insert.write_into('~/page.md', 't', [first, second]) == page
  text = page.read_text('utf-8')
  assert text.startswith('Before\n<!-- speed -->x<!-- /speed -->\n<!-- t -->\n')
  assert text.endswith('\n<!-- /t -->\nEnd')
  assert 'previous' not in text
  table = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
    if line.startswith('|')
  ]
  assert [len(row) for row in table] == [4] * 6
  head, _, one, published, two, change = table
  assert head == ['run', 'UAR', 'WAR', 'macro F1']
  right = 100 * sum(p.target == p.prediction for p in made) / len(made)
  assert one[0] == '**first**, last epoch'
  assert one[2].startswith(f'{right:.2f} (')
  assert published == ['*published: Somebody 2023*', '—', '90.28', '—']
  assert two[1:] == ['100.00 (100.00 to 100.00)'] * 3
  assert change[0] == 'second minus first, last'
  assert change[2].startswith(f'+{100 - right:.2f} (+')
  # Nobody's folders.
  assert (
    "    python -m jaxser.main '--config=configs/x.py:a b' "
    '--config.init_from=best.pt --workdir=runs/second\n'
  ) in text
  assert '/tmp' not in text


def test_agreement_of_annotators_is_a_row(page, tmp_path):
  agreement = {'count': 3, 'ccc_valence': 0.72, 'ccc_mean': 0.67}
  run = write(tmp_path / 'w', runs.vad_predictions(), annotators=agreement)
  insert.write_into(page, 't', [run])
  row = '| *two of the 3 annotators* | 0.7200 | — | — | 0.6700 |'
  assert row in page.read_text('utf-8')


def test_what_cannot_be_written_is_explained(page, tmp_path):
  classes = write(tmp_path / 'c', runs.class_predictions())
  vad = write(tmp_path / 'v', runs.vad_predictions())
  for given, message in (
    ((page, 'x', [classes]), r'page\.md: has no <!-- x -->'),
    ((page, 't', [classes, vad]), 'do not go into one table'),
    ((tmp_path / 'none.md', 't', [classes]), r'none\.md: No such file'),
    ((page, 't', [classes], 'init_from'), "no selection 'init_from'"),
  ):
    with pytest.raises(PredictionsError, match=message):
      insert.write_into(*given)
  assert page.read_text('utf-8') == PAGE


def test_one_selection_is_shown_where_it_is_asked_for(page, tmp_path):
  made = runs.class_predictions(selections=('last', 'best_on_dev'))
  pair = [write(tmp_path / name, made) for name in ('a', 'b')]

  def labels(*more):
    insert.write_into(page, 't', pair, *more)
    rows = page.read_text('utf-8').splitlines()
    return [row.split('|')[1].strip() for row in rows if row.startswith('| ')]

  *shown, change = labels('last')[2:]
  assert shown == ['**a**, last epoch', '**b**, last epoch']
  assert change == 'b minus a, last'
  assert len(labels()) == 2 + 4 + 1
