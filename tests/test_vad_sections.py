"""Regions and the sphere on the page: numbers, geometry, words."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxser import report
from jaxser.evaluation import regions as regions_lib
from jaxser.report import sphere, text
from tests import runs

SPHERE = {'regions': 'octants', 'vad_range': [1.0, 5.0], 'centre': None}
HEAD = {'accuracy': 41.25, 'macro_f1': 17.5, 'utterances': 1234}
PROBES = {'seed': 0, 'selection': 'last', 'region_head': HEAD}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('vad')
  predictions = runs.vad_predictions(seeds=(0, 1), each=8)
  results = runs.write_run(
    workdir, predictions, system='emosphere', sphere=SPHERE, probes=PROBES
  )
  page = report.write_report(workdir).read_text('utf-8')
  return predictions, results, ElementTree.fromstring(page)


def _octant(point):
  """Region by hand, from the table of the paper."""
  valence, arousal, dominance = (x >= 3 for x in point)
  signs = ''.join('-+'[x] for x in (arousal, valence, dominance))
  table = ('+++', '-++', '--+', '+-+', '++-', '-+-', '---', '+--')
  return table.index(signs)


def test_region_scores_are_those_of_the_points(made):
  predictions, results, _ = made
  pairs = [(_octant(p.target), _octant(p.prediction)) for p in predictions]
  entry = results['selections']['last']['pooled']['regions']
  right = np.mean([a == b for a, b in pairs])
  assert entry['accuracy']['value'] == round(100 * right, 2)
  assert entry['accuracy']['low'] < 100 * right < entry['accuracy']['high']
  scores = []
  for k in sorted({a for a, _ in pairs}):
    hits = sum(a == b == k for a, b in pairs)
    scores.append(
      2 * hits / (sum(a == k for a, _ in pairs) + sum(b == k for _, b in pairs))
    )
  assert entry['macro_f1']['value'] == round(100 * np.mean(scores), 2)
  assert np.sum(entry['confusion']) == len(predictions)
  said = text.format_table(results)
  line = f'Regions of the sphere (octants): accuracy {100 * right:.2f} %'
  assert line in said


def test_centre_and_angle_move_the_borders():
  point = np.array([[3.2, 3.2, 3.2]])
  moved = {**SPHERE, 'centre': [3.5, 3.5, 3.5]}
  assert regions_lib.region_of(point, SPHERE) == [0]
  assert regions_lib.region_of(point, moved) == [6]
  fine = {**SPHERE, 'regions': 30.0}
  assert 0 <= regions_lib.region_of(point, fine)[0] < 72


def test_the_page_says_what_the_results_say(made):
  _, results, page = made
  entry = results['selections']['last']['pooled']['regions']
  section = page.find(".//section[@id='regions']")
  words = ' '.join(section.itertext())
  assert f'{entry["accuracy"]["value"]:.2f}' in words
  assert f'{entry["macro_f1"]["value"]:.2f}' in words
  assert 'I exuberant (A+, V+, D+)' in words
  said = (
    'The region head itself, last epoch, seed 0: accuracy 41.25 %, macro F1'
  )
  assert f'{said} 17.50 % of 1,234 utterances.' in words
  counts = np.array(entry['confusion'])
  (row,) = [
    row for row in section.iter('tr') if 'IV hostile' in ''.join(row.itertext())
  ]
  cells = [''.join(cell.itertext()) for cell in row.findall('td')]
  assert cells[:2] == [str(counts[3].sum()), str(counts[:, 3].sum())]


def test_the_sphere_shows_every_point_from_three_sides(made):
  predictions, _, page = made
  charts = page.findall(".//section[@id='sphere']//figure")
  assert len(charts) == 6
  for chart in charts:
    drawn = 0
    for path in chart.iter('{http://www.w3.org/2000/svg}path'):
      if 'dotted' in path.get('class'):
        places = np.array(
          re.findall(r'M([\d.-]+) ([\d.-]+)h0', path.get('d')), float
        )
        assert ((places >= 0) & (places <= 324)).all()
        drawn += len(places)
    assert drawn == len(predictions)
    told = chart.find('.//{http://www.w3.org/2000/svg}desc').text
    assert f'{len(predictions)} points' in told


def test_views_are_right_handed_and_borders_lie_on_the_sphere():
  for view in sphere.VIEWS:
    np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(view.axes) > 0
  for regions, count in (('octants', 3), (90.0, 5), (60.0, 8)):
    curves = sphere.borders(regions)
    assert len(curves) == count
    for curve in curves:
      np.testing.assert_allclose(np.linalg.norm(curve, axis=-1), 1, atol=1e-6)


def test_a_run_without_regions_has_no_such_parts(tmp_path):
  runs.write_run(tmp_path, runs.class_predictions(selections=('last',)))
  page = report.write_report(tmp_path).read_text('utf-8')
  assert 'id="regions"' not in page
  assert 'id="sphere"' not in page
