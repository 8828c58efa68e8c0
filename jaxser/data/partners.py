"""Neutral partners: for every utterance a neutral one of the same speaker.

The rule of DSNet (Chen and Zhang, arXiv 2312.15593): a speaker's references are
the first `num_references` neutral utterances in manifest order. In training one
of them is drawn at random for each utterance and epoch (it may be the utterance
itself); in evaluation it is the first. References come from the same side of
the split as the utterances they stand beside.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

NEUTRAL = 'neutral'
_SHOWN = 5


def neutral_label(classes: Sequence[str]) -> int:
  """Label of the neutral class.

  Raises:
    ValueError: the corpus has none.
  """
  if NEUTRAL not in classes:
    raise ValueError(
      f'This system pairs every utterance with a neutral one, but there is no '
      f'class {NEUTRAL!r} among {", ".join(classes)}; use a corpus that has it '
      "or the variant 'encoder'."
    )
  return list(classes).index(NEUTRAL)


@dataclasses.dataclass(frozen=True, eq=False)
class Partners:
  """Partners of the utterances of one side of a split; see `find_partners`.

  Attributes:
    rows: int64 [n], the utterances, as positions in the manifest.
    references: int64 [n, num_references], references of each utterance's
      speaker; from `counts` on the first one, repeated.
    counts: int64 [n], references that the speaker has, at least 1.
  """

  rows: np.ndarray
  references: np.ndarray
  counts: np.ndarray

  def evaluation(self) -> np.ndarray:
    """int64 [n], each utterance's partner in evaluation."""
    return self.references[:, 0]

  def training(self, seed: int, fold: int, epoch: int) -> np.ndarray:
    """int64 [n], each utterance's partner in one epoch.

    It depends on seed, fold, epoch and the utterance's position in the manifest
    and on nothing else: not on the batch size, nor on who asks.
    """
    # The i-th number of the generator belongs to the i-th row of the manifest.
    generator = np.random.default_rng([seed, fold, epoch])
    draw = generator.random(int(self.rows.max(initial=-1)) + 1)[self.rows]
    choice = (draw * self.counts).astype(np.int64)
    return np.take_along_axis(self.references, choice[:, None], axis=1)[:, 0]


def find_partners(
  speakers: Sequence[str],
  labels: np.ndarray,
  neutral: int,
  rows: np.ndarray,
  num_references: int = 3,
) -> Partners:
  """Neutral partners of the utterances of one side of a split.

  Args:
    speakers: [corpus] speaker of every utterance, in manifest order.
    labels: int [corpus] class of every utterance.
    neutral: the neutral class, see `neutral_label`.
    rows: int [n], positions of this side's utterances in the manifest. Only
      these are taken for references.
    num_references: how many of a speaker's neutral utterances are used.

  Raises:
    ValueError: an utterance has no speaker, a speaker has no neutral utterance
      on this side, or num_references is below 1.
  """
  if num_references < 1:
    raise ValueError(f'num_references={num_references} must be at least 1.')
  speakers, labels = np.asarray(speakers), np.asarray(labels)
  rows = np.asarray(rows, np.int64)
  names, number = np.unique(speakers[rows], return_inverse=True)
  if '' in names.tolist():
    unknown = np.sum(speakers[rows] == '')
    raise ValueError(
      f'{unknown} utterances have no speaker, and every utterance needs a '
      'neutral partner of its speaker: fill the speaker column of the manifest.'
    )
  table = np.full((len(names), num_references), -1, np.int64)
  counts = np.zeros(len(names), np.int64)
  for speaker in range(len(names)):
    own = np.sort(rows[number == speaker])
    first = own[labels[own] == neutral][:num_references]
    counts[speaker] = len(first)
    if len(first):
      table[speaker] = first[0]
      table[speaker, : len(first)] = first
  lacking = names[counts == 0]
  if len(lacking):
    shown = ', '.join(str(name) for name in lacking[:_SHOWN])
    more = f' and {len(lacking) - _SHOWN} more' if len(lacking) > _SHOWN else ''
    raise ValueError(
      f'No neutral utterance of speaker {shown}{more} on this side of the '
      'split, and every utterance needs a neutral partner of its speaker: '
      'leave the speaker out of the manifest, or use a protocol that keeps '
      'speakers whole.'
    )
  return Partners(rows, table[number], counts[number])
