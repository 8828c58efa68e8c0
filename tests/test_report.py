"""The page and the terminal table: self-contained, safe, true to the results."""

import html.parser
import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxser import report
from jaxser.evaluation.predictions import DIMENSIONS, PredictionsError
from jaxser.report import __main__ as command
from jaxser.report import charts, markup, text
from jaxser.report import run as run_lib
from tests import runs

SVG = '{http://www.w3.org/2000/svg}'
PAPER = {
  'last': {'source': 'the authors', 'uar': 89.19, 'war': 90.28},
  'best_on_test': {'source': 'the paper', 'uar': 95.17, 'war': 95.70},
}


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
  """A run over classes: folder, results, page."""
  workdir = tmp_path_factory.mktemp('classes')
  made = runs.class_predictions(
    seeds=(0, 1), selections=('last', 'best_on_dev', 'best_on_test')
  )
  results = runs.write_run(workdir, made, paper=PAPER)
  return workdir, results, report.write_report(workdir).read_text('utf-8')


@pytest.fixture(scope='module')
def vad(tmp_path_factory):
  """A run over valence, arousal and dominance: folder, results, page."""
  workdir = tmp_path_factory.mktemp('vad')
  made = runs.vad_predictions(seeds=(0, 1), selections=('last', 'best_on_dev'))
  results = runs.write_run(workdir, made, system='emosphere')
  return workdir, results, report.write_report(workdir).read_text('utf-8')


@pytest.fixture(params=['classes', 'vad'])
def page(request):
  """The page of either run."""
  return request.getfixturevalue(request.param)[2]


def _tree(page):
  return ElementTree.fromstring(page)


def _cells(page, heading):
  """Texts of the table rows of one section, markup removed."""
  section = _tree(page).find(f".//section[@id='{heading}']")
  return [
    [' '.join(' '.join(cell.itertext()).split()) for cell in row]
    for row in section.iter('tr')
  ]


class _Tags(html.parser.HTMLParser):
  """Collects start tags, and checks that tags are closed in order."""

  def __init__(self):
    super().__init__()
    self.starts, self.open = [], []

  def handle_starttag(self, tag, attrs):
    self.starts.append((tag, dict(attrs)))
    self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.starts.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_page_is_well_formed_html(page):
  assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
  tags = _Tags()
  tags.feed(page)
  tags.close()
  assert not tags.open
  ids = [attrs['id'] for _, attrs in tags.starts if 'id' in attrs]
  assert len(ids) == len(set(ids))
  for _, attrs in tags.starts:
    for name in ('aria-labelledby', 'href'):
      for target in attrs.get(name, '').split():
        if name == 'aria-labelledby' or target.startswith('#'):
          assert target.lstrip('#') in ids
  _tree(page)  # It is XML, too.


def test_page_needs_nothing_from_elsewhere(page):
  tags = _Tags()
  tags.feed(page)
  names = {tag for tag, _ in tags.starts}
  assert not names & {'script', 'img', 'iframe', 'object', 'embed', 'base'}
  for tag, attrs in tags.starts:
    assert 'src' not in attrs
    assert not any(name.startswith('on') for name in attrs)
    if 'href' in attrs:
      assert re.match(r'#|data:,$', attrs['href']), (tag, attrs)
  assert 'url(' not in page
  assert '@import' not in page
  policy = [
    a['content'] for t, a in tags.starts if t == 'meta' and 'http-equiv' in a
  ]
  assert policy == [
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
  ]


def test_every_chart_has_a_text_alternative(page):
  drawings = [
    svg for svg in _tree(page).iter(f'{SVG}svg') if svg.get('role') == 'img'
  ]
  assert len(drawings) >= 3
  for svg in drawings:
    title, told = svg.find(f'{SVG}title'), svg.find(f'{SVG}desc')
    assert svg.get('aria-labelledby') == f'{title.get("id")} {told.get("id")}'
    assert len(title.text) > 5
    assert re.search(r'\d', told.text)
  others = list(_tree(page).iter('svg'))
  assert all(svg.get('aria-hidden') == 'true' for svg in others)
  for table in _tree(page).iter('table'):
    if table.get('class') != 'facts':
      assert table.find('caption').text
      assert table.find('.//th[@scope]') is not None


