"""What the parsers share: a corpus' description and two ways to read one.

`from_names` reads corpora whose file names say everything, by the patterns of
`Corpus`; `from_labels` reads those whose labels lie in files of their own.
"""

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence

from data_prep import manifest as manifest_lib
from data_prep import tables
from data_prep.manifest import Manifest, Rejected, Utterance
from data_prep.tables import CorpusError

Fields = dict[str, str]


class WrongCorpusError(CorpusError):
  """No file in the folder has a name of this corpus.

  Attributes:
    paths: The wav files that are there.
  """

  def __init__(self, message: str, paths: Sequence[pathlib.Path]):
    super().__init__(message)
    self.paths = paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """What is published about a corpus, and how to read it: a file `NAME.toml`.

  Attributes:
    name: As in `--corpus`.
    title: As in a paper.
    licence: In one line.
    layout: Where the audio may lie, for the help text.
    classes: Class name -> published number of utterances, or None where that
      varies; alphabetical, which is the label order.
    speakers: Published number of speakers, or None.
    languages: ISO 639-1 codes.
    signal_length: Samples at 22,050 Hz that `librosa22k` pads or cuts to.
    homepage: Where it comes from.
    citation: BibTeX.
    vad_range: Lowest and highest value of the VAD scale, or None without VAD.
    example: A file name, for messages.
    patterns: Regular expressions of file names without `.wav`, or of the end
      of paths, in any case. Their groups are the fields of an utterance;
      `speaker` and `emotion` are needed.
    values: Field -> its valid values, as they are to be spelled (or a table
      from other spellings to them); fields without an entry become lower case.
    emotions: Value of the field `emotion` -> class; by default the same.
    gender: 'female' or 'male' -> regular expression of speakers; the first that
      matches counts.
    id: Format of the id, from the fields.
    text: Format of the text, from the fields.
    left_out: Why files are left out on purpose -> regular expression of names.
    order: Fields that utterances are sorted by inside a class, in the order of
      their values; by default the natural order of the ids.
    absent: Regular expression of ids that were never published though all
      their fields have valid values.
    ids: Where the fields do not foretell the ids: lines of a beginning in two
      parts and all ends.
    parser: Reads the corpus where names do not say everything:
      `parser(spec, audio_dir, on_error=..., **options)` returns the manifest.
    options: Options of `parser` beyond `on_error`, with their defaults.
  """

  name: str
  title: str
  licence: str
  layout: str
  classes: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
  speakers: int | None = None
  languages: Sequence[str] = ()
  signal_length: int = 100_000
  homepage: str = ''
  citation: str = ''
  vad_range: tuple[float, float] | None = None
  example: str = ''
  patterns: Sequence[str] = ()
  values: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  emotions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  gender: Mapping[str, str] = dataclasses.field(default_factory=dict)
  id: str = ''
  text: str = ''
  left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
  order: Sequence[str] = ()
  absent: str = ''
  ids: str = ''
  parser: Callable[..., Manifest] | None = None
  options: Mapping[str, object] = dataclasses.field(default_factory=dict)

  @property
  def count(self) -> int | None:
    """Returns the published number of utterances, or None."""
    if not self.classes or None in self.classes.values():
      return None
    return sum(self.classes.values())

  @functools.cached_property
  def _compiled(self) -> list[re.Pattern[str]]:
    # Flags such as (?x) are valid at the beginning only.
    return [
      re.compile(
        re.sub(
          r'^(\(\?x\))?(.*)$', r'\1(?:^|/)\2\\.wav$', pattern, flags=re.DOTALL
        ),
        re.IGNORECASE,
      )
      for pattern in self.patterns
    ]

  @functools.cached_property
  def _spelling(self) -> dict[str, dict[str, str]]:
    return {
      field: {given.casefold(): value for given, value in values.items()}
      if isinstance(values, Mapping)
      else {value.casefold(): value for value in values}
      for field, values in self.values.items()
    }

  @functools.cached_property
  def expected(self) -> frozenset[str] | None:
    """The ids of the complete corpus, None where they cannot be foretold."""
    if self.ids:
      lines = [line.split() for line in self.ids.strip().splitlines()]
      return frozenset(a + b + end for a, b, *ends in lines for end in ends)
    fields = re.findall(r'\{(\w+)\}', self.id)
    if not fields or not set(fields) <= set(self.values):
      return None
    absent = re.compile(self.absent or r'(?!)')
    ids = (
      self.id.format(**dict(zip(fields, combination, strict=True)))
      for combination in itertools.product(*(self.values[f] for f in fields))
    )
    return frozenset(name for name in ids if not absent.search(name))

  def fields(self, path: pathlib.Path) -> Fields | None:
    """Returns what the patterns find in a path, None if none matches."""
    for pattern in self._compiled:
      if match := pattern.search(path.as_posix()):
        return match.groupdict()
    return None

  def utterance(self, path: pathlib.Path) -> Utterance | str:
    """Makes an utterance of a path, or says why it is left out on purpose.

    Raises:
      CorpusError: The path is not one of this corpus.
    """
    fields = self.fields(path)
    if fields is None:
      raise CorpusError(f'the name is not one of {self.title}: {self.example}')
    for reason, pattern in self.left_out.items():
      if re.search(pattern, path.name):
        return reason
    for field, value in fields.items():
      known = self._spelling.get(field, {value.casefold(): value.lower()})
      if value.casefold() not in known:
        valid = list(known.values())
        valid = valid if len(valid) <= 12 else [f'{valid[0]} to {valid[-1]}']
        raise CorpusError(
          f'{field} {value!r} is unknown; {self.title} has {", ".join(valid)}'
        )
      fields[field] = known[value.casefold()]
    speaker, emotion = fields['speaker'], fields['emotion']
    genders = (g for g, expr in self.gender.items() if re.search(expr, speaker))
    return Utterance(
      id=self.id.format(**fields),
      path=path,
      label=self.emotions.get(emotion, emotion),
      speaker=speaker,
      gender=next(genders, ''),
      text=self.text.format(**fields),
      split=fields.get('split', ''),
    )

  def rank(self, utterance: Utterance) -> object:
    """Returns the key by which utterances are sorted inside a class."""
    if not self.order:
      return tables.natural_key(utterance.id)
    fields = self.fields(utterance.path)
    return [
      list(self._spelling[name]).index(fields[name].casefold())
      for name in self.order
    ]

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
    return (self.parser or from_names)(
      self, audio_dir, on_error=on_error, **options
    )


