"""Checkpoints come back with the same bits, whatever happens meanwhile."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.engine.checkpoints import CheckpointError, Checkpoints
from tests.recorder import full_disk


def make_tree(size=3, value=0.0):
  params = {'kernel': jnp.full((size, 4), value), 'bias': jnp.zeros(4)}
  return {
    'params': params,
    'opt_state': optax.adam(1e-3).init(params),
    'rng': jax.random.key_data(jax.random.key(7)),
    'step': jnp.int32(5),
  }


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_the_newest_comes_back_with_the_same_bits(tmp_path):
  with Checkpoints(tmp_path) as store:
    assert store.latest is None
    with pytest.raises(CheckpointError, match='no complete checkpoint'):
      store.restore(make_tree())
    store.save(1, make_tree(value=0.1), {'epoch': 1})
    for _ in range(2):  # The same position again is no error.
      store.save(4, make_tree(value=1 / 3), {'epoch': 2, 'score': 0.1 + 0.2})
  # What a killed process left is no checkpoint.
  unfinished = tmp_path / '5.orbax-checkpoint-tmp'
  unfinished.mkdir()
  (unfinished / 'arrays').write_bytes(b'half')
  with Checkpoints(tmp_path) as store:
    assert store.latest == 4
    assert store.restore_position() == {'epoch': 2, 'score': 0.1 + 0.2}
    assert_same(store.restore(make_tree()), make_tree(value=1 / 3))
    store.save(5, make_tree(value=2.0), {'epoch': 3})
    assert_same(store.restore(make_tree()), make_tree(value=2.0))


def test_other_shapes_names_and_damage_are_named(tmp_path):
  other = make_tree()
  other['params']['extra'] = jnp.zeros(2)
  with Checkpoints(tmp_path) as store:
    store.save(1, make_tree(), {})
    for tree, message in (
      (make_tree(size=5), r"\['kernel'\]: here \[5, 4\], checkpoint \[3, 4\]"),
      (other, r"\['extra'\]: here \[2\], checkpoint absent"),
    ):
      with pytest.raises(CheckpointError, match=message):
        store.restore(tree)
  for path in (tmp_path / '1' / 'arrays').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with (
    Checkpoints(tmp_path) as store,
    pytest.raises(CheckpointError, match=r'checkpoint 1 in .* damaged'),
  ):
    store.restore(make_tree())


def test_full_disk_leaves_the_last_good_checkpoint(tmp_path):
  big = {'x': jnp.asarray(np.random.default_rng(0).random(200_000))}
  with Checkpoints(tmp_path) as store:
    store.save(1, big, {'epoch': 1})
    message = 'Checkpoint 1 is intact; free'
    with full_disk(50_000), pytest.raises(CheckpointError, match=message):
      store.save(2, jax.tree.map(lambda x: x + 1, big), {'epoch': 2})
  with Checkpoints(tmp_path) as store:
    assert (store.latest, store.restore_position()) == (1, {'epoch': 1})
    assert_same(store.restore(big), big)
    # And there is room again: training goes on.
    store.save(2, big, {'epoch': 2})
    assert store.latest == 2
