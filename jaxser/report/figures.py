"""Charts, drawn by matplotlib as SVG that follows the colours of its page.

Each colour stands for a variable of the style sheet and is replaced by it; text
stays text. Charts take their title first and describe themselves in words.
"""

import collections
import functools
import io
import itertools
import math
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from jaxser.report import text
from jaxser.report.run import Curve

KINDS = 10  # Categories with a colour of their own; the others are grey.
POINTS = 160  # A curve is drawn through at most this many epochs.
DOTS = 1000  # A chart shows at most this many dots.
LINES = 12  # More runs are drawn as a band between their quartiles.
_STYLE = pathlib.Path(__file__).parent / 'templates' / 'chart.mplstyle'
_VARIABLES = (
  *('ink', 'soft', 'rule', 'mark', 'train', 'dev', 'test', 'paper'),
  *(f'k{i}' for i in range(KINDS + 1)),
)
_DASHES = ('-', (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def colour(name: str) -> str:
  """Returns the colour that becomes `var(--name)` in the page."""
  return f'#fe{_VARIABLES.index(name):04x}'


def _drawn(width: int, height: int, grid: str = '') -> Callable:
  """Makes a chart of a function that draws on axes and returns a description.

  The size is in pixels; `grid` is 'x', 'y' or 'both', and '' hides the axes.
  """

  def decorate(draw: Callable[..., str]) -> Callable[..., Markup]:
    @functools.wraps(draw)
    def chart(title: str, *args: Any, **options: Any) -> Markup:
      # Late, as matplotlib takes longer to import than most commands take to
      # explain a mistake.
      import matplotlib
      from matplotlib.figure import Figure

      title = text.printable(title)
      with matplotlib.rc_context(fname=_STYLE), warnings.catch_warnings():
        # The fonts of the reader are used, whichever matplotlib lacks.
        warnings.filterwarnings('ignore', 'Glyph')
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        axes = figure.add_subplot(title=title)
        axes.patch.set_visible(False)
        _margins(figure, *((48, 42) if grid else (4, 4)))
        if grid:
          axes.grid(True, axis=grid)
        else:
          axes.set_axis_off()
        description = draw(axes, *args, **options)
        buffer = io.StringIO()
        nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(buffer, format='svg', metadata=nothing)
      box = ' '.join(f'{72 * side:g}' for side in figure.get_size_inches())
      return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {box}"><title>{escape(title)}</title>'
        f'<desc>{escape(text.printable(description))}</desc>'
        f'{_for_a_page(buffer.getvalue())}'
      )

    return chart

  return decorate


def _margins(figure: Any, left: float, bottom: float) -> None:
  """Sets the room for labels, in pixels; a chart has its title at the top."""
  width, height = 72 * figure.get_size_inches()
  figure.subplots_adjust(
    left / width, bottom / height, 1 - 12 / width, 1 - 24 / height
  )


def _for_a_page(svg: str) -> str:
  """Strips what matplotlib writes for a file; sets colours and fonts free."""
  svg = svg.partition('<svg')[2].partition('>')[2]
  # Without marks and clipping nothing refers to an id or a definition, and a
  # style element would apply to the whole page.
  definitions = re.compile(r'\s*<defs>.*?</defs>', re.DOTALL)
  without = r' (?:id|clip-path)="[^"]*"| transform="rotate\(-0 [^"]*"'
  for pattern in (definitions, without, r'</?g ?/?>\s*'):
    svg = re.sub(pattern, '', svg)
  # Coordinates on one line and with one decimal.
  numbers = r' (?:d|x|y|transform)="[^"]*"'
  svg = re.sub(numbers, lambda m: re.sub(r'(\.\d)\d+|\n', r'\1', m[0]), svg)
  svg = re.sub('font-family: [^;"]*', 'font-family: inherit', svg)
  svg = re.sub(r"font: ([^'\";]*)'[^;\"]*", r'font: \1system-ui', svg)
  return re.sub(
    '#fe([0-9a-f]{4})', lambda m: f'var(--{_VARIABLES[int(m[1], 16)]})', svg
  )


def _line(axes: Any, x: Any, y: Any, name: str, **style: Any) -> None:
  """Draws a line in a colour of the page; it is never clipped."""
  axes.plot(x, y, color=colour(name), clip_on=False, **style)


def _dots(
  axes: Any, x: Any, y: Any, name: str, size: float, alpha=1.0, layers=1
) -> None:
  """Draws points as few paths; dots of one layer do not add up."""
  style = {'linewidth': size, 'alpha': alpha, 'solid_capstyle': 'round'}
  for i in range(layers):
    # Lines of length 0 with gaps.
    parts = [np.asarray(v)[i::layers, None] + [0, 0, np.nan] for v in (x, y)]
    _line(axes, parts[0].ravel(), parts[1].ravel(), name, **style)


def _subsampled(size: int, most: int) -> np.ndarray:
  """Returns at most `most` positions of `size`; the first and last stay."""
  places = np.linspace(0, size - 1, min(size, most)).round()
  return np.unique(places).astype(int)


def _padded(low: float, high: float, share=0.05) -> tuple[float, float]:
  margin = share * (high - low) or 0.5
  return low - margin, high + margin


@_drawn(440, 300, 'y')
def learning_curves(
  axes: Any,
  curves: Sequence[Curve],
  paper: Mapping[str, float],
  limits: tuple[float, float],
) -> str:
  """Draws the median of runs, a curve per split, and published figures."""
  ends = [min(c.epochs[0] for c in curves), max(c.epochs[-1] for c in curves)]
  ends[1] = max(ends[1], ends[0] + 1)
  words = []
  for curve in curves:
    rows = _subsampled(len(curve.epochs), POINTS)
    low, middle, high = curve.quartiles()
    x, runs = curve.epochs[rows], len(curve.values)
    if runs > LINES:
      style = {'color': colour(curve.name), 'alpha': 0.2, 'linewidth': 0}
      axes.fill_between(x, low[rows], high[rows], clip_on=False, **style)
    for values in curve.values[:, rows] if 1 < runs <= LINES else ():
      thin = {'linewidth': 1, 'alpha': 0.3}
      seen = np.isfinite(values)
      _line(axes, x[seen], values[seen], curve.name, **thin)
    _line(axes, x, middle[rows], curve.name, linewidth=2)
    _dots(axes, x[-1:], middle[-1:], curve.name, 6)
    words.append(f'{curve.name}: {middle[-1]:.4g} at epoch {x[-1]:g}')
    if runs > 1:
      words[-1] += f' (quartiles {low[-1]:.4g} to {high[-1]:.4g})'
  for i, (label, value) in enumerate(paper.items()):
    _line(axes, ends, [value] * 2, 'paper', linewidth=1.5, dashes=(2, 2))
    # At either end, as the lines may lie close together.
    place = {'ha': ('left', 'right')[i % 2], 'va': 'bottom'}
    axes.text(ends[i % 2], value, label, color=colour('paper'), **place)
    words.append(f'{label}: {value:g}')
  axes.set(xlim=ends, xlabel='epoch')
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.set_ylim(*_padded(*limits))
  runs = max(len(curve.values) for curve in curves)
  return f'{text.count(runs, "run")}, median; {"; ".join(words)}.'


@_drawn(440, 300, 'y')
def optimization(axes: Any, curves: Mapping[str, Curve]) -> str:
  """Draws medians over runs on a logarithmic scale, one curve per label."""
  words = []
  for i, (label, curve) in enumerate(curves.items()):
    rows = _subsampled(len(curve.epochs), POINTS)
    x, y = curve.epochs[rows], curve.quartiles()[1][rows]
    _line(axes, x, np.where(y > 0, y, np.nan), f'k{i}', linewidth=2)
    # Each at another place, as the lines may lie close together.
    at = len(x) * i // len(curves)
    place = {'ha': 'left' if 2 * at < len(x) - 1 else 'right', 'va': 'bottom'}
    axes.text(x[at], y[at], label, color=colour(f'k{i}'), **place)
    words.append(f'{label}: {y[-1]:.4g} at epoch {x[-1]:g}')
  axes.set(xlabel='epoch', yscale='log')
  axes.margins(y=0.12)
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.yaxis.set_major_formatter('{x:g}')
  axes.minorticks_off()
  return f'Median over runs; {"; ".join(words)}.'


@_drawn(340, 348, 'both')
def scatter(
  axes: Any,
  targets: np.ndarray,
  predictions: np.ndarray,
  limits: tuple[float, float],
  description: str,
) -> str:
  """Draws predicted against true values [n] on one scale."""
  rows = _subsampled(len(targets), DOTS)
  _dots(axes, targets[rows], predictions[rows], 'mark', 4, 0.3, layers=6)
  _equality(axes, limits, 'true', 'predicted')
  return f'{len(targets)} predictions, {description}.'


@_drawn(340, 348, 'both')
def reliability(axes: Any, bins: Sequence[tuple], description: str) -> str:
  """Draws (count, confidence, accuracy) of bins; a dot's area is its count."""
  whole = sum(count for count, _, _ in bins)
  words = [description]
  for count, *place in bins:
    sure, right = (100 * x for x in place)
    size = 4 + 28 * math.sqrt(count / whole)
    _dots(axes, [sure], [right], 'mark', size, 0.55)
    words.append(f'{sure:.0f} % confident, {right:.0f} % right ({count}).')
  _equality(axes, (0, 100), 'confidence, per cent', 'right, per cent')
  return ' '.join(words)


def _equality(axes: Any, limits: tuple, x_name: str, y_name: str) -> None:
  """Draws the line on which both axes have the same value."""
  _line(axes, limits, limits, 'soft', linewidth=1, dashes=(4, 4))
  ends = _padded(*limits, 0.02)
  axes.set(xlim=ends, ylim=ends, xlabel=x_name, ylabel=y_name, aspect='equal')


@_drawn(430, 84, 'x')
def forest(
  axes: Any,
  marks: Sequence[tuple],
  axis: str,
  task: str,
  zero: bool = False,
  line: tuple[str, float | None] | None = None,
  width: int = 430,
) -> str:
  """Draws a dot with its interval per line, and a tick for the paper's figure.

  Marks are (label, value, low, high, paper) from the top; `zero` draws a line at
  zero, and `line` is a label and a value that all are to be compared with.
  """
  axes.figure.set_size_inches(width / 72, (66 + 28 * len(marks)) / 72)
  letters = width // 17
  longest = max(min(len(label), letters) for label, *_ in marks)
  _margins(axes.figure, 16 + 7 * longest, 42)
  labels, words, known = [], [], [0.0] * zero
  ends = (len(marks) - 0.5, -0.5)
  if zero:
    _line(axes, [0, 0], ends[::-1], 'soft', linewidth=1, dashes=(4, 4))
  if line is not None and line[1] is not None:
    known.append(line[1])
    words.append(f'{line[0]}: {text.number(line[1], task)}')
    _line(axes, [line[1]] * 2, ends, 'dev', linewidth=1.5, dashes=(4, 3))
  for row, (label, value, low, high, paper) in enumerate(marks):
    known += [x for x in (value, low, high, paper) if x is not None]
    entry = {'value': value, 'low': low, 'high': high}
    words.append(f'{label}: {text.with_interval(entry, task)}')
    if low is not None:
      _line(axes, [low, high], [row, row], 'test', linewidth=2)
    if paper is not None:
      _line(axes, [paper] * 2, [row - 0.3, row + 0.3], 'paper', linewidth=3)
      words[-1] += f', paper {text.number(paper, task)}'
    if value is not None:
      _dots(axes, [value], [row], 'test', 9)
    label, more = text.printable(label), '…' * (len(label) > letters)
    labels.append(label[:letters] + more)
  axes.set_yticks(range(len(marks)), labels, color=colour('ink'))
  axes.set(xlabel=axis, ylim=ends)
  if known:
    axes.set_xlim(*_padded(min(known), max(known)))
  return f'{"; ".join(words)}.'


def categories(values: np.ndarray) -> tuple[list[tuple[str, str]], np.ndarray]:
  """Returns a legend, and the colour of each value; the rarest share one."""
  counts = collections.Counter(values[values != ''].tolist())
  most = KINDS - (len(counts) > KINDS)
  names = sorted(name for name, _ in counts.most_common(most))
  kinds = [names.index(v) if v in names else KINDS for v in values]
  legend = [(name, f'k{i}') for i, name in enumerate(names)]
  legend += [('others', f'k{KINDS}')] if KINDS in kinds else []
  return legend, np.array(kinds)


@_drawn(340, 352)
def embedding_map(
  axes: Any,
  places: np.ndarray,
  kinds: np.ndarray,
  held_out: np.ndarray,
  description: str,
) -> str:
  """Draws places [n, 2] as dots, and as rings what was held out, bool [n]."""
  middle = (places.min(0) + places.max(0)) / 2
  half = 1.05 * max(float(np.ptp(places, axis=0).max()) / 2, 1e-9)
  x, y = ((places - middle) / half).T
  turn = np.append(np.linspace(0, 2 * np.pi, 9), np.nan)
  _line(axes, [-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], 'rule', linewidth=1)
  for ring, kind in itertools.product((False, True), np.unique(kinds)):
    rows = (kinds == kind) & (held_out == ring)
    if ring and rows.any():  # One line with gaps.
      ring_x = (x[rows, None] + 0.024 * np.cos(turn)).ravel()
      ring_y = (y[rows, None] + 0.024 * np.sin(turn)).ravel()
      _line(axes, ring_x, ring_y, f'k{kind}', linewidth=1.6)
    else:
      _dots(axes, x[rows], y[rows], f'k{kind}', 5, 0.5)
  axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect='equal')
  return description


