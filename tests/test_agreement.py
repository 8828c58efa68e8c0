"""Agreement of annotators, against the definition and the other program."""

import numpy as np
import pytest

from data_prep import agreement
from jaxser.evaluation import metrics


def test_every_pair_counts_once():
  rng = np.random.default_rng(0)
  truth = rng.uniform(1, 5, 40)
  ratings = np.stack([truth + rng.normal(0, s, 40) for s in (0.2, 0.7, 2)], -1)
  pairs = [(0, 1), (0, 2), (1, 2)]
  expected = np.mean(
    [metrics.concordance(ratings[:, [a]], ratings[:, [b]])[0] for a, b in pairs]
  )
  assert agreement.pairwise_ccc(ratings) == pytest.approx(expected, rel=1e-12)
  found = agreement.summarise({'valence': ratings, 'arousal': ratings[:, ::-1]})
  assert found == {
    'count': 3,
    'ccc_valence': pytest.approx(expected),
    'ccc_arousal': pytest.approx(expected),
    'ccc_mean': pytest.approx(expected),
  }


def test_a_shifted_scale_is_disagreement():
  ratings = np.array([[1, 3], [2, 4], [3, 5]])
  assert agreement.pairwise_ccc(ratings) == pytest.approx(1 / 4)


def test_nothing_varies():
  assert agreement.pairwise_ccc([[3, 3, 3], [3, 3, 3]]) is None
