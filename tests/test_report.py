"""The page and the terminal table: self-contained, safe, true to the results."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxser import report
from jaxser.evaluation.predictions import DIMENSIONS, PredictionsError
from jaxser.report import figures, pages, text
from jaxser.report import run as run_lib
from tests import runs
from tests.runs import SPHERE, cells, section, words

SVG = '{http://www.w3.org/2000/svg}'
PAPER = {
  'last': {'source': 'the authors', 'uar': 89.19, 'war': 90.28},
  'best_on_test': {'source': 'the paper', 'uar': 95.17, 'war': 95.70},
}
PROBES = {
  'seed': 0,
  'selection': 'last',
  'region_head': {'accuracy': 41.25, 'macro_f1': 17.5, 'utterances': 1234},
}


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
  """A run over classes: folder, results, page."""
  workdir = tmp_path_factory.mktemp('classes')
  chosen = ('last', 'best_on_dev', 'best_on_test')
  made = runs.class_predictions(seeds=(0, 1), selections=chosen)
  results = runs.write_run(workdir, made, paper=PAPER)
  return workdir, results, report.write_report(workdir).read_text('utf-8')


@pytest.fixture(scope='module')
def vad(tmp_path_factory):
  """A run over valence, arousal and dominance: folder, results, page."""
  workdir = tmp_path_factory.mktemp('vad')
  made = runs.vad_predictions(seeds=(0, 1), selections=('last', 'best_on_dev'))
  about = {'system': 'emosphere', 'sphere': SPHERE, 'probes': PROBES}
  results = runs.write_run(workdir, made, **about)
  return workdir, results, report.write_report(workdir).read_text('utf-8')


@pytest.fixture(params=['classes', 'vad'])
def page(request):
  """The page of either run."""
  return request.getfixturevalue(request.param)[2]


def changed(predictions, **fields):
  """The predictions with other values of some fields."""
  return [dataclasses.replace(p, **fields) for p in predictions]


class Tags(html.parser.HTMLParser):
  """Collects start tags as a browser finds them."""

  def __init__(self, page):
    super().__init__()
    self.starts = []
    self.feed(page)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.starts.append((tag, dict(attrs)))


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
  assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
  ElementTree.fromstring(page)  # It is XML: every tag is closed.
  tags = Tags(page)
  ids = [attrs['id'] for _, attrs in tags.starts if 'id' in attrs]
  assert len(ids) == len(set(ids))
  names = {tag for tag, _ in tags.starts}
  assert not names & {'script', 'img', 'iframe', 'object', 'embed', 'base'}
  for tag, attrs in tags.starts:
    assert 'src' not in attrs
    assert not any(name.startswith('on') for name in attrs)
    assert attrs.get('aria-labelledby', ids[0]) in ids
    href = attrs.get('href', 'data:,')
    assert href == 'data:,' or href[1:] in ids, (tag, attrs)
  assert 'url(' not in page
  assert '@import' not in page
  policy = [a['content'] for t, a in tags.starts if 'http-equiv' in a]
  assert policy == [
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    'media-src file:'
  ]
  assert len(page) < 1_500_000


def test_every_chart_has_a_text_alternative_and_the_colours_of_the_page(page):
  tree = ElementTree.fromstring(page)
  charts = list(tree.iter(f'{SVG}svg'))
  assert len(charts) >= 3
  for svg in charts:
    assert svg.get('role') == 'img'
    assert len(svg.find(f'{SVG}title').text) > 2
    assert re.search(r'\d', svg.find(f'{SVG}desc').text)
    drawn = ElementTree.tostring(svg, 'unicode')
    assert 'nan ' not in drawn
    assert not re.search('#[0-9a-f]{6}', drawn)
  for table in tree.iter('table'):
    if table.get('class') != 'facts':
      assert table.find('caption').text
      assert table.find('.//th[@scope]') is not None


def test_figures_are_those_of_the_results(classes):
  _, results, page = classes
  rows = iter(cells(page, 'results'))
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
  entries = results['selections'].values()
  recall = cells(page, 'recall')[1:]
  assert [row[0] for row in recall] == list(runs.CLASSES)
  for name, *figures_ in recall:
    wanted = [entry['pooled']['recall'][name] for entry in entries]
    assert list(map(float, figures_)) == wanted
  shown = [row for row in cells(page, 'confusion') if row[0] in runs.CLASSES]
  counts = [line for entry in entries for line in entry['pooled']['confusion']]
  for row, line in zip(shown, counts, strict=True):
    for cell, value in zip(row[1:], line, strict=True):
      share = f'{100 * value / sum(line):.0f} {value}' if value else '·'
      assert cell == share
  for i, row in enumerate(cells(page, 'folds')[1:]):
    assert row[:4] == [str(i // 5), str(i % 5), runs.SPEAKERS[i % 5], '12']
    lines = [entry['per_fold'][i] for entry in entries]
    found = zip(row[4::3], row[5::3], row[6::3], strict=True)
    assert [tuple(map(float, x)) for x in found] == [
      (line['epoch'], line['uar'], line['war']) for line in lines
    ]
  for told in (results['command'], 'optimizer.learning_rate', '3 min 21 s'):
    assert told in page
  charts = section(page, 'curves').findall(f'.//{SVG}desc')
  assert any('paper, last: 89.19' in chart.text for chart in charts)


def test_the_most_confident_mistakes_come_first(classes, vad):
  workdir, _, page = classes
  view = run_lib.read_views([workdir])[0]
  assert view.selection == 'best_on_dev'
  wrong = [p for p in view.predictions if p.prediction != p.target]
  worst = max(wrong, key=lambda p: max(p.scores))
  assert cells(page, 'mistakes')[1] == [
    *(f'{worst.id} (seed {worst.seed})', worst.speaker, worst.target),
    *(worst.prediction, f'{100 * max(worst.scores):.1f} %'),
  ]
  distances = [float(row[4]) for row in cells(vad[2], 'mistakes')[1:]]
  assert distances == sorted(distances, reverse=True)


def test_mistakes_can_be_heard_where_their_audio_still_lies(tmp_path):
  made = runs.class_predictions(selections=('last',))
  wrong = [p for p in made if p.prediction != p.target]
  heard, gone = sorted(wrong, key=lambda p: -max(p.scores))[:2]
  audio = tmp_path / 'a <b>'
  runs.write_heard(tmp_path, made, audio)

  def players():
    page = report.write_report(tmp_path / 'w').read_text('utf-8')
    ElementTree.fromstring(page)
    assert gone.id in page
    header = ' '.join(cells(page, 'mistakes')[0])
    return header, [a for tag, a in Tags(page).starts if tag == 'audio']

  assert players() == ('utterance speaker target predicted score', [])
  audio.mkdir()
  (audio / f'{heard.id}.wav').write_bytes(b'RIFF')
  header, (player,) = players()
  assert header.endswith('predicted score audio')
  assert player['src'] == (audio / f'{heard.id}.wav').as_uri()
  assert (player['aria-label'], player['preload']) == (heard.id, 'none')
  (info,) = tmp_path.rglob('store.json')
  info.write_text(info.read_text().replace('audio_dir', 'older'))
  assert not players()[1]
  info.unlink()
  assert not players()[1]


def test_a_baseline_is_a_line_in_the_charts(classes, vad, tmp_path):
  workdir, _, _ = classes
  made = runs.class_predictions(seeds=(3,), selections=('last',))
  found = runs.write_run(tmp_path / 'linear', made, system='baseline')
  out = tmp_path / 'page.html'
  report.write_report(workdir, out, tmp_path / 'linear')
  page = out.read_text('utf-8')
  pooled = found['selections']['last']['pooled']
  charts = section(page, 'results').findall(f'.//{SVG}desc')
  for chart, metric in zip(charts, ('uar', 'war', 'f1'), strict=True):
    assert chart.text.startswith(f'linear: {pooled[metric]["value"]:.2f}; ')
  assert 'Dashed: linear (baseline on emodb' in words(section(page, 'results'))
  ticks = section(page, 'recall').findall(".//i[@class='line']")
  wanted = [f'left: {x:.1f}%' for x in pooled['recall'].values()]
  assert [tick.get('style') for tick in ticks[::3]] == wanted
  ticks = section(page, 'speakers').findall(".//i[@class='line']")
  assert len(ticks) == len(runs.SPEAKERS) * 3 * 2  # Selections and metrics.
  runs.write_run(tmp_path / 'all', made, protocol='published')
  runs.write_run(tmp_path / 'few', made[1:])
  for other, why in (
    (vad[0], 'one predicts classes'),
    (tmp_path / 'all', 'published and speaker_independent'),
    (tmp_path / 'few', 'only 59 utterances in common'),
  ):
    with pytest.raises(PredictionsError, match=f'is no baseline of .*{why}'):
      report.write_report(workdir, out, other)


def test_vad_page_has_scatters_regions_and_spheres(vad):
  _, results, page = vad
  tree = ElementTree.fromstring(page)
  titles = [svg.text for svg in tree.iter(f'{SVG}title')]
  for name in DIMENSIONS:
    assert titles.count(f'{name.capitalize()}: predicted against true') == 2
  for name in ('True', 'Predicted'):
    assert sum(title.startswith(f'{name}, ') for title in titles) == 3
  for entry in results['selections'].values():
    for metric in results['metrics']:
      assert f'{entry["pooled"][metric]["value"]:.4f}' in page
  assert 'Confusion' not in page
  entry = results['selections']['last']['pooled']['regions']
  told = words(section(page, 'regions'))
  assert f'{entry["accuracy"]["value"]:.2f}' in told
  head = 'The region head itself, last epoch, seed 0: accuracy 41.25 %, '
  assert f'{head}macro F1 17.50 % of 1,234 utterances.' in told
  counts = np.array(entry['confusion'])
  hostile = 'IV hostile (A+, V-, D+)'
  shown = [row[1:3] for row in cells(page, 'regions') if row[0] == hostile]
  assert [str(counts[3].sum()), str(counts[:, 3].sum())] in shown


def test_views_are_right_handed_and_borders_lie_on_the_sphere():
  for axes in figures.directions().values():
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) > 0
  for cut, count in (('octants', 3), (90.0, 5), (60.0, 8)):
    curves = figures.borders(cut)
    assert len(curves) == count
    for curve in curves:
      np.testing.assert_allclose(np.linalg.norm(curve, axis=-1), 1, atol=1e-6)


def test_curves_are_medians_and_quartiles_over_folds(tmp_path):
  rows = runs.curve_rows(epochs=4)
  stale = {**rows[0], 'loss': 99.0}  # Written before a kill, and again after.
  runs.write_curves(tmp_path, [stale, *rows])
  curves = run_lib.read_curves(tmp_path)
  assert list(curves) == ['loss', 'uar', 'war']
  train = curves['uar'][0]
  wanted = [
    [100 * r['uar'] for r in rows if r['split'] == 'train' and r['epoch'] == e]
    for e in range(1, 5)
  ]
  np.testing.assert_allclose(train.values.T, wanted)
  np.testing.assert_allclose(train.quartiles()[1], np.median(wanted, 1))
  assert curves['loss'][0].values.max() < 3


def test_how_the_optimizer_moves_is_one_chart(tmp_path):
  runs.write_run(tmp_path, runs.class_predictions())
  without = report.write_report(tmp_path).read_text('utf-8')
  assert 'Optimization' not in without
  assert 'Training: ' not in without
  moves = {'grad_norm': 2.0, 'update_ratio': 3e-3, 'learning_rate': 1e-3}
  rows = runs.curve_rows(epochs=4)
  more = [row | (moves if row['split'] == 'train' else {}) for row in rows]
  runs.write_curves(tmp_path, more)
  speed = {'seed': 0, 'fold': 0, 'split': 'speed', 'memory_gib': 1.5}
  lines = [
    json.dumps({**speed, 'epoch': i, 'examples_per_second': 1000.0 * i})
    for i in (3, 1, 2)
  ]
  (tmp_path / 'speed.jsonl').write_text('\n'.join(lines))
  page = report.write_report(tmp_path).read_text('utf-8')
  told = 'Training: 2,000 utterances/s in the median epoch, at most 1.50 GiB'
  assert told in page
  shown = section(page, 'curves')
  titles = [svg.text for svg in shown.iter(f'{SVG}title')]
  assert titles[-1] == 'Optimization, by epoch'
  before = section(without, 'curves').findall(f'.//{SVG}svg')
  assert len(titles) == len(before) + 1
  told = 'gradient norm: 2 at epoch 4; update / weights: 0.003 at epoch 4; '
  assert f'{told}learning rate: 0.001' in words(shown)


def test_odd_curves_are_drawn():
  """One run, one epoch, a constant, a gap: no error and no NaN in the path."""
  one = run_lib.Curve('train', np.array([5.0]), np.array([[0.5]]))
  values = np.array([[1, np.nan], [1, 1]])
  gap = run_lib.Curve('test', np.array([1.0, 2]), values)
  zero = run_lib.Curve('train', np.array([1.0, 2]), np.array([[1e-3, 0]]))
  for curves in ([one], [gap], [one, gap]):
    for drawn in (
      figures.learning_curves('Loss', curves, {}, (0, 1)),
      figures.optimization('Moves', {'one': curves[0], 'zero': zero}),
    ):
      ElementTree.fromstring(drawn)
      assert 'nan ' not in drawn


def test_hostile_names_are_shown_not_run(tmp_path):
  evil = '<script>alert("1")</script>\x00&\ud800'
  made = runs.class_predictions(selections=('last',))
  names = [
    dataclasses.replace(p, speaker=f'<script>$a$ {p.speaker}') for p in made
  ]
  about = {
    'system': evil[:-1],
    'corpus': '"><img src=x onerror=alert(1)>',
    'command': "echo '</pre><script>'",
    'environment': {'<b>': '</td>'},
    'paper': {'last': {'source': '</style><script>', 'uar': 1.0}},
  }
  runs.write_run(tmp_path / 'w', names, **about)
  (tmp_path / 'w/config.json').write_text(json.dumps({evil: evil}))
  runs.write_run(tmp_path / '<script> $x', names)
  one = report.write_report(tmp_path / 'w')
  several = pages.write_comparison(
    [tmp_path / 'w', tmp_path / '<script> $x'], tmp_path / 'page.html'
  )
  for path in (one, several):
    page = path.read_text('utf-8')
    assert not {'script', 'img'} & {tag for tag, _ in Tags(page).starts}
    assert '<script' not in page
    assert '\x00' not in page
    assert '&lt;script&gt;alert(' in page
    assert '&lt;script&gt;$a$ 03' in page
    ElementTree.fromstring(page)


def test_demo_and_weights_on_trust_are_called_what_they_are(tmp_path):
  made = runs.class_predictions()
  results = runs.write_run(tmp_path, made, corpus='demo', demo=True)
  page = report.write_report(tmp_path).read_text('utf-8')
  assert 'DEMO CORPUS: synthesised voices.' in page
  assert 'DEMO CORPUS: synthesised voices.' in report.format_table(results)
  results = runs.write_run(tmp_path, made, paper=PAPER)
  assert 'DEMO' not in report.format_table(results)
  config = json.dumps({'trust_init_from': True})
  (tmp_path / 'config.json').write_text(config)
  page = report.write_report(tmp_path).read_text('utf-8')
  trusted = report.format_table({**results, 'trust_init_from': True})
  for told in (page, trusted.replace('\n', ' ')):
    assert 'Tested utterances may have been trained on' in told
    assert '95.17' not in told


def test_a_published_result_has_a_page(tmp_path):
  """Of config.json, folds.json, predictions.jsonl and results.json alone."""
  made = changed(runs.class_predictions(selections=('init_from',)), epoch=None)
  doubt = {'comparable': False, 'reason': 'an assumed order'}
  paper = {'init_from': {'source': 'x', 'uar': 90.0, **doubt}}
  runs.write_run(tmp_path, made, paper=paper)
  (tmp_path / 'metrics.jsonl').unlink()
  page = report.write_report(tmp_path).read_text('utf-8')
  assert 'Learning curves' not in page
  assert 'Weights as loaded (init_from), not trained here' in page
  assert 'not comparable: an assumed order' in page
  assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]
  assert report.write_report(tmp_path).read_text('utf-8') == page


def test_stale_results_are_refused(tmp_path):
  results = runs.write_run(tmp_path, runs.class_predictions())
  results['selections']['last']['per_fold'][0]['uar'] = 99.99
  (tmp_path / 'results.json').write_text(json.dumps(results))
  with pytest.raises(PredictionsError, match=r"selection 'last'"):
    report.write_report(tmp_path)
  assert not (tmp_path / 'report.html').exists()


def narrow_table(results):
  printed = report.format_table(results)
  assert max(map(len, printed.splitlines())) <= 80
  return printed


def test_terminal_table_has_the_figures_in_eighty_columns(classes, vad):
  for _, results, _ in (classes, vad):
    printed = narrow_table(results)
    for entry in results['selections'].values():
      assert entry['label'].split('(')[0].strip()[1:] in printed
      for metric in results['metrics']:
        pooled = entry['pooled'][metric]
        assert text.number(pooled['value'], results['task']) in printed
        assert text.interval(pooled, results['task']) in printed
  assert 'Regions of the sphere (octants): accuracy' in printed
  printed, entries = narrow_table(classes[1]), classes[1]['selections'].values()
  (happy,) = [x for x in printed.splitlines() if x.startswith('happy')]
  recalls = [entry['pooled']['recall']['happy'] for entry in entries]
  assert list(map(float, happy.split()[1:])) == recalls
  assert '95.17' in printed
  few = 'With 5 speakers they are somewhat too narrow'
  assert few in ' '.join(printed.split())
  assert 'Wall time: 3 min 21 s' in printed
  shown = [text.duration(seconds) for seconds in (45.4, 200, 7530)]
  assert shown == ['45 s', '3 min 20 s', '2 h 5 min']


def test_terminal_table_at_its_widest_and_with_annotators(tmp_path):
  agreement = {'count': 3, 'ccc_valence': 0.7203, 'ccc_arousal': None}
  made = runs.vad_predictions(seeds=tuple(range(10)))
  paper = {'last': {'source': 'x', 'ccc_valence': 0.6952}}
  printed = narrow_table(runs.write_run(tmp_path, made, paper=paper))
  assert '10 seeds ± std' in printed
  assert '0.6952' in printed
  results = runs.write_run(tmp_path, made, annotators=agreement)
  printed = report.format_table(results)
  last = [line.split()[-1] for line in printed.splitlines()[4:8]]
  assert last == ['annotators', '0.7203', '—', '—']
  assert 'concordance of two of the 3 who rated' in printed.replace('\n', ' ')


def test_notes_say_what_a_reader_must_know(tmp_path):
  made = runs.class_predictions(selections=('last',))

  def notes(predictions, **about):
    results = runs.write_run(tmp_path, predictions, **about)
    return ' '.join(pages.notes(results))

  mixed = changed(made[::2], fold=0) + changed(made[1::2], fold=1)
  assert '5 of 5 speakers are tested in more than one fold' in notes(mixed)
  every = changed(made, fold=0) + changed(made, fold=1)
  across = notes(every, protocol='cross_corpus')
  assert 'pooled figures count an utterance once per fold' in across
  assert 'speaker-independent' not in across
  alone = notes([p for p in made if p.speaker == '03'])
  assert 'One speaker only: no interval can be given' in alone
  assert 'paper' not in notes(made, paper={'best_on_test': PAPER['last']})
  clipped = changed(runs.vad_predictions(), prediction=(1.0, 3.0, 2.0))
  told = notes(clipped, sphere=SPHERE)
  assert 'bound of the scale: valence 100.00 %, arousal 0.00 %' in told
  assert 'arousal is predicted as 3 for every utterance' in told


def test_metrics_and_report_import_without_heavy_libraries():
  """In a process where none of these can be imported."""
  blocked = 'tensorflow tensorflow_datasets librosa matplotlib jax'
  code = (
    f'import sys\nfor name in {blocked.split()}: sys.modules[name] = None\n'
    'import jaxser.evaluation.metrics, jaxser.evaluation.intervals\n'
    'import jaxser.report, jaxser.report.__main__\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_figure_is_a_drawing_of_its_own(classes, vad, tmp_path):
  """Of every selection, with what was published, in either colour scheme."""
  shutil.copytree(classes[0], tmp_path / 'other')
  out = pages.write_figure([classes[0], tmp_path / 'other'], tmp_path / 'x.svg')
  shown = ' '.join(ElementTree.parse(out).getroot().itertext())
  for label in ('other, last', 'other, best on dev', 'UAR, per cent'):
    assert label in shown
  assert 'paper 95.17' in shown
  assert 'prefers-color-scheme: dark' in shown
  with pytest.raises(PredictionsError, match='classes and VAD'):
    pages.write_figure([classes[0], vad[0]], out)
