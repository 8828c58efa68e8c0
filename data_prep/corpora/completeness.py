"""What is there, compared with what is published."""

import collections
import dataclasses

from data_prep.corpora.base import Corpus
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError, listed, natural_key


@dataclasses.dataclass(frozen=True)
class Check:
  """A manifest compared with what is published about its corpus.

  Attributes:
    corpus: Name.
    found: Number of utterances.
    expected: Published number, or None.
    missing: Ids whose audio is absent, where the names are predictable.
    extra: Ids that the published corpus does not have.
    counts: One sentence per class, and one on speakers, that differs.
  """

  corpus: str
  found: int
  expected: int | None
  missing: tuple[str, ...] = ()
  extra: tuple[str, ...] = ()
  counts: tuple[str, ...] = ()

  @property
  def complete(self) -> bool:
    """Returns whether nothing is missing and nothing is there in excess."""
    return not (self.missing or self.extra or self.counts)

  def report(self) -> str:
    """Returns what differs, line by line."""
    of = '' if self.expected is None else f' of {self.expected:,}'
    lines = [f'{self.corpus}: {self.found:,}{of} utterances']
    lines += [f'  {sentence}' for sentence in self.counts]
    for names, title in ((self.missing, 'missing'), (self.extra, 'unknown')):
      if names:
        lines.append(f'  {title} ({len(names):,}):')
        lines.append(listed(names, shown=40, indent='    '))
    return '\n'.join(lines)

  def require_complete(self) -> None:
    """Raises CorpusError with the report unless the corpus is complete."""
    if not self.complete:
      raise CorpusError(
        f'{self.report()}\nThe corpus differs from the published one. Complete '
        'the folder, or prepare what is there with --allow_incomplete (scores '
        'are then not comparable with published ones).'
      )


def compare(spec: Corpus, manifest: Manifest) -> Check:
  """Compares a manifest with the published counts, classes and speakers."""
  ids = {utterance.id for utterance in manifest.utterances}
  missing, extra = set(manifest.missing), set()
  if spec.expected:
    missing, extra = missing | (spec.expected - ids), ids - spec.expected
  labels = collections.Counter(u.label for u in manifest.utterances)
  counts = [
    f'class {name}: {labels[name]:,} of {wanted:,}'
    for name, wanted in spec.classes.items()
    if wanted is not None and labels[name] != wanted
  ]
  speakers = sorted({u.speaker for u in manifest.utterances})
  if spec.speakers is not None and len(speakers) != spec.speakers:
    counts.append(
      f'speakers: {len(speakers)} of {spec.speakers} ({", ".join(speakers)})'
    )
  return Check(
    corpus=spec.name,
    found=len(manifest.utterances),
    expected=spec.count,
    missing=tuple(sorted(missing, key=natural_key)),
    extra=tuple(sorted(extra, key=natural_key)),
    counts=tuple(counts),
  )
