"""What the embeddings of a run keep: probes, and their views in 2-d."""

import numpy as np

from jaxser.evaluation import embeddings as embeddings_lib
from jaxser.evaluation.probes import HELD_OUT
from jaxser.report import charts, text
from jaxser.report.markup import Markup, element, join, scrolling, table
from jaxser.report.run import Run
from jaxser.report.section import Section, stacked

COLOURS = 10
"""Categories that get a colour of their own; the others share a grey one."""

_ABOUT = {
  'embedding': 'what is classified',
  'encoding': 'before the subspaces',
  'relevant': 'emotion-relevant subspace',
  'irrelevant': 'emotion-irrelevant subspace',
  'benchmark': "the speaker's benchmark, taken off the encoding",
}


def probes(run: Run, numbers: charts.Numbers) -> Section | None:
  """How well emotion and speaker can be read off each embedding linearly."""
  del numbers
  found = run.results.get('probes') or {}
  kinds = [kind for kind in ('emotion', 'speaker') if kind in found]
  if not kinds:
    return None
  names = list(found[kinds[0]]['spaces'])
  rows = []
  for name in names:
    cells = [
      _measured(found[kind]['spaces'][name], found[kind]['chance'])
      for kind in kinds
    ]
    rows.append([stacked(name, _ABOUT.get(name, '')), *cells])
  chance = [
    text.number(found[kind]['chance'], 'classification') for kind in kinds
  ]
  rows.append(['chance', *chance])
  caption = (
    'Balanced accuracy of a linear classifier, per cent; below it the standard '
    'deviation over folds'
  )
  shown = table(
    caption,
    ['embedding', *(text.headline(kind) for kind in kinds)],
    rows,
    class_='recall probes',
  )
  notes = [_note(kind, found[kind]) for kind in kinds]
  notes.append(
    f'Seed {found["seed"]}, {text.short(found["selection"])} of every fold. '
    'What a probe cannot read may still be there, only not linearly.'
  )
  return Section(
    'probes',
    'What the embeddings keep',
    join(
      [
        scrolling(shown, caption),
        element('ul', *(element('li', note) for note in notes), class_='notes'),
      ]
    ),
  )


def _measured(entry: dict, chance: float) -> Markup:
  """The mean over folds with its spread and a bar; chance is marked in it."""
  std = entry['std']
  value = text.number(entry['mean'], 'classification')
  spread = '' if std is None else f'± {text.number(std, "classification")}'
  bar = element(
    'span',
    element('i', style=f'left: {chance}%'),
    class_='bar',
    style=f'--share: {entry["mean"]}%',
    aria_hidden='true',
  )
  return join([stacked(value, spread), bar])


def _note(kind: str, entry: dict) -> str:
  fewest, most = entry['classes']
  classes = f'{fewest}' if fewest == most else f'{fewest} to {most}'
  folds = text.count(entry['folds'], 'fold')
  if kind == 'emotion':
    return (
      f'Emotion: fitted to the training side of a fold, scored on its test '
      f'side, which neither network nor probe has seen ({classes} classes, '
      f'{entry["scored"]:,} utterances scored in {folds}).'
    )
  return (
    f'Speaker: fitted to {HELD_OUT - 1} of {HELD_OUT} utterances of every '
    'training speaker, scored on the others: the same speakers in other '
    f'utterances, all of which the network was trained on ({classes} speakers, '
    f'{entry["scored"]:,} utterances scored in {folds}).'
  )


def maps(run: Run, numbers: charts.Numbers) -> Section | None:
  """Every embedding in two dimensions, coloured by emotion and by speaker."""
  found = embeddings_lib.read(run.workdir)
  if found is None:
    return None
  rows = found.mapped()
  if rows.sum() < 4:
    return None
  fold = int(found.fold[rows][0])
  held_out = found.side[rows] == 'test'
  parts: list[Markup] = []
  for title, values in (('emotion', found.label), ('speaker', found.speaker)):
    values = values[rows]
    if not np.any(values != ''):
      continue
    order = _categories(values)
    drawings = [
      element(
        'figure',
        _map(
          f'{text.headline(name)}, by {title}',
          found.maps[name][rows],
          [order[value] for value in values],
          held_out,
          _described(run, name, title, rows, held_out),
          numbers(),
        ),
      )
      for name in found.about['names']
    ]
    parts += [
      element('h3', f'By {title}'),
      _legend(order),
      element('div', *drawings, class_='grid-of charts'),
    ]
  about = (
    f'Fold {fold}, seed {found.about["seed"]}, '
    f'{text.short(found.about["selection"])}: t-SNE of {int(rows.sum())} '
    'utterances. Dots were trained on or developed on, rings are test '
    'utterances. What lies together was alike; distances between groups, and '
    'the axes, mean nothing.'
  )
  return Section(
    'embeddings',
    'Embeddings in two dimensions',
    join([element('p', about, class_='soft'), *parts]),
  )


