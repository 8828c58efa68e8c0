"""Valence, arousal and dominance on a sphere around neutral, and its regions.

Points are [..., 3] in the order `VAD`; angles and octants have their own.
Source: Cho et al., "EmoSphere-SER", Interspeech 2025 (arXiv 2505.19693).
"""

import fractions
import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

VAD = ('valence', 'arousal', 'dominance')
"""Order of the last axis of every point in this module and of batch['vad']."""

ANGLE_AXES = ('arousal', 'dominance', 'valence')
"""x, y, z of the authors' angles."""

OCTANT_AXES = ('arousal', 'valence', 'dominance')
"""Order of the signs in the authors' table of octants."""

OCTANTS = ('+++', '-++', '--+', '+-+', '++-', '-+-', '---', '+--')
"""Signs of the regions I .. VIII over `OCTANT_AXES`."""

_ROMAN = ('I', 'II', 'III', 'IV', 'V', 'VI', 'VII', 'VIII')
# Mehrabian's words for the eight temperaments (Current Psychology 14, 1996).
_WORDS = 'exuberant relaxed disdainful hostile dependent docile bored anxious'
# Below this squared distance a point counts as lying on the polar axis (or at
# the origin): 1e-15 is far under float32 rounding, and 1 / 1e-15 is finite.
_TINY = 1e-30


def reorder(
  points: Array, source: Sequence[str], target: Sequence[str]
) -> Array:
  """Moves the last axis of points [..., 3] from one named order to another."""
  order = [tuple(source).index(axis) for axis in target]
  return jnp.stack([points[..., i] for i in order], axis=-1)


def to_cube(
  points: Array, lo: float, hi: float, centre: Sequence[float] | None = None
) -> Array:
  """Corpus scale [lo, hi] -> cube [-1, 1]: `2 (x - centre) / (hi - lo)`.

  With a centre, [3] on the scale, other than its middle (None), the cube keeps
  its size and no longer ends at -1 and 1.
  """
  points = jnp.asarray(points)
  middle = [(lo + hi) / 2] * 3 if centre is None else centre
  origin = jnp.asarray(middle, jnp.float32).astype(points.dtype)
  origin = jnp.expand_dims(origin, range(points.ndim - 1))
  return (points - origin) * (2 / (hi - lo))


def cartesian_to_spherical(points: Array) -> Array:
  """Points [..., 3] -> radius, azimuth and polar angle [..., 3], in radians.

  `r = |v|`, `azimuth = atan2(y, x)` in (-pi, pi] and `polar = arccos(z / r)` in
  [0, pi], computed as `atan2(sqrt(x^2 + y^2), z)`, which stays exact near the
  poles. On the polar axis the azimuth is 0, at the origin all three; there the
  angles have no derivative, and theirs is given as 0.
  """
  xyz = reorder(jnp.asarray(points), VAD, ANGLE_AXES)
  x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
  # `where` acts on the inputs: a derivative of 0 times infinity would be NaN,
  # however the output were chosen.
  on_axis = x * x + y * y < _TINY
  x = jnp.where(on_axis, 1.0, x)
  y = jnp.where(on_axis, 0.0, y)
  planar = jnp.sqrt(x * x + y * y)
  azimuth = jnp.where(on_axis, 0.0, jnp.arctan2(y, x))
  # atan2(-0.0, -1) is -pi, outside of the half-open interval.
  azimuth = jnp.where(azimuth <= -math.pi, math.pi, azimuth)
  tilt = jnp.arctan2(planar, jnp.where(on_axis, 1.0, z))
  polar = jnp.where(on_axis, jnp.where(z < 0, math.pi, 0.0), tilt)
  length = jnp.sqrt(planar * planar + jnp.where(on_axis, 0.0, z * z))
  radius = jnp.where(on_axis, jnp.abs(z), length)
  return jnp.stack([radius, azimuth, polar], axis=-1)


