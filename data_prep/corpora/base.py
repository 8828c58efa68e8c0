"""What the parsers share: a corpus' description and the file search."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from data_prep import manifest as manifest_lib
from data_prep.manifest import CorpusError, Manifest, Rejected, Utterance

# A reader makes an utterance of a file and of what the corpus' pattern matched
# in its path, or says in a few words why the file is left alone on purpose; it
# raises CorpusError where it can make nothing of it.
Reader = Callable[[re.Match[str], pathlib.Path], Utterance | str]


class WrongCorpusError(CorpusError):
  """No file in the folder has a name of this corpus.

  Attributes:
    paths: The wav files that are there.
  """

  def __init__(self, message: str, paths: Sequence[pathlib.Path]):
    super().__init__(message)
    self.paths = paths


@dataclasses.dataclass(frozen=True)
class Corpus:
  """What is published about a corpus, and how to read it.

  Attributes:
    name: As in `--corpus`.
    title: As in a paper.
    classes: Class name -> published number of utterances, or None where that
      varies; alphabetical, which is the label order.
    speakers: Published number of speakers, or None.
    languages: ISO 639-1 codes.
    signal_length: Samples at 22,050 Hz that `librosa22k` pads or cuts to.
    licence: In one line.
    homepage: Where it comes from.
    citation: BibTeX.
    layout: Where the audio may lie, for the help text.
    vad_range: Lowest and highest value of the VAD scale, or None without VAD.
    read: Where names tell all: makes an utterance of a matching path.
    order: With `read`, the sort key inside a class; by default the natural
      order of the ids.
    parser: Where label files are to be read too: `parser(audio_dir,
      on_error=..., **options) -> Manifest`.
    pattern: Searched in a file's path (with '/'), where names tell all.
    example: A file name, for messages.
    expected: Returns all ids of the complete corpus, where predictable.
    options: Options of `parser` beyond `on_error`, with their defaults.
  """

  name: str
  title: str
  classes: Mapping[str, int | None]
  speakers: int | None
  languages: tuple[str, ...]
  signal_length: int
  licence: str
  homepage: str
  citation: str
  layout: str
  vad_range: tuple[float, float] | None = None
  read: Reader | None = None
  order: Callable[[Utterance], object] | None = None
  parser: Callable[..., Manifest] | None = None
  pattern: re.Pattern[str] | None = None
  example: str = ''
  expected: Callable[[], Iterable[str]] | None = None
  options: Mapping[str, object] = dataclasses.field(default_factory=dict)

  @property
  def count(self) -> int | None:
    """Published number of utterances, or None."""
    if not self.classes or None in self.classes.values():
      return None
    return sum(self.classes.values())

  def parse(
    self,
    audio_dir: str | os.PathLike[str] | None,
    *,
    on_error: str = 'raise',
    **options: object,
  ) -> Manifest:
    """Reads the corpus in a folder, or in one below it.

    Args:
      audio_dir: Searched with all folders below it.
      on_error: 'raise', or 'skip' to list unusable files in `rejected`.
      **options: See `options`.

    Raises:
      CorpusError: No folder, no audio, an unreadable name, a duplicate id, a
        label file that is missing or cannot be read.
    """
    if self.parser:
      return self.parser(audio_dir, on_error=on_error, **options)
    return collect(self, audio_dir, self.read, on_error=on_error)


def find_files(
  folder: str | os.PathLike[str], wanted: Callable[[str], bool]
) -> list[pathlib.Path]:
  """All files below a folder whose name (lower case) is wanted, natural order.

  Hidden files are left out: archives made on a Mac hold a `._NAME.wav` beside
  every NAME.wav.

  Raises:
    CorpusError: The folder is missing or is not a folder.
  """
  folder = pathlib.Path(folder).absolute()
  if not folder.exists():
    raise CorpusError(
      f'{folder}: there is no such folder; give the one that holds the corpus '
      'as --audio_dir.'
    )
  if not folder.is_dir():
    raise CorpusError(
      f'{folder}: is a file; give the folder that holds the corpus as '
      '--audio_dir (unpack an archive first).'
    )
  found, seen = [], set()
  for parent, folders, names in os.walk(folder, followlinks=True):
    real = os.path.realpath(parent)
    if real in seen:  # A link that leads back up, or to a folder seen before.
      folders.clear()
      continue
    seen.add(real)
    folders[:] = [f for f in folders if not f.startswith(('.', '__MACOSX'))]
    found += [
      pathlib.Path(parent, name)
      for name in names
      if not name.startswith('.') and wanted(name.lower())
    ]
  return sorted(found, key=lambda path: manifest_lib.natural_key(str(path)))


def find_wavs(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """All `.wav` files below a folder, natural order; see `find_files`.

  Raises:
    CorpusError: The folder is missing or has no such file.
  """
  found = find_files(folder, lambda name: name.endswith('.wav'))
  if not found:
    raise CorpusError(
      f'{pathlib.Path(folder).absolute()}: no .wav file in this folder or below '
      'it. Is --audio_dir right, and is the archive unpacked?'
    )
  return found


def find_one(
  folder: str | os.PathLike[str], names: Sequence[str], purpose: str
) -> pathlib.Path:
  """The one file below a folder that has one of these names, any case.

  Raises:
    CorpusError: None, or several.
  """
  lower = {name.lower() for name in names}
  found = find_files(folder, lambda name: name in lower)
  if not found:
    raise CorpusError(
      f'{pathlib.Path(folder).absolute()}: has no {names[0]} ({purpose}) in it '
      'or below it; it is part of the release, so give the folder of the whole '
      'release as --audio_dir.'
    )
  if len(found) > 1:
    raise CorpusError(
      f'{len(found)} files could be {names[0]} ({purpose}); leave one below '
      f'--audio_dir:\n{manifest_lib.listed([str(p) for p in found])}'
    )
  return found[0]


def labelled(
  spec: Corpus,
  root: pathlib.Path,
  paths: Sequence[pathlib.Path],
  stems: Iterable[str],
) -> dict[str, pathlib.Path]:
  """Finds the audio of the utterances that a label file lists.

  Args:
    spec: The corpus.
    root: Where the audio was searched, for messages.
    paths: The wav files found.
    stems: File names without suffix; other files are left alone.

  Returns:
    The file of each stem that has one.

  Raises:
    CorpusError: Two files have one name, or no file has any of the names.
  """
  groups = {stem: [] for stem in stems}
  for path in paths:
    if path.stem in groups:
      groups[path.stem].append(path)
  twice = [
    manifest_lib.duplicate(stem, group)
    for stem, group in groups.items()
    if len(group) > 1
  ]
  if twice:
    raise CorpusError(f'{root}: {manifest_lib.listed(twice, indent="")}')
  found = {stem: group[0] for stem, group in groups.items() if group}
  if not found:
    raise WrongCorpusError(
      f'{root}: none of its {len(paths):,} wav files is one of the '
      f'{len(groups):,} that the label files of {spec.title} list (like '
      f'{spec.example}); found, for example, {paths[0].name}.',
      paths,
    )
  return found


def collect(
  spec: Corpus,
  audio_dir: str | os.PathLike[str],
  read: Reader,
  *,
  on_error: str = 'raise',
) -> Manifest:
  """Reads every wav file of a corpus whose file names say everything.

  Args:
    spec: The corpus.
    audio_dir: Searched with all folders below it.
    read: Makes an utterance of a path that has the corpus' pattern.
    on_error: 'raise', or 'skip' to list unusable files in `rejected`.

  Returns:
    The manifest in published order: classes in label order, then `spec.order`.

  Raises:
    CorpusError: No folder, no audio, an unreadable name, a duplicate id.
  """
  root = pathlib.Path(audio_dir).absolute()
  paths = find_wavs(root)
  utterances, rejected, places = [], [], {}
  ignored = collections.Counter()
  for path in paths:
    try:
      result = read(match(spec, path), path)
    except CorpusError as error:
      rejected.append(Rejected(path, str(error)))
      continue
    if isinstance(result, str):
      ignored[result] += 1
    elif on_error == 'skip' and result.id in places:
      reason = manifest_lib.duplicate(result.id, [places[result.id], path])
      rejected.append(Rejected(path, reason))
    else:
      places.setdefault(result.id, path)
      utterances.append(result)
  if not utterances and rejected:
    raise WrongCorpusError(
      f'{root}: none of its {len(paths):,} wav files has a name of '
      f'{spec.title} (like {spec.example}); found, for example, '
      f'{rejected[0].path.name}.',
      paths,
    )
  if rejected and on_error == 'raise':
    raise CorpusError(
      f'{root}: {len(rejected):,} of {len(paths):,} wav files do not belong to '
      f'{spec.title}. Move them away, or leave them out with --on_error=skip:'
      f'\n{manifest_lib.listed([f"{r.path}: {r.reason}" for r in rejected])}'
    )
  return published(
    spec,
    root,
    utterances,
    rejected=rejected,
    notes=[f'wav files left out: {n:,} ({why})' for why, n in ignored.items()],
    on_error=on_error,
  )


def published(
  spec: Corpus,
  root: pathlib.Path,
  utterances: Sequence[Utterance],
  *,
  rejected: Sequence[Rejected] = (),
  missing: Sequence[str] = (),
  notes: Sequence[str] = (),
  on_error: str = 'raise',
) -> Manifest:
  """Sorts utterances into published order and checks them.

  Utterances without a label come last.

  Raises:
    CorpusError: An utterance breaks a rule of `manifest.check`; with
      `on_error='skip'` such utterances are moved to `rejected`.
  """
  classes = tuple(spec.classes)
  if on_error == 'skip':
    reasons = [
      manifest_lib.problem(u, classes, spec.vad_range) for u in utterances
    ]
    pairs = list(zip(utterances, reasons, strict=True))
    rejected = [*rejected, *(Rejected(u.path, r) for u, r in pairs if r)]
    utterances = [u for u, r in pairs if not r]
  rank = {label: index for index, label in enumerate(classes)}
  inside = spec.order or (lambda u: manifest_lib.natural_key(u.id))
  return manifest_lib.check(
    Manifest(
      corpus=spec.name,
      classes=classes,
      vad_range=spec.vad_range,
      utterances=tuple(
        sorted(
          utterances, key=lambda u: (rank.get(u.label, len(rank)), inside(u))
        )
      ),
      root=root.absolute(),
      rejected=tuple(rejected),
      missing=tuple(missing),
      notes=tuple(notes),
    )
  )


def match(spec: Corpus, path: pathlib.Path) -> re.Match[str]:
  """Matches the corpus' pattern with a path.

  Raises:
    CorpusError: It does not match.
  """
  found = spec.pattern.search(path.as_posix())
  if not found:
    raise CorpusError(f'the name is not one of {spec.title}: {spec.example}')
  return found


def text_lines(path: pathlib.Path) -> list[str]:
  """Lines of a text file of a release (UTF-8 or, failing that, Latin-1)."""
  data = path.read_bytes()
  try:
    return data.decode('utf-8-sig').splitlines()
  except UnicodeDecodeError:
    return data.decode('latin-1').splitlines()
