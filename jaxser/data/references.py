"""Neutral references: for every utterance a neutral one of the same speaker.

The rule of DSNet (Chen and Zhang, arXiv 2312.15593): a speaker's references are
the first neutral utterances of the split in manifest order. In training one of
them is drawn for each utterance and epoch (it may be the utterance itself).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxser.data.corpus import Corpus

NEUTRAL = 'neutral'
_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class References:
  """References of the utterances of a split, int64; see `find_references`."""

  rows: np.ndarray  # [n], the utterances, as rows of the corpus.
  # [n, num_references], of each one's speaker; beyond `counts` any, repeated.
  references: np.ndarray
  counts: np.ndarray  # [n], references that the speaker has, at least 1.

  def draw(self, seed: int, fold: int, epoch: int) -> np.ndarray:
    """Draws for each row; depends on seed, fold, epoch and the row alone."""
    # The i-th number of the generator belongs to the i-th row of the corpus.
    generator = np.random.default_rng([seed, fold, epoch])
    uniform = generator.random(int(self.rows.max(initial=-1)) + 1)[self.rows]
    choice = (uniform * self.counts).astype(np.int64)
    return np.take_along_axis(self.references, choice[:, None], axis=1)[:, 0]


def find_references(
  corpus: Corpus, rows: Sequence[int], num_references: int = 3
) -> References:
  """Finds the neutral references of a split's rows, int [n], among them."""
  if num_references < 1:
    raise ValueError(f'num_references={num_references} must be at least 1.')
  if NEUTRAL not in corpus.classes:
    raise ValueError(
      'This system pairs every utterance with a neutral one, but there is no '
      f'class {NEUTRAL!r} among {", ".join(corpus.classes)}; use a corpus that '
      "has it or the variant 'encoder'."
    )
  rows = np.asarray(rows, np.int64)
  neutral = corpus.table.labels == corpus.classes.index(NEUTRAL)
  speakers = corpus.table.speakers[rows]
  names, speaker_of = np.unique(speakers, return_inverse=True)
  if '' in names.tolist():
    unknown = np.sum(speakers == '')
    raise ValueError(
      f'{unknown} utterances have no speaker, and every utterance needs a '
      'neutral one of its speaker: fill the speaker column of the manifest.'
    )
  table = np.zeros((len(names), num_references), np.int64)
  counts = np.zeros(len(names), np.int64)
  for speaker in range(len(names)):
    own = np.sort(rows[speaker_of == speaker])
    first = own[neutral[own]][:num_references]
    counts[speaker] = len(first)
    if len(first):
      table[speaker] = first[0]
      table[speaker, : len(first)] = first
  missing = names[counts == 0]
  if len(missing):
    more = len(missing) - _SHOWN
    raise ValueError(
      f'No neutral utterance of speaker {", ".join(missing[:_SHOWN])}'
      f'{f" and {more} more" if more > 0 else ""} in this split, and every '
      'utterance needs a neutral one of its speaker: leave the speaker out of '
      'the manifest, or use a protocol that keeps speakers whole.'
    )
  return References(rows, table[speaker_of], counts[speaker_of])
