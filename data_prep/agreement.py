"""How far the annotators of a corpus agree: the ceiling for a regression."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Ratings = Sequence[Sequence[float]]


def summarise(ratings: Mapping[str, Ratings]) -> dict[str, float | None]:
  """Returns what `Manifest.annotators` holds.

  From dimension ('valence', ...) -> [utterances, annotators]: their `count`,
  `ccc_DIMENSION` (see `pairwise_ccc`), and the mean of these, `ccc_mean`.
  """
  found = {f'ccc_{name}': pairwise_ccc(each) for name, each in ratings.items()}
  known = None not in found.values()
  mean = float(np.mean(list(found.values()))) if known else None
  counts = {np.shape(each)[1] for each in ratings.values()}
  return {'count': counts.pop(), **found, 'ccc_mean': mean}


def pairwise_ccc(ratings: Ratings) -> float | None:
  """Returns the concordance (Lin, 1989) of two annotators, averaged over pairs.

  `ratings` are [utterances, annotators]. None where a pair has no concordance,
  as all its ratings are the same number.
  """
  ratings = np.asarray(ratings, np.float64)
  means, covariance = ratings.mean(0), np.cov(ratings.T, bias=True)
  found = []
  for a, b in itertools.combinations(range(ratings.shape[1]), 2):
    spread = covariance[a, a] + covariance[b, b] + (means[a] - means[b]) ** 2
    if not spread:
      return None
    found.append(2 * covariance[a, b] / spread)
  return float(np.mean(found))
