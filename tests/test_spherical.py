"""The sphere around neutral: exact inverses, finite gradients, clean regions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import spherical

ANGLES = (180, 90, 60, 45, 30)
RANDOM = np.random.default_rng(0).uniform(-1, 1, (20000, 3)).astype(np.float32)
# The origin, the axes, the diagonals, the faces and points next to the poles.
LANDMARKS = np.array(
  [
    *itertools.product((-1.0, -0.0, 0.0, 1.0), repeat=3),
    *itertools.product((-1e-20, 0.0, 1e-20, 1.0), repeat=3),
    *itertools.product((-1e-7, 1e-7, 0.5), repeat=3),
  ],
  np.float32,
)
POINTS = np.concatenate([RANDOM, LANDMARKS])


def test_round_trip_everywhere():
  there = jax.jit(spherical.cartesian_to_spherical)(POINTS)
  back = jax.jit(spherical.spherical_to_cartesian)(there)
  np.testing.assert_allclose(back, POINTS, rtol=0, atol=1e-6)
  radius, azimuth, polar = np.moveaxis(np.asarray(there), -1, 0)
  lengths = np.linalg.norm(POINTS.astype(np.float64), axis=-1)
  np.testing.assert_allclose(radius, lengths, atol=1e-6)
  assert -np.pi < azimuth.min() < azimuth.max() <= np.float32(np.pi)
  assert 0 <= polar.min() < polar.max() <= np.float32(np.pi)


def test_angles_are_those_of_the_formula():
  valence, arousal, dominance = RANDOM.astype(np.float64).T
  _, azimuth, polar = spherical.cartesian_to_spherical(RANDOM).T
  np.testing.assert_allclose(azimuth, np.arctan2(dominance, arousal), atol=2e-5)
  wanted = np.arccos(valence / np.linalg.norm(RANDOM, axis=-1))
  np.testing.assert_allclose(polar, wanted, atol=2e-4)
  points = jnp.array([[0.0, 0, 0], [1, 0, 0], [-1, 0, 0]])  # z is valence
  found = spherical.cartesian_to_spherical(points)
  wanted = [[0, 0, 0], [1, 0, 0], [1, 0, np.pi]]
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=0)


def test_gradients_are_finite_at_every_landmark():
  def round_trip(p):
    there = spherical.cartesian_to_spherical(p)
    return *there, jnp.sum(spherical.spherical_to_cartesian(there))

  gradients = jax.jit(jax.vmap(jax.jacrev(round_trip)))(POINTS[-300:])
  assert all(np.isfinite(x).all() for x in gradients)


def test_cube_maps_scale_and_centre():
  points = jnp.array([[1.0, 4, 7], [2.5, 4, 5.5]])
  cube = spherical.to_cube(points, 1, 7)
  np.testing.assert_allclose(cube, [[-1, 0, 1], [-0.5, 0, 0.5]], atol=1e-7)
  moved = spherical.to_cube(points, 1, 7, (4.5, 4.0, 3.5))
  np.testing.assert_allclose(moved[0], [-3.5 / 3, 0, 3.5 / 3], atol=1e-6)


def test_octants_are_the_authors_table():
  # Arousal, valence, dominance -> I .. VIII, and 0 counts as positive.
  table = ['+++', '-++', '--+', '+-+', '++-', '-+-', '---', '+--']
  for positive in (1.0, 0.0, 1e-30):
    avd = [[positive if s == '+' else -0.25 for s in signs] for signs in table]
    vad = jnp.array(avd)[:, jnp.array([1, 0, 2])]
    np.testing.assert_array_equal(spherical.region_index(vad), range(8))
  assert int(spherical.region_index(jnp.zeros(3))) == 0


@pytest.mark.parametrize('regions', ['octants', *ANGLES])
def test_every_point_is_in_exactly_one_region(regions):
  count = spherical.region_count(regions)
  index = np.asarray(spherical.region_index(POINTS, regions))
  assert index.dtype == np.int32
  assert set(index) == set(range(count))
  if regions == 'octants':
    assert count == 8
    return
  assert count == (360 // regions) * (180 // regions)
  _, azimuth, polar = np.degrees(spherical.cartesian_to_spherical(POINTS)).T
  (down, along), half = np.divmod(index, 360 // regions), regions / 2
  # From the middle of a region none is further than half of it.
  turn = (azimuth - along * regions - half + 180) % 360 - 180
  assert np.abs(turn).max() <= half + 1e-4
  assert np.abs(polar - down * regions - half).max() <= half + 1e-4


@pytest.mark.parametrize('regions', ANGLES)
def test_borders_are_half_open(regions):
  # x, y, z are arousal, dominance, valence; borders at exact multiples of the
  # angle where float32 has them.
  n = 360 // regions
  equator = ((180 // regions + 1) // 2 - 1) * n  # Of the row that ends there.
  cases = [
    ((1, 0, 0), 0),
    ((0, 0, 0), 0),
    ((-1, 0, 0), (180 // regions - 1) * n),
  ]
  if 90 % regions == 0:
    cases += [
      ((0, 1, 0), equator),
      ((0, 0, 1), equator + 90 // regions),
      ((0, -1, 0), equator + 180 // regions),
      ((0, -1, -0.0), equator + 180 // regions),
      ((0, 0, -1), equator + 270 // regions),
      ((0, 1, -1e-9), equator + n - 1),
      ((-1e-6, 1, 0), equator + n),
    ]
  points, wanted = (np.array(x) for x in zip(*cases, strict=True))
  found = spherical.region_index(points.astype(np.float32), regions)
  np.testing.assert_array_equal(found, wanted)


def test_names_are_unique_and_say_where():
  for regions in ('octants', *ANGLES):
    names = spherical.region_names(regions)
    assert len(set(names)) == spherical.region_count(regions)
  assert spherical.region_names()[0] == 'I exuberant (A+, V+, D+)'
  assert spherical.region_names()[6] == 'VII bored (A-, V-, D-)'
  assert spherical.region_names(90)[5] == 'azimuth 90-180°, polar 90-180°'


def test_wrong_regions_are_named():
  with pytest.raises(ValueError, match="regions is 'eight'"):
    spherical.region_count('eight')