def spherical_to_cartesian(spherical: Array) -> Array:
  """Radius, azimuth and polar angle [..., 3] -> points [..., 3]."""
  spherical = jnp.asarray(spherical)
  radius, azimuth, polar = (spherical[..., i] for i in range(3))
  planar = radius * jnp.sin(polar)
  x, y = planar * jnp.cos(azimuth), planar * jnp.sin(azimuth)
  xyz = jnp.stack([x, y, radius * jnp.cos(polar)], axis=-1)
  return reorder(xyz, ANGLE_AXES, VAD)


def _grid(regions: str | float) -> tuple[int, int]:
  """Returns the number of azimuth and of polar bins of an angle in degrees."""
  try:
    angle = fractions.Fraction(str(regions))
  except ValueError as error:
    raise ValueError(
      f"regions is {regions!r}; use 'octants' or an angle in degrees"
    ) from error
  if not 0 < angle <= 180 or (180 / angle).denominator != 1:
    raise ValueError(
      f'regions of {regions} degrees do not tile the sphere; use an angle that'
      ' divides 180, such as 180, 90, 60, 45 or 30'
    )
  return int(360 / angle), int(180 / angle)


def region_count(regions: str | float) -> int:
  """Returns how many regions there are: 8, or (360 / a) * (180 / a).

  Raises:
    ValueError: if `regions` is neither 'octants' nor an angle that divides 180.
  """
  return len(OCTANTS) if regions == 'octants' else math.prod(_grid(regions))


def region_index(cube: Array, regions: str | float = 'octants') -> Array:
  """Returns the region, int32 [...], of points [..., 3] of the `to_cube`.

  'octants' reads the signs over `OCTANT_AXES`, 0 counting as positive, from the
  authors' table `OCTANTS`. An angle of a degrees, which divides 180, cuts the
  azimuth, from 0 to 360, into [0, a), [a, 2a), ... and the polar angle into
  [0, a], (a, 2a], ..., so that the equator belongs to the upper half; the index
  is `polar * (360 / a) + azimuth`. The origin is in region 0.
  """
  cube = jnp.asarray(cube)
  if regions == 'octants':
    signs = reorder(cube, VAD, OCTANT_AXES) >= 0
    code = signs[..., 0] * 4 + signs[..., 1] * 2 + signs[..., 2] * 1
    octants = [''.join(s) for s in itertools.product('-+', repeat=3)]
    table = [OCTANTS.index(octant) for octant in octants]
    index = jnp.asarray(table, jnp.int32)[code]
  else:
    azimuths, polars = _grid(regions)
    spherical = cartesian_to_spherical(cube)
    # In turns, the axes and the diagonals are exact binary fractions.
    turn = spherical[..., 1] / (2 * math.pi)
    turn = jnp.where(turn < 0, turn + 1, turn)
    along = jnp.clip(jnp.floor(turn * azimuths), 0, azimuths - 1)
    down = jnp.ceil(spherical[..., 2] / math.pi * polars) - 1
    down = jnp.clip(down, 0, polars - 1)
    index = (down * azimuths + along).astype(jnp.int32)
  return jnp.where(jnp.all(cube == 0, axis=-1), 0, index)


def region_names(regions: str | float = 'octants') -> tuple[str, ...]:
  """Returns what to call each region: temperament and signs, or degrees."""
  if regions == 'octants':
    named = zip(_ROMAN, _WORDS.split(), OCTANTS, strict=True)
    return tuple(
      f'{numeral} {word} (A{s[0]}, V{s[1]}, D{s[2]})'
      for numeral, word, s in named
    )
  azimuths, polars = _grid(regions)
  return tuple(
    f'azimuth {360 * along / azimuths:g}-{360 * (along + 1) / azimuths:g}°,'
    f' polar {180 * down / polars:g}-{180 * (down + 1) / polars:g}°'
    for down in range(polars)
    for along in range(azimuths)
  )


def region_weights(index: Array, count: int) -> Array:
  """Returns class weights of a region loss, float32 [count].

  `total / (count * n)` for each region that n of the utterances, whose regions
  are index, int [total], are in; 0 for one that does not occur.
  """
  seen = jnp.bincount(jnp.asarray(index), length=count).astype(jnp.float32)
  weights = jnp.sum(seen) / (count * jnp.where(seen > 0, seen, 1))
  return jnp.where(seen > 0, weights, 0.0)
