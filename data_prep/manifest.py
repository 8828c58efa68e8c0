"""The manifest: one row per utterance, and the rules that every row obeys.

A manifest is what a parser makes of a folder of audio, what the dataset keeps
beside the features (`manifest.tsv`), and what a user writes by hand for a
corpus of their own. The order of its rows is the *published order*: random
folds are cut from it, so it is part of the result.
"""

import csv
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from data_prep.tables import (
  CorpusError,
  listed,
  normal_gender,
  normal_split,
  number,
  read_table,
)

VAD = ('valence', 'arousal', 'dominance')
COLUMNS = (
  *('id', 'path', 'label', 'speaker', 'gender', 'text', 'split', 'duration'),
  *VAD,
)


@dataclasses.dataclass(frozen=True)
class Utterance:
  """One recording. Strings are '' and numbers None where unknown."""

  id: str  # Unique in its corpus; nearly always the file name without .wav.
  path: pathlib.Path  # Absolute.
  label: str = ''  # Class name.
  speaker: str = ''  # Needed by every speaker-independent protocol.
  gender: str = ''  # 'female', 'male' or as the corpus says.
  # A sentence code where the corpus has a fixed set, else a transcript.
  text: str = ''
  split: str = ''  # The corpus' own: 'train', 'dev', 'test' or another name.
  valence: float | None = None  # In the units of the corpus.
  arousal: float | None = None  # Also called activation.
  dominance: float | None = None  # Also called power.

  @property
  def vad(self) -> tuple[float | None, float | None, float | None]:
    """Valence, arousal, dominance."""
    return self.valence, self.arousal, self.dominance


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A file that is left out, and why."""

  path: pathlib.Path
  reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A corpus in published order."""

  corpus: str  # As in `data_prep.corpora.CORPORA`, or a user's name.
  # Alphabetical, which is the label order; empty for a corpus with VAD only.
  classes: tuple[str, ...]
  vad_range: tuple[float, float] | None  # Ends of the VAD scale.
  utterances: tuple[Utterance, ...]
  root: pathlib.Path  # Folder that paths are written relative to.
  rejected: tuple[Rejected, ...] = ()  # Left out under on_error='skip'.
  missing: tuple[str, ...] = ()  # Ids of label files whose audio is absent.
  notes: tuple[str, ...] = ()  # What was ignored on purpose, and how much.
  # How many rated every utterance, and how far any two of them agree
  # (`data_prep.agreement.summarise`); empty where nobody says.
  annotators: Mapping[str, float | None] = dataclasses.field(
    default_factory=dict
  )


def check(
  manifest: Manifest,
  source: str | os.PathLike[str] | None = None,
  *,
  on_error: str = 'raise',
  broken: Sequence[Rejected] = (),
  places: Mapping[str, str] | None = None,
) -> Manifest:
  """Checks every utterance of a manifest.

  Rules: ids are unique; the audio is there; every row has a speaker, and a
  label or valence, arousal and dominance; labels are among the classes; VAD
  values lie in the range. At least one row must obey them.
  """
  source = source or manifest.root
  kept, broken = {}, list(broken)
  for utterance in manifest.utterances:
    reason = problem(utterance, manifest.classes, manifest.vad_range)
    if not reason and (other := kept.get(utterance.id)):
      reason = (
        f'id {utterance.id!r} is used by 2 files, and ids must be unique (is the '
        'corpus in the folder twice? then point --audio_dir at one copy); the '
        f'other is {other.path}'
      )
    if reason:
      place = (places or {}).get(utterance.id, '')
      broken.append(Rejected(utterance.path, place + reason))
    else:
      kept[utterance.id] = utterance
  total = len(kept) + len(broken)
  if broken and on_error == 'raise':
    raise CorpusError(
      f'{source}: {len(broken):,} of {total:,} utterances of '
      f'{manifest.corpus!r} cannot be used. Correct or move them, or leave them '
      f'out with --on_error=skip:\n{listed(_lines(broken))}'
    )
  rejected = (*manifest.rejected, *broken)
  if not kept:
    reasons = [*manifest.notes, *_lines(rejected)]
    raise CorpusError(
      f'{source}: has no utterance of {manifest.corpus!r} that can be used, so '
      'there is nothing to prepare.'
      + (f' Left out:\n{listed(reasons)}' if reasons else '')
    )
  return dataclasses.replace(
    manifest, utterances=tuple(kept.values()), rejected=rejected
  )


