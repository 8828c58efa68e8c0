"""How far the annotators of a corpus agree: the ceiling for a regression."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Ratings = Sequence[Sequence[float]]


def summarise(ratings: Mapping[str, Ratings]) -> dict[str, float | None]:
  """What `Manifest.annotators` says.

  Args:
    ratings: dimension ('valence', ...) -> [utterances, annotators].

  Returns:
    {'count': annotators, 'ccc_DIMENSION': see `pairwise_ccc`, 'ccc_mean': over
    the dimensions}.
  """
  found = {f'ccc_{name}': pairwise_ccc(each) for name, each in ratings.items()}
  known = None not in found.values()
  mean = float(np.mean(list(found.values()))) if known else None
  counts = {np.shape(each)[1] for each in ratings.values()}
  return {'count': counts.pop(), **found, 'ccc_mean': mean}


def pairwise_ccc(ratings: Ratings) -> float | None:
  """Concordance of two annotators (Lin, 1989), averaged over all pairs.

  Args:
    ratings: [utterances, annotators], of one dimension.

  Returns:
    The mean of the pairs' concordance correlation coefficients; None where a
    pair has none, as all its ratings are the same number.
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