def directions() -> dict[str, np.ndarray]:
  """Returns name -> right, up and towards the viewer, in (V, A, D)."""
  a, h = math.radians(32), math.radians(24)
  right = [math.cos(a), 0, -math.sin(a)]
  up = [-math.sin(a) * math.sin(h), math.cos(h), -math.cos(a) * math.sin(h)]
  pairs = {
    'from the side': (right, up),
    'valence and arousal': ([1, 0, 0], [0, 1, 0]),
    'valence and dominance': ([1, 0, 0], [0, 0, 1]),
  }
  return {k: np.stack([*v, np.cross(*v)]) for k, v in pairs.items()}


def borders(cut: str | float) -> list[np.ndarray]:
  """Returns curves [points, 3] on the unit sphere between regions."""
  around, down = np.linspace(0, 2 * np.pi, 73), np.linspace(0, np.pi, 37)
  if cut == 'octants':
    circle = np.stack([np.cos(around), np.sin(around)], -1)
    return [np.insert(circle, axis, 0.0, axis=1) for axis in range(3)]
  # Late, as pages of classes are made without JAX.
  from jaxser.ops import spherical

  step = math.radians(float(cut))
  places = [
    *((around, 0 * around + k * step) for k in range(1, round(np.pi / step))),
    *((0 * down + k * step, down) for k in range(round(2 * np.pi / step))),
  ]
  places = [np.stack([1 + 0 * p, turn, p], -1) for turn, p in places]
  return [np.asarray(spherical.spherical_to_cartesian(x)) for x in places]


