"""Lengths that batches are padded to: few, for compiling, and yet little padding.

Every bucket is a shape, so a program compiled once; its length is what all its
utterances are padded to.
"""

from collections.abc import Sequence

import numpy as np

# Lengths are compared on a grid of this many steps up to the longest.
_STEPS = 240


def best(lengths: np.ndarray, count: int, longest: int) -> tuple[int, ...]:
  """Returns the `count` bucket lengths that pad lengths [n] least, ascending.

  Found exactly, by dynamic programming over lengths rounded up to 1 / 240 of
  the longest. Fewer come back if fewer lengths occur; the last is `longest`, to
  which longer utterances are cut.
  """
  step = -(-longest // _STEPS)
  ends = np.minimum(np.arange(1, _STEPS + 1) * step, longest)
  ends = np.unique(ends)
  place = np.searchsorted(ends, np.minimum(lengths, longest))
  counts = np.bincount(place, minlength=len(ends))
  # below[i]: utterances whose length is among the first i ends.
  below = np.concatenate([[0], np.cumsum(counts)])
  # cost[j, i]: frames that a bucket from end j (left out) to end i costs.
  cost = (below[None, 1:] - below[:, None]) * ends[None].astype(np.float64)
  cost = np.where(
    np.arange(len(below))[:, None] < np.arange(1, len(below)), cost, np.inf
  )
  total, before = cost[0], []
  for _ in range(min(count, np.count_nonzero(counts)) - 1):
    # total[j - 1] frames for the ends up to j, and one bucket from there.
    sums = np.concatenate([[np.inf], total])[:, None] + cost
    before.append(np.argmin(sums, axis=0))
    total = np.minimum.reduce(sums, axis=0)
  chosen, end = [], len(ends) - 1
  for choice in reversed(before):
    chosen.append(int(ends[end]))
    end = int(choice[end]) - 1
  return (*reversed([*chosen, int(ends[end])]),)


def bucket_of(lengths: np.ndarray, buckets: Sequence[int]) -> np.ndarray:
  """Returns the smallest bucket that holds each length; the last one cuts."""
  return np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)


def batches(
  order: np.ndarray, lengths: np.ndarray, size: int, buckets: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
  """Cuts rows into batches of `size`, each padded to one bucket, all but one full.

  From the longest bucket down; one that has no full batch left is filled up
  with rows of the next shorter one. So the batch that stays smaller, whose
  missing rows are padding, is of the shortest utterances.

  Args:
    order: int [n], positions in the order in which they are taken.
    lengths: int [n], of each position.
    size: rows of a batch.
    buckets: ascending lengths.

  Returns:
    (positions, length of the bucket) of every batch, shortest first.
  """
  bucket = bucket_of(lengths, buckets)
  groups = [order[bucket[order] == number] for number in range(len(buckets))]
  found: list[tuple[np.ndarray, int]] = []
  for number in reversed(range(len(buckets))):
    inside, shorter = groups[number], number - 1
    while shorter >= 0 and len(inside) % size:
      missing = -len(inside) % size
      taken = groups[shorter][:missing]
      groups[shorter] = groups[shorter][missing:]
      inside = np.concatenate([inside, taken])
      shorter -= 1
    for start in reversed(range(0, len(inside), size)):
      found.append((inside[start : start + size], buckets[number]))
  return found[::-1]