def test_figures_are_those_of_the_results(classes):
  _, results, page = classes
  rows = iter(_cells(page, 'results'))
  for name, entry in results['selections'].items():
    assert next(rows)[0] == 'per cent'
    for metric in ('uar', 'war', 'f1'):
      pooled = entry['pooled'][metric]
      folds, seeds = entry['fold_mean'][metric], entry['over_seeds'][metric]
      paper = PAPER.get(name, {}).get(metric)
      assert next(rows)[1:] == [
        f'{pooled["value"]:.2f} {pooled["low"]:.2f} to {pooled["high"]:.2f}',
        f'{folds["mean"]:.2f} ± {folds["std"]:.2f}',
        f'{seeds["mean"]:.2f} ± {seeds["std"]:.2f}',
        f'{paper:.2f}' if paper else '—',
      ]
  recall = _cells(page, 'recall')[1:]
  assert [row[0] for row in recall] == list(runs.CLASSES)
  for row in recall:
    assert [float(cell) for cell in row[1:]] == [
      entry['pooled']['recall'][row[0]]
      for entry in results['selections'].values()
    ]
  assert results['command'] in page
  assert 'optimizer.learning_rate' in page
  assert 'Wall time: 3 min 21 s' in page


def test_confusion_matrix_shows_shares_and_counts(classes):
  _, results, page = classes
  shown = [row for row in _cells(page, 'confusion') if row[0] in runs.CLASSES]
  counts = [
    line
    for entry in results['selections'].values()
    for line in entry['pooled']['confusion']
  ]
  assert len(shown) == len(counts) == 12
  for row, line in zip(shown, counts, strict=True):
    for cell, value in zip(row[1:], line, strict=True):
      expected = f'{100 * value / sum(line):.0f} {value}' if value else '·'
      assert cell == expected


def test_fold_table_has_every_fold_with_its_speaker(classes):
  _, results, page = classes
  rows = _cells(page, 'folds')[2:]
  assert len(rows) == 10
  for i, row in enumerate(rows):
    lines = [e['per_fold'][i] for e in results['selections'].values()]
    assert row[:4] == [str(i // 5), str(i % 5), runs.SPEAKERS[i % 5], '12']
    assert row[4:] == [
      str(x)
      for line in lines
      for x in (line['epoch'], f'{line["uar"]:.2f}', f'{line["war"]:.2f}')
    ]


def test_vad_page_has_a_scatter_per_dimension_and_selection(vad):
  _, results, page = vad
  titles = [svg.text for svg in _tree(page).iter(f'{SVG}title')]
  for name in DIMENSIONS:
    title = f'{name.capitalize()}: predicted against true'
    assert titles.count(title) == 2
  for entry in results['selections'].values():
    for metric in results['metrics']:
      pooled = entry['pooled'][metric]
      told = f'{pooled["value"]:.4f}'
      assert told in page
      assert f'{pooled["low"]:.4f} to {pooled["high"]:.4f}' in page
  assert 'Confusion' not in page


def test_curves_are_medians_and_quartiles_over_folds(tmp_path):
  rows = runs.curve_rows(epochs=4)
  path = tmp_path / 'metrics.jsonl'
  stale = {**rows[0], 'loss': 99.0}  # Written before a kill, and again after.
  path.write_text(''.join(json.dumps(r) + '\n' for r in [stale, *rows]))
  curves = run_lib.read_curves(path)
  assert list(curves) == ['loss', 'uar', 'war']
  train = curves['uar'][0]
  assert train.name == 'train'
  wanted = [
    [100 * r['uar'] for r in rows if r['split'] == 'train' and r['epoch'] == e]
    for e in range(1, 5)
  ]
  np.testing.assert_allclose(train.values.T, wanted)
  np.testing.assert_allclose(train.quartiles()[1], np.median(wanted, 1))
  assert curves['loss'][0].values.max() < 3


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"seed": 0', r'metrics.jsonl:2: '),
    ('{"seed": 0, "fold": 0, "epoch": 1}', r'jsonl:2: lacks split'),
    (
      '{"seed": 0, "fold": 0, "epoch": 1, "split": "all"}',
      r"jsonl:2: split is 'all', expected one of train, dev, test",
    ),
    ('3', r'jsonl:2: expected an object, got int'),
  ],
)
def test_bad_curve_rows_are_named(tmp_path, line, message):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(f'{json.dumps(runs.curve_rows()[0])}\n{line}\n')
  with pytest.raises(PredictionsError, match=message):
    run_lib.read_curves(path)