def _categories(values: np.ndarray) -> dict[str, int]:
  """Value -> its colour; the rarest beyond `COLOURS` share the last one."""
  names, counts = np.unique(values[values != ''], return_counts=True)
  if len(names) > COLOURS:
    kept = np.sort(np.argsort(-counts, kind='stable')[: COLOURS - 1])
  else:
    kept = np.arange(len(names))
  chosen = {str(names[i]): colour for colour, i in enumerate(kept)}
  others = {str(name): COLOURS for name in names if str(name) not in chosen}
  unknown = {'': COLOURS} if np.any(values == '') else {}
  return {**chosen, **others, **unknown}


def _legend(order: dict[str, int]) -> Markup:
  named = {name: c for name, c in order.items() if c < COLOURS}
  entries = list(named.items())
  if len(named) < len(order):
    others = len(order) - len(named)
    entries.append((f'{others} others', COLOURS))
  items = [
    element(
      'li',
      element(
        'svg',
        element('circle', cx=6, cy=6, r=5, class_=f'filled kind{colour}'),
        viewBox='0 0 12 12',
        class_='key',
        aria_hidden='true',
      ),
      name,
    )
    for name, colour in entries
  ]
  return element('ul', *items, class_='legend')


def _described(
  run: Run, name: str, kind: str, rows: np.ndarray, held_out: np.ndarray
) -> str:
  """The figure in words, with the probe that measures what it shows."""
  words = f'{int(rows.sum())} utterances, {int(held_out.sum())} of them tested.'
  probe = (run.results.get('probes') or {}).get(kind)
  if probe and name in probe['spaces']:
    mean = text.number(probe['spaces'][name]['mean'], 'classification')
    words += (
      f' A linear probe for the {kind} reaches {mean} per cent, chance is '
      f'{text.number(probe["chance"], "classification")}.'
    )
  return words


def _map(
  title: str,
  places: np.ndarray,
  colours: list[int],
  held_out: np.ndarray,
  description: str,
  number: int,
) -> Markup:
  """A square of dots and rings without axes."""
  size, edge = 300, 10
  low, high = places.min(0), places.max(0)
  middle, half = (low + high) / 2, max(float(np.max(high - low)) / 2, 1e-9)
  scale = (size / 2 - edge) / half
  # The title stands above.
  top = 24
  points = (places - middle[None]) * np.array([[scale, -scale]])
  x, y = (points + size / 2).T
  groups: dict[tuple[int, bool], list[str]] = {}
  for i, colour in enumerate(colours):
    key = colour, bool(held_out[i])
    groups.setdefault(key, []).append(f'M{x[i]:.1f} {y[i] + top:.1f}')
  parts = []
  for (colour, ring), marks in sorted(groups.items(), key=lambda g: g[0][::-1]):
    if ring:
      # Circles as paths: a move and two arcs each.
      drawn = ''.join(
        f'{m}m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0' for m in marks
      )
      parts.append(element('path', d=drawn, class_=f'ringed kind{colour}'))
    else:
      drawn = ''.join(f'{mark}h0' for mark in marks)
      parts.append(element('path', d=drawn, class_=f'dotted kind{colour}'))
  frame = element(
    'rect', x=0.5, y=top + 0.5, width=size - 1, height=size - 1, class_='frame'
  )
  name = element(
    'g', element('text', title, x=2, y=15, class_='name'), class_='axes'
  )
  return charts.drawing(
    size, size + top + 1, title, description, number, name, frame, *parts
  )
