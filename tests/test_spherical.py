"""The sphere around neutral: exact inverses, finite gradients, clean regions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.ops import spherical

ANGLES = (180, 90, 60, 45, 30)

# The origin, the axes, the diagonals, the faces and points next to the poles.
LANDMARKS = np.array(
  [
    *itertools.product((-1.0, -0.0, 0.0, 1.0), repeat=3),
    *itertools.product((-1e-20, 0.0, 1e-20, 1.0), repeat=3),
    *itertools.product((-1e-7, 1e-7, 0.5), repeat=3),
  ],
  np.float32,
)


def _random_points(count=4000):
  return np.random.default_rng(0).uniform(-1, 1, (count, 3)).astype(np.float32)


def test_round_trip_everywhere():
  points = np.concatenate([_random_points(), LANDMARKS])
  there = jax.jit(spherical.cartesian_to_spherical)(points)
  back = jax.jit(spherical.spherical_to_cartesian)(there)
  np.testing.assert_allclose(back, points, rtol=0, atol=1e-6)
  radius, azimuth, polar = np.moveaxis(np.asarray(there), -1, 0)
  np.testing.assert_allclose(
    radius, np.linalg.norm(points.astype(np.float64), axis=-1), atol=1e-6
  )
  assert azimuth.min() > -np.pi
  assert azimuth.max() <= np.float32(np.pi)
  assert polar.min() >= 0
  assert polar.max() <= np.float32(np.pi)


def test_angles_are_those_of_the_formula():
  points = _random_points().astype(np.float64)
  valence, arousal, dominance = points.T
  radius, azimuth, polar = np.asarray(
    spherical.cartesian_to_spherical(points.astype(np.float32))
  ).T
  np.testing.assert_allclose(azimuth, np.arctan2(dominance, arousal), atol=2e-5)
  np.testing.assert_allclose(
    polar, np.arccos(valence / np.linalg.norm(points, axis=-1)), atol=2e-5
  )
  assert radius.min() > 0


def test_origin_and_poles_have_defined_angles():
  points = jnp.array([[0.0, 0, 0], [1, 0, 0], [-1, 0, 0]])  # z is valence
  np.testing.assert_allclose(
    spherical.cartesian_to_spherical(points),
    [[0, 0, 0], [1, 0, 0], [1, 0, np.pi]],
    rtol=1e-6,
    atol=0,
  )


@pytest.mark.parametrize('output', range(3))
def test_gradients_are_finite_at_every_landmark(output):
  points = np.concatenate([_random_points(200), LANDMARKS])
  gradient = jax.vmap(
    jax.grad(lambda p: spherical.cartesian_to_spherical(p)[output])
  )(points)
  assert np.isfinite(gradient).all()
  second = jax.vmap(
    jax.grad(
      lambda p: jnp.sum(
        spherical.spherical_to_cartesian(spherical.cartesian_to_spherical(p))
      )
    )
  )(points)
  assert np.isfinite(second).all()


def test_cube_maps_scale_and_centre():
  points = jnp.array([[1.0, 4, 7], [2.5, 4, 5.5]])
  np.testing.assert_allclose(
    spherical.to_cube(points, 1, 7), [[-1, 0, 1], [-0.5, 0, 0.5]], atol=1e-7
  )
  centre = (4.5, 4.0, 3.5)
  moved = spherical.to_cube(points, 1, 7, centre)
  np.testing.assert_allclose(moved[0], [-3.5 / 3, 0, 3.5 / 3], atol=1e-6)
  np.testing.assert_allclose(
    spherical.to_cube(jnp.array(centre), 1, 7, centre), 0, atol=1e-7
  )


def test_octants_are_the_authors_table():
  # Arousal, valence, dominance -> I .. VIII, and 0 counts as positive.
  table = ['+++', '-++', '--+', '+-+', '++-', '-+-', '---', '+--']
  for wanted, signs in enumerate(table):
    for positive in (1.0, 0.0, 1e-30):
      a, v, d = (positive if s == '+' else -0.25 for s in signs)
      assert int(spherical.region_index(jnp.array([v, a, d]))) == wanted
  assert int(spherical.region_index(jnp.zeros(3))) == 0
  assert spherical.region_count('octants') == 8


@pytest.mark.parametrize('regions', ['octants', *ANGLES])
def test_every_point_is_in_exactly_one_region(regions):
  count = spherical.region_count(regions)
  if regions != 'octants':
    assert count == (360 // regions) * (180 // regions)
  points = np.concatenate([_random_points(20000), LANDMARKS])
  index = np.asarray(spherical.region_index(points, regions))
  assert index.dtype == np.int32
  assert set(index) == set(range(count))
  if regions != 'octants':
    _, azimuth, polar = np.asarray(
      spherical.cartesian_to_spherical(points), np.float64
    ).T
    down, along = np.divmod(index, 360 // regions)
    degrees, slack = np.degrees(azimuth) % 360, 1e-4
    inside = degrees >= along * regions - slack
    inside &= degrees <= (along + 1) * regions + slack
    inside |= (along == 0) & (degrees > 360 - slack)
    assert inside.all()
    degrees = np.degrees(polar)
    assert (degrees >= down * regions - slack).all()
    assert (degrees <= (down + 1) * regions + slack).all()


@pytest.mark.parametrize('regions', ANGLES)
def test_borders_are_half_open(regions):
  # x, y, z are arousal, dominance, valence; borders at exact multiples of the
  # angle where float32 has them.
  n = 360 // regions

  def index(valence, arousal, dominance):
    return int(
      spherical.region_index(
        jnp.array([valence, arousal, dominance], jnp.float32), regions
      )
    )

  down = (180 // regions + 1) // 2 - 1  # the row that ends at the equator
  if 90 % regions == 0:
    assert index(0, 1, 0) == down * n
    assert index(0, 0, 1) == down * n + 90 // regions
    assert index(0, -1, 0) == down * n + 180 // regions
    assert index(0, -1, -0.0) == index(0, -1, 0)
    assert index(0, 0, -1) == down * n + 270 // regions
    assert index(0, 1, -1e-9) == down * n + n - 1
    assert index(-1e-6, 1, 0) == (down + 1) * n
  assert index(1, 0, 0) == 0
  assert index(-1, 0, 0) == (180 // regions - 1) * n
  assert index(0, 0, 0) == 0


def test_names_are_unique_and_say_where():
  for regions in ('octants', *ANGLES):
    names = spherical.region_names(regions)
    assert len(set(names)) == spherical.region_count(regions)
  assert spherical.region_names()[0] == 'I exuberant (A+, V+, D+)'
  assert spherical.region_names()[6] == 'VII bored (A-, V-, D-)'
  assert spherical.region_names(90)[5] == 'azimuth 90-180°, polar 90-180°'


def test_region_weights_are_total_over_count():
  index = jnp.array([0, 0, 0, 1, 2, 2, 2, 2])
  weights = spherical.region_weights(index, 4)
  np.testing.assert_allclose(weights, [8 / 12, 8 / 4, 8 / 16, 0], rtol=1e-6)


def test_wrong_regions_are_named():
  with pytest.raises(ValueError, match='regions of 50 degrees do not tile the'):
    spherical.region_count(50)
  with pytest.raises(ValueError, match="regions is 'eight'"):
    spherical.region_count('eight')