def problem(
  utterance: Utterance,
  classes: Sequence[str],
  vad_range: tuple[float, float] | None,
) -> str:
  """Returns which rule an utterance breaks, '' where it breaks none."""
  if not utterance.id.strip():
    return 'the id is empty; every utterance needs one of its own'
  for name in (utterance.id, str(utterance.path)):
    if re.search(r'[\t\n\r]', name):
      return f'the name {name!r} has a tab or a line break in it; rename it'
    if re.search('[\ud800-\udfff]', name):
      return (
        f'the name {os.fsencode(name)} is not UTF-8, as after unpacking an '
        'archive of another language; rename it, for example with '
        'convmv -f gbk -t utf8 -r --notest FOLDER'
      )
  if not utterance.speaker:
    return (
      'the speaker is missing; without it no split can be '
      'speaker-independent. Give every row one (a name or a number)'
    )
  if utterance.label and utterance.label not in classes:
    return (
      f'label {utterance.label!r} is unknown; allowed: '
      f'{", ".join(classes) or "none (this corpus has VAD only)"}'
    )
  values = dict(zip(VAD, utterance.vad, strict=True))
  missing = [name for name, value in values.items() if value is None]
  if not utterance.label and len(missing) == 3:
    return 'has neither a label nor valence, arousal and dominance'
  if not utterance.label and missing:
    return f'{" and ".join(missing)} missing; VAD needs all three'
  for name, value in values.items():
    if value is None:
      continue
    if vad_range is None:
      return f'has {name} {value:g}, but the range of the scale is not known'
    low, high = vad_range
    if not (math.isfinite(value) and low <= value <= high):
      return f'{name} {value:g} is outside the scale {low:g} to {high:g}'
  if not utterance.path.is_file():
    return 'there is no such file; correct the path or --audio_dir'
  return ''


def _lines(rejected: Iterable[Rejected]) -> list[str]:
  return [f'{each.path}: {each.reason}' for each in rejected]


def write_manifest(
  manifest: Manifest,
  path: str | os.PathLike[str],
  durations: Sequence[float] | None = None,
) -> None:
  """Writes a manifest as a tab-separated table, whole or not at all."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  seconds = durations or [None] * len(manifest.utterances)
  try:
    with open(temporary, 'w', encoding='utf-8', newline='') as file:
      writer = csv.writer(file, delimiter='\t', lineterminator='\n')
      writer.writerow(COLUMNS)
      for utterance, duration in zip(manifest.utterances, seconds, strict=True):
        row = cells(utterance, manifest.root, duration)
        writer.writerow([row[name] for name in COLUMNS])
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def cells(
  utterance: Utterance, root: pathlib.Path, duration: float | None = None
) -> dict[str, str]:
  """Returns the row of `manifest.tsv`, column by column."""
  path = utterance.path
  row = dataclasses.asdict(utterance) | {
    'path': path.relative_to(root) if path.is_relative_to(root) else path,
    # A table has one line per row, whatever a transcript contains.
    'text': ' '.join(utterance.text.split()),
    'duration': None if duration is None else round(float(duration), 6),
  }
  return {k: '' if v is None else str(v) for k, v in row.items()}


def read_manifest(
  path: str | os.PathLike[str],
  *,
  corpus: str = 'manifest',
  classes: Sequence[str] | None = None,
  vad_range: tuple[float, float] | None = None,
  root: str | os.PathLike[str] | None = None,
  on_error: str = 'raise',
) -> Manifest:
  """Reads and checks a manifest: ours, or one that a user wrote.

  Columns `path` and `speaker` are required, and `label` or all of `valence`,
  `arousal` and `dominance`. `id` defaults to the path without its suffix;
  `gender`, `text`, `split` and `duration` are optional, other columns ignored.
  Rows keep their order.
  """
  path = pathlib.Path(path).absolute()
  root = pathlib.Path(root or path.parent).absolute()
  rows = read_table(path, ('path', 'speaker'))
  columns = rows[0][1]
  if 'label' not in columns and not all(name in columns for name in VAD):
    raise CorpusError(
      f'{path}: has neither a column label nor the columns '
      f'{", ".join(VAD)}; one of the two is needed. Found: {list(columns)}.'
    )
  has_vad = any(row.get(name) for _, row in rows for name in VAD)
  if has_vad and vad_range is None:
    raise CorpusError(
      f'{path}: has valence, arousal or dominance, but the scale is not known; '
      'give its lowest and highest value, for example --vad_range=1,7.'
    )
  if classes is None:
    classes = sorted({row.get('label', '') for _, row in rows} - {''})
  utterances, broken, places = [], [], {}
  for line, row in rows:
    audio = pathlib.Path(root, row['path'])
    # Blanks around a path are a part of it only where there is such a file.
    if not audio.is_file():
      audio = pathlib.Path(root, row['path'].strip())
    place = f'line {line} of {path.name}: '
    try:
      if not row['path'].strip():
        raise ValueError('the path is empty')
      utterance = Utterance(
        id=row.get('id') or str(pathlib.PurePath(row['path']).with_suffix('')),
        path=audio,
        label=row.get('label', ''),
        speaker=row['speaker'],
        gender=normal_gender(row.get('gender', '')),
        text=row.get('text', ''),
        split=normal_split(row.get('split', '')),
        **{name: number(row.get(name, '')) for name in VAD},
      )
    except ValueError as error:
      broken.append(Rejected(audio, f'{place}cannot be read: {error}'))
      continue
    places[utterance.id] = place
    utterances.append(utterance)
  manifest = Manifest(
    corpus=corpus,
    classes=tuple(classes),
    vad_range=vad_range if has_vad else None,
    utterances=tuple(utterances),
    root=root,
  )
  return check(manifest, path, on_error=on_error, broken=broken, places=places)