def test_odd_curves_are_drawn():
  """One run, one epoch, a constant, a gap: no error and no NaN in the path."""
  one = charts.Curve('train', np.array([5.0]), np.array([[0.5]]))
  gap = charts.Curve(
    'test', np.array([1.0, 2]), np.array([[1, np.nan], [1, 1]])
  )
  for curves in ([one], [gap], [one, gap]):
    drawn = charts.learning_curves('Loss', '', curves, 1)
    ElementTree.fromstring(drawn)
    assert 'nan' not in drawn


@pytest.mark.parametrize(
  ('low', 'high'),
  [(0, 1), (-0.37, 0.81), (3, 3), (1, 5), (1e-6, 2e-6), (20, 1e4)],
)
def test_ticks_are_few_and_cover_the_values(low, high):
  made = charts.ticks(low, high)
  assert 2 <= len(made) <= 8
  assert made[0] <= low + 1e-12
  assert made[-1] >= high - 1e-12


def test_hostile_names_are_shown_not_run(tmp_path):
  evil = '<script>alert("1")</script>\x00&\ud800'
  made = runs.class_predictions(selections=('last',))
  runs.write_run(
    tmp_path,
    made,
    system=evil[:-1],
    corpus='"><img src=x onerror=alert(1)>',
    command="echo '</pre><script>'",
    environment={'<b>': '</td>'},
    paper={'last': {'source': '</style><script>', 'uar': 1.0}},
  )
  (tmp_path / 'config.json').write_text(json.dumps({evil: evil}))
  page = report.write_report(tmp_path).read_text('utf-8')
  tags = _Tags()
  tags.feed(page)
  assert not tags.open
  assert not {'script', 'img'} & {tag for tag, _ in tags.starts}
  assert '<script' not in page
  assert '<img' not in page
  assert '\x00' not in page
  assert '&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;' in page
  _tree(page)


def test_hostile_speakers_are_escaped(tmp_path):
  made = runs.vad_predictions()
  named = [
    type(p)(
      p.seed,
      p.fold,
      p.selection,
      p.epoch,
      f'<i>{p.id}',
      f'<script>{p.speaker}',
      p.target,
      p.prediction,
    )
    for p in made
  ]
  runs.write_run(tmp_path, named)
  page = report.write_report(tmp_path).read_text('utf-8')
  assert '<script' not in page
  assert '&lt;script&gt;03' in page


def test_escape_leaves_markup_alone():
  bold = markup.element('b', 'a & b', class_='x', hidden=True, title=None)
  assert bold == '<b class="x" hidden="hidden">a &amp; b</b>'
  assert markup.element('p', bold, '<i>') == f'<p>{bold}&lt;i&gt;</p>'


def test_demo_is_called_a_demo(tmp_path):
  made = runs.class_predictions()
  results = runs.write_run(tmp_path, made, corpus='demo', demo=True)
  page = report.write_report(tmp_path).read_text('utf-8')
  assert 'DEMO CORPUS: synthesised voices.' in page
  assert 'DEMO CORPUS: synthesised voices.' in report.format_table(results)
  results = runs.write_run(tmp_path, made)
  assert 'DEMO' not in report.write_report(tmp_path).read_text('utf-8')
  assert 'DEMO' not in report.format_table(results)


def test_evaluation_without_training_has_no_curves(tmp_path):
  made = runs.class_predictions(selections=('init_from',))
  runs.write_run(
    tmp_path, [type(p)(**{**vars(p), 'epoch': None}) for p in made]
  )
  for name in ('metrics.jsonl', 'config.json', 'folds.json'):
    (tmp_path / name).unlink()
  page = report.write_report(tmp_path).read_text('utf-8')
  assert 'Learning curves' not in page
  assert 'Confusion matrices' in page
  assert 'Weights as loaded (init_from), not trained here' in page
  _tree(page)


def test_same_run_same_bytes(classes):
  workdir, _, page = classes
  assert report.write_report(workdir).read_text('utf-8') == page
  assert not [p for p in workdir.iterdir() if p.name.startswith('.')]


def test_stale_results_are_refused(tmp_path):
  made = runs.class_predictions()
  results = runs.write_run(tmp_path, made)
  results['selections']['last']['per_fold'][0]['uar'] = 99.99
  (tmp_path / 'results.json').write_text(json.dumps(results))
  with pytest.raises(PredictionsError, match=r"disagree on selection 'last'"):
    report.write_report(tmp_path)
  assert not (tmp_path / 'report.html').exists()