@_drawn(340, 352)
def sphere(
  axes: Any,
  view: np.ndarray,
  points: np.ndarray,
  kinds: np.ndarray,
  cut: str | float,
) -> str:
  """Draws points [n, 3] in the colours of their regions, int [n]."""
  curves, kinds = borders(cut), kinds % KINDS
  around = np.linspace(0, 2 * np.pi, 73)
  _line(axes, np.cos(around), np.sin(around), 'soft', linewidth=1)
  rows = _subsampled(len(points), DOTS // 2)
  x, y, depth = view @ points[rows].T
  for front, alpha in ((False, 0.35), (True, 0.75)):
    for curve in curves:
      line_x, line_y, line_depth = view @ curve.T
      seen = np.where((line_depth >= -1e-9) == front, line_x, np.nan)
      if np.isfinite(seen).any():
        _line(axes, seen, line_y, 'soft', linewidth=0.8, alpha=alpha)
    for kind in np.unique(kinds):
      these = (kinds[rows] == kind) & ((depth >= 0) == front)
      _dots(axes, x[these], y[these], f'k{kind}', 5, alpha)
  names = ('valence', 'arousal', 'dominance')
  for name, (end_x, end_y, _) in zip(names, 1.18 * view.T, strict=True):
    if math.hypot(end_x, end_y) > 0.2:  # One that points at the viewer is not.
      _line(axes, [0, end_x], [0, end_y], 'soft', linewidth=1)
      side = 'right' if end_x > 0.5 else 'center'
      axes.text(end_x, end_y, f'{name} +', ha=side, va='bottom')
  reach = min(max(1.3, float(np.linalg.norm(points, axis=-1).max())), 1.5)
  axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect='equal')
  length = np.linalg.norm(points, axis=-1).mean()
  return (
    f'{len(points)} points, on average {length:.2f} from neutral, where the '
    'sphere has radius 1.'
  )