def load(
  name: str,
  parser: Callable[..., Manifest] | None = None,
  options: Mapping[str, object] | None = None,
) -> Corpus:
  """Reads the description of a corpus; `parser` and `options` as in `Corpus`."""
  with open(pathlib.Path(__file__).with_name(f'{name}.toml'), 'rb') as file:
    facts = tomllib.load(file)
  if isinstance(facts.get('classes'), list):
    facts['classes'] = dict.fromkeys(facts['classes'])
  facts['layout'] = ' '.join(facts['layout'].split())
  facts['citation'] = facts.get('citation', '').strip()
  if 'vad_range' in facts:
    facts['vad_range'] = tuple(facts['vad_range'])
  return Corpus(name=name, parser=parser, options=options or {}, **facts)


def find_files(
  folder: str | os.PathLike[str], suffixes: Sequence[str]
) -> list[pathlib.Path]:
  """Returns the files below a folder that have one of the suffixes, sorted.

  Raises:
    CorpusError: The folder is missing or is not a folder.
  """
  from data_prep import audio  # Only here: help does without NumPy.

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
  return audio.find_recordings(folder, suffixes)


def find_wavs(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns all `.wav` files below a folder, sorted.

  Raises:
    CorpusError: The folder is missing or has no such file.
  """
  found = find_files(folder, ['.wav'])
  if not found:
    raise CorpusError(
      f'{pathlib.Path(folder).absolute()}: no .wav file in this folder or below '
      'it. Is --audio_dir right, and is the archive unpacked?'
    )
  return found


def find_one(
  folder: str | os.PathLike[str], names: Sequence[str], purpose: str
) -> pathlib.Path:
  """Returns the one file below a folder that has one of these names, any case.

  Raises:
    CorpusError: None, or several.
  """
  lower = {name.lower() for name in names}
  suffixes = {pathlib.PurePath(name).suffix for name in lower}
  found = [p for p in find_files(folder, suffixes) if p.name.lower() in lower]
  if not found:
    raise CorpusError(
      f'{pathlib.Path(folder).absolute()}: has no {names[0]} ({purpose}) in it '
      'or below it; it is part of the release, so give the folder of the whole '
      'release as --audio_dir.'
    )
  if len(found) > 1:
    raise CorpusError(
      f'{len(found)} files could be {names[0]} ({purpose}); leave one below '
      f'--audio_dir:\n{tables.listed([str(p) for p in found])}'
    )
  return found[0]


def from_names(
  spec: Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
  complete: Callable[[Utterance], Utterance] = lambda utterance: utterance,
) -> Manifest:
  """Reads every wav file of a corpus whose file names say everything.

  Args:
    spec: The corpus.
    audio_dir: Searched with all folders below it.
    on_error: 'raise', or 'skip' to list unusable files in `rejected`.
    complete: Adds what the name does not say; may raise CorpusError.

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
      result = spec.utterance(path)
      if isinstance(result, str):
        ignored[result] += 1
        continue
      result = complete(result)
    except CorpusError as error:
      rejected.append(Rejected(path, str(error)))
      continue
    if on_error == 'skip' and result.id in places:
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
      f'\n{tables.listed([f"{r.path}: {r.reason}" for r in rejected])}'
    )
  return published(
    spec,
    root,
    utterances,
    rejected=rejected,
    notes=[f'wav files left out: {n:,} ({why})' for why, n in ignored.items()],
    on_error=on_error,
  )


