"""What a page shows of valence, arousal and dominance besides the scatter."""

import numpy as np

from jaxser.evaluation import regions as regions_lib
from jaxser.evaluation.predictions import SELECTIONS
from jaxser.report import charts, sphere, text
from jaxser.report.markup import Markup, element, join, scrolling, table
from jaxser.report.run import Run
from jaxser.report.section import Section, selections, stacked

# The one that the sphere shows is the first of these that the run has.
_ORDER = ('best_on_dev', 'last', 'init_from', 'best_on_test')


def regions(run: Run, numbers: charts.Numbers) -> Section | None:
  """How often the predicted point lies in the region of the true one."""
  del numbers
  about = run.results.get('sphere')
  if not about:
    return None
  names = regions_lib.names(about['regions'])
  entries = {
    label: run.results['selections'][name]['pooled']['regions']
    for name, label in selections(run)
  }
  rows = [
    [
      name,
      *(
        stacked(
          element('b', text.number(entry[key]['value'], 'classification')),
          text.interval(entry[key], 'classification'),
        )
        for entry in entries.values()
      ),
    ]
    for key, name in (('accuracy', 'accuracy'), ('macro_f1', 'macro F1'))
  ]
  caption = 'Region of the predicted point, per cent with 95 % interval'
  parts = [
    scrolling(table(caption, ['', *entries], rows, class_='results'), caption)
  ]
  tables = []
  for label, entry in entries.items():
    counts = np.array(entry['confusion'])
    caption = f'{label}: true and predicted regions'
    tables.append(scrolling(_recalls(caption, names, counts), caption))
  parts.append(element('div', *tables, class_='grid-of wide'))
  return Section(
    'regions',
    'Regions of the sphere',
    join([element('p', f'{_told(about)} {_head(run)}', class_='soft'), *parts]),
  )


def _told(about: dict) -> str:
  """How the regions are cut."""
  kind = about['regions']
  cut = (
    'the eight sign octants of arousal, valence and dominance'
    if kind == 'octants'
    else f'{kind:g} degrees of azimuth and polar angle'
  )
  centre = 'the middle of the scale'
  if about['centre']:
    centre = ', '.join(f'{x:g}' for x in about['centre'])
  return (
    f'Regions: {cut}, around {centre}. Both regions are those of points: no '
    'region head has a say here.'
  )


def _head(run: Run) -> str:
  """What the region head itself says, which no point shows; '' without one."""
  about = run.results.get('probes') or {}
  found = about.get('region_head')
  if not found:
    return ''
  return (
    f'The region head itself, {SELECTIONS[about["selection"]]}, seed '
    f'{about["seed"]}: accuracy {found["accuracy"]:.2f} %, macro F1 '
    f'{found["macro_f1"]:.2f} % of {found["utterances"]:,} utterances.'
  )


def _recalls(
  caption: str, names: tuple[str, ...], counts: np.ndarray
) -> Markup:
  """One row per region that occurs: how many, how many of them recognised."""
  rows = []
  for number, name in enumerate(names):
    true, said = int(counts[number].sum()), int(counts[:, number].sum())
    if not true and not said:
      continue
    share = 100 * counts[number, number] / true if true else None
    bar = element(
      'span',
      class_='bar',
      style=f'--share: {share or 0:.2f}%',
      aria_hidden='true',
    )
    shown = text.number(share, 'classification')
    swatch = [_swatch(number)] if len(names) <= sphere.COLOURS else []
    rows.append([join([*swatch, name], ' '), true, said, join([shown, bar])])
  return table(
    caption,
    ['region', 'true', 'predicted', 'recall, per cent'],
    rows,
    class_='recall regions',
  )


def _swatch(region: int) -> Markup:
  return element(
    'svg',
    element(
      'circle', cx=6, cy=6, r=5, class_=f'filled kind{region % sphere.COLOURS}'
    ),
    viewBox='0 0 12 12',
    class_='key',
    aria_hidden='true',
  )


def globe(run: Run, numbers: charts.Numbers) -> Section | None:
  """True and predicted points around neutral, from three directions."""
  about = run.results.get('sphere')
  if not about:
    return None
  chosen = next(n for n in _ORDER if n in run.results['selections'])
  rows = [p for p in run.predictions if p.selection == chosen]
  truth = np.array([p.target for p in rows])
  answer = np.array([p.prediction for p in rows])
  cubes = [regions_lib.cube_of(points, about) for points in (truth, answer)]
  colours = regions_lib.region_of(truth, about)
  furthest = max(float(np.linalg.norm(cube, axis=-1).max()) for cube in cubes)
  pooled = run.results['selections'][chosen]['pooled']
  parts = []
  for title, cube in zip(('True', 'Predicted'), cubes, strict=True):
    spread = float(np.linalg.norm(cube, axis=-1).mean())
    words = (
      f'{len(cube)} points, on average {spread:.2f} from neutral, where the '
      'sphere has radius 1.'
    )
    if title == 'Predicted':
      accuracy = text.number(
        pooled['regions']['accuracy']['value'], 'classification'
      )
      words += f' {accuracy} per cent lie in their true region.'
    drawings = [
      element(
        'figure',
        sphere.draw(
          title,
          view,
          cube,
          colours,
          about['regions'],
          min(furthest, 1.4),
          words,
          numbers(),
        ),
        element('figcaption', text.headline(view.name)),
      )
      for view in sphere.VIEWS
    ]
    parts.append(element('div', *drawings, class_='grid-of charts'))
  label = run.results['selections'][chosen]['label']
  told = (
    f'{text.headline(label)}. The sphere reaches to the ends of the scale, its '
    'centre is neutral; lines are borders of regions, dashed behind. Above the '
    'true points, below the predicted ones, each in the colour of its true '
    'region: where colours mix below, regions were confused.'
  )
  if len(rows) > sphere.DOTS:
    told += f' {sphere.DOTS} evenly chosen points are drawn.'
  names = regions_lib.names(about['regions'])
  legend = []
  if len(names) <= sphere.COLOURS:
    occurring = sorted(set(colours.tolist()))
    items = [element('li', _swatch(i), names[i]) for i in occurring]
    legend = [element('ul', *items, class_='legend')]
  else:
    told += f' {sphere.COLOURS} colours serve the regions in turns.'
  return Section(
    'sphere',
    'The sphere',
    join([element('p', told, class_='soft'), *legend, *parts]),
  )