def _timeline(
  axes: Any,
  edges: np.ndarray,
  values: np.ndarray,
  limits: tuple[float, float],
  description: str,
  waveform: np.ndarray | None = None,
  seconds: float = 0.0,
) -> str:
  """Draws values [n, lines] between edges [n + 1] in seconds.

  Behind them lies the waveform of so many seconds, as `audio.envelope` has it.
  """
  (low, high), end = _padded(*limits), edges[-1]
  if waveform is not None:
    end = seconds
    x = np.linspace(0, seconds, len(waveform))
    lows, highs = (waveform.T / np.abs(waveform).max() + 1) / 2
    bottom, top = limits
    outline = bottom + (top - bottom) * np.append(lows, highs[::-1])
    axes.fill(np.append(x, x[::-1]), outline, color=colour('rule'))
  at = np.repeat(edges, 2)[1:-1]
  for i, line in enumerate(values.T):
    style = {'linestyle': _DASHES[i % len(_DASHES)], 'linewidth': 2}
    _line(axes, at, np.repeat(line, 2), f'k{i % KINDS}', **style)
  axes.set(xlim=(0, end), ylim=(low, high), xlabel='seconds')
  return description


timeline = _drawn(860, 280, 'y')(_timeline)
short_timeline = _drawn(440, 280, 'y')(_timeline)