def from_labels(
  spec: Corpus,
  audio_dir: str | os.PathLike[str],
  rows: Iterable[tuple[str, str, str, Mapping[str, object]]],
  emotions: Mapping[str, str],
  *,
  note: str,
  on_error: str = 'raise',
) -> Manifest:
  """Reads a corpus whose label files list its utterances.

  Args:
    spec: The corpus.
    audio_dir: Searched with all folders below it for the audio.
    rows: Of every utterance the place in the label files (for messages), the
      file name without suffix, which is the id, the code of its class, and the
      other fields of `Utterance`.
    emotions: Code -> class, '' for utterances without one; those of other codes
      are left out.
    note: What is said before the counts of those left out.
    on_error: See `published`.

  Raises:
    CorpusError: No audio; an utterance is listed twice; two files have one
      name; no file has any of the names.
  """
  root = pathlib.Path(audio_dir).absolute()
  paths = find_wavs(root)
  wanted, others, places = {}, collections.Counter(), {}
  for place, name, code, fields in rows:
    if name in places:
      raise CorpusError(
        f'{place} repeats {name}, which is in {places[name]}; leave one of the '
        'two below --audio_dir.'
      )
    places[name] = place
    if code in emotions:
      wanted[name] = {'label': emotions[code], **fields}
    else:
      others[code] += 1
  groups = collections.defaultdict(list)
  for path in paths:
    if path.stem in wanted:
      groups[path.stem].append(path)
  if twice := [
    manifest_lib.duplicate(name, group)
    for name, group in groups.items()
    if len(group) > 1
  ]:
    raise CorpusError(f'{root}: {tables.listed(twice, indent="")}')
  if not groups:
    raise WrongCorpusError(
      f'{root}: none of its {len(paths):,} wav files is one of the '
      f'{len(wanted):,} that the label files of {spec.title} list (like '
      f'{spec.example}); found, for example, {paths[0].name}.',
      paths,
    )
  counts = ', '.join(f'{n:,} {code}' for code, n in sorted(others.items()))
  return published(
    spec,
    root,
    [
      Utterance(id=name, path=path, **wanted[name])
      for name, (path,) in groups.items()
    ],
    missing=[name for name in wanted if name not in groups],
    notes=[f'{note}: {counts}'] if counts else [],
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
  return manifest_lib.check(
    Manifest(
      corpus=spec.name,
      classes=classes,
      vad_range=spec.vad_range,
      utterances=tuple(
        sorted(
          utterances, key=lambda u: (rank.get(u.label, len(rank)), spec.rank(u))
        )
      ),
      root=root.absolute(),
      rejected=tuple(rejected),
      missing=tuple(missing),
      notes=tuple(notes),
    )
  )


def text_lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a release's text file (UTF-8 or else Latin-1)."""
  data = path.read_bytes()
  try:
    return data.decode('utf-8-sig').splitlines()
  except UnicodeDecodeError:
    return data.decode('latin-1').splitlines()