def test_command_line(tmp_path, capsys):
  runs.write_run(tmp_path, runs.class_predictions())
  assert command.main([str(tmp_path)]) == 0
  assert capsys.readouterr().out.strip() == str(tmp_path / 'report.html')
  assert command.main([str(tmp_path / 'nothing')]) == 2
  assert 'results.json: no such file' in capsys.readouterr().err
  for out, reason in (
    (tmp_path, 'Is a directory'),
    ('/proc/nope/x.html', 'No such file or directory'),
  ):
    with pytest.raises(SystemExit, match='2'):
      command.main([str(tmp_path), f'--out={out}'])
    assert f'cannot be written ({reason}); give' in capsys.readouterr().err


def test_terminal_table_has_the_figures_in_eighty_columns(classes, vad):
  for _, results, _ in (classes, vad):
    printed = report.format_table(results)
    assert max(map(len, printed.splitlines())) <= 80
    for entry in results['selections'].values():
      first = entry['label'].split('(')[0].strip()
      assert first[1:] in printed
      for metric in results['metrics']:
        pooled = entry['pooled'][metric]
        assert text.number(pooled['value'], results['task']) in printed
        assert text.interval(pooled, results['task']) in printed
  printed = report.format_table(classes[1])
  for line in printed.splitlines():
    if line.startswith('happy'):
      assert [float(x) for x in line.split()[1:]] == [
        e['pooled']['recall']['happy']
        for e in classes[1]['selections'].values()
      ]
  assert '95.17' in printed
  assert 'With 5 speakers they are somewhat too narrow' in printed.replace(
    '\n', ' '
  )


def test_terminal_table_at_its_widest(tmp_path):
  made = runs.vad_predictions(seeds=tuple(range(10)))
  paper = {'last': {'source': 'x', 'ccc_valence': 0.6952}}
  results = runs.write_run(tmp_path, made, paper=paper)
  printed = report.format_table(results)
  assert '10 seeds ± std' in printed
  assert '0.6952' in printed
  assert max(map(len, printed.splitlines())) <= 80


def test_paper_column_needs_a_figure_for_a_selection_of_the_run(tmp_path):
  made = runs.class_predictions(selections=('best_on_dev',))
  results = runs.write_run(tmp_path, made, paper=PAPER)
  assert 'paper' not in text.columns(results)
  assert '95.17' not in report.write_report(tmp_path).read_text('utf-8')
  assert not any('paper' in note for note in text.notes(results))


def test_annotators_stand_beside_as_the_ceiling(tmp_path):
  agreement = {'count': 3, 'ccc_valence': 0.7203, 'ccc_arousal': None}
  made = runs.vad_predictions()
  results = runs.write_run(tmp_path, made, annotators=agreement)
  printed = report.format_table(results)
  table = printed.split('\n\n')[1].splitlines()
  assert table[1].split()[-1] == 'annotators'
  assert [line.split()[-1] for line in table[2:5]] == ['0.7203', '—', '—']
  assert 'concordance of two of the 3 who rated' in printed.replace('\n', ' ')
  assert '0.7203' in report.write_report(tmp_path).read_text('utf-8')


def test_notes_warn_of_shared_and_single_speakers(tmp_path):
  made = runs.class_predictions(selections=('last',))
  mixed = [type(p)(**{**vars(p), 'fold': i % 2}) for i, p in enumerate(made)]
  notes = ' '.join(text.notes(runs.write_run(tmp_path, mixed)))
  assert '5 of 5 speakers are tested in more than one fold' in notes
  every = [type(p)(**{**vars(p), 'fold': f}) for p in made for f in (0, 1)]
  across = runs.write_run(tmp_path, every, protocol='cross_corpus')
  notes = ' '.join(text.notes(across))
  assert 'pooled figures count an utterance once per fold' in notes
  assert 'speaker-independent' not in notes
  alone = [p for p in made if p.speaker == '03']
  notes = ' '.join(text.notes(runs.write_run(tmp_path, alone)))
  assert 'One speaker only: no interval can be given' in notes


def test_durations():
  assert text.duration(45.4) == '45 s'
  assert text.duration(200) == '3 min 20 s'
  assert text.duration(7530) == '2 h 5 min'


def test_metrics_and_report_import_without_heavy_libraries():
  """In a process where none of these can be imported."""
  blocked = (
    'tensorflow',
    'tensorflow_datasets',
    'librosa',
    'matplotlib',
    'jax',
  )
  code = (
    'import sys\n'
    f'for name in {blocked}: sys.modules[name] = None\n'
    'import jaxser.evaluation.metrics, jaxser.evaluation.intervals, jaxser.report\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, env=dict(os.environ))
