"""Weights of classes, and classes drawn evenly."""

import types

import numpy as np
import pytest

from jaxser.core.errors import ConfigError
from jaxser.data import balance, pipeline
from jaxser.systems.emosphere import EmoSphere
from tests import toys

CLASSES = ('anger', 'joy', 'sad')
LABELS = np.array([0] * 6 + [2] * 2)


@pytest.mark.parametrize(
  ('setting', 'expected'),
  [
    ('none', None),
    # Of the classes that occur; every class then counts 4 of 8.
    ('balanced', [8 / 12, 4, 2]),
    ((1, 2.5, 3), [1, 2.5, 3]),
    ({'sad': 2}, [1, 1, 2]),
  ],
)
def test_weights_of_classes(setting, expected):
  found = balance.class_weights(setting, LABELS, CLASSES)
  if expected is None:
    assert found is None
  else:
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('setting', 'message'),
  [
    (
      'even',
      "it must be 'none', 'balanced', or numbers for the 3 classes angry",
    ),
    ((1, 2), 'these are 2 numbers for the 3 classes angry, '),
    (
      {'angry': 1, 'bored': 2},
      'there is no class bored among the 3 classes an',
    ),
    ((1, 0, 1), 'every weight must be a number greater than 0'),
    ((1, 'x', 1), 'every weight must be a number greater than 0'),
  ],
)
def test_impossible_weights_are_named(setting, message):
  experiment = toys.make_experiment(toys.Toy(), {'class_weight': setting})
  fold = types.SimpleNamespace(number=0, train=np.arange(6))
  with pytest.raises(ConfigError, match=message) as raised:
    experiment.check(fold)
  assert str(raised.value).startswith(f'--config.class_weight={setting}: ')


def test_only_what_has_classes_weighs_or_draws_them():
  fold = types.SimpleNamespace(number=0, train=np.arange(6))
  for changes, message in (
    (
      {'class_weight': 'balanced'},
      'class_weight=balanced: EmoSphere weighs no',
    ),
    (
      {'balanced_sampling': True},
      'balanced_sampling: EmoSphere is not trained',
    ),
  ):
    with pytest.raises(ConfigError, match=message):
      toys.make_experiment(EmoSphere(), changes).check(fold)


def test_mixed_rows_have_no_weight_of_one_class():
  changes = {'class_weight': 'balanced', 'augment.mixup': 0.2}
  fold = types.SimpleNamespace(number=0, train=np.arange(6))
  with pytest.raises(ConfigError, match='balanced: mixup makes rows of two'):
    toys.make_experiment(toys.Toy(), changes).check(fold)


def test_classes_are_drawn_evenly_by_seed_fold_and_epoch():
  def sampler(*seed):
    return pipeline.Sampler(
      rows=10 + np.arange(8),
      lengths=np.zeros(8, int),
      batch_size=3,
      padded_size=4,
      buckets=(5,),
      seed=seed,
      probabilities=balance.probabilities(LABELS),
    )

  def rows(epoch, *seed):
    slots = sampler(*seed).epoch(epoch)
    assert [np.sum(slot.rows >= 0) for slot in slots] == [3, 3, 2]
    return [row for slot in slots for row in slot.rows if row >= 0]

  drawn = np.concatenate([rows(epoch, 0, 1) for epoch in range(500)])
  counts = np.bincount(drawn - 10)
  # Half of 4000 draws are of each class; the standard deviation is 32.
  assert abs(counts[:6].sum() - 2000) < 150
  assert counts.min() > 250
  assert rows(7, 0, 1) == rows(7, 0, 1)
  for other in ((8, 0, 1), (7, 1, 1), (7, 0, 2)):
    assert rows(*other) != rows(7, 0, 1)
  resumed = [
    slot.rows.tolist() for slot in sampler(0, 1).from_position(1, 2, 3)
  ]
  whole = [s.rows.tolist() for e in (1, 2) for s in sampler(0, 1).epoch(e)]
  assert resumed == whole[2:]


def test_rows_without_a_class_are_never_drawn():
  found = balance.probabilities(np.array([0, -1, 1, 1]))
  np.testing.assert_allclose(found, [0.5, 0, 0.25, 0.25])
