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

  Regular expressions are those of Python's `re`; formats those of `str.format`.
  """

  name: str  # As in --corpus.
  title: str  # As in a paper.
  licence: str  # In one line.
  layout: str  # Where the audio may lie, for the help text.
  # Class, alphabetically (the label order) -> published number of utterances,
  # None where that varies.
  classes: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
  speakers: int | None = None
  languages: Sequence[str] = ()  # ISO 639-1.
  signal_length: int = 100_000  # Samples at 22,050 Hz, for librosa22k.
  homepage: str = ''
  citation: str = ''  # BibTeX.
  vad_range: tuple[float, float] | None = None  # Ends of the VAD scale.
  example: str = ''  # A file name, for messages.
  # Expressions of file names without .wav, or of the end of paths, in any case.
  # Their groups are an utterance's fields; `speaker` and `emotion` are needed.
  patterns: Sequence[str] = ()
  # Field -> its valid values, as they are to be spelled (or a table from other
  # spellings to them); fields without an entry become lower case.
  values: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  # Value of the field `emotion` -> class; by default the same.
  emotions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Gender -> expression of speakers; the first that matches counts.
  gender: Mapping[str, str] = dataclasses.field(default_factory=dict)
  id: str = ''  # Formats from the fields.
  text: str = ''
  # Why files are left out on purpose -> expression of their names.
  left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Fields that sort utterances inside a class, in the order of their values; by
  # default the natural order of the ids.
  order: Sequence[str] = ()
  # Expression of ids that were never published though their fields are valid.
  absent: str = ''
  # Where fields do not foretell the ids: lines of a beginning in two parts and
  # all its ends.
  ids: str = ''
  # Reads the corpus where names do not say everything:
  # `parser(spec, audio_dir, on_error=..., **options)` returns the manifest.
  parser: Callable[..., Manifest] | None = None
  # Options of the parser beyond `on_error`, with their defaults.
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
    """Makes an utterance of a path, or says why it is left out on purpose."""
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
    """Reads the corpus in a folder, or in one below it."""
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
  """Returns the files below a folder that have one of the suffixes, sorted."""
  from data_prep import audio  # Only here: help does without NumPy.

  folder = pathlib.Path(folder).absolute()
  if not folder.is_dir():
    problem = (
      'is a file; unpack an archive first and'
      if folder.exists()
      else 'there is no such folder;'
    )
    raise CorpusError(
      f'{folder}: {problem} give the folder that holds the corpus as --audio_dir.'
    )
  return audio.find_recordings(folder, suffixes)


def find_wavs(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns all `.wav` files below a folder; CorpusError if there is none."""
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
  """Returns the one file below a folder that has one of these names, any case."""
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
  """Reads every wav file of a corpus whose file names say everything."""
  root = pathlib.Path(audio_dir).absolute()
  paths = find_wavs(root)
  utterances, broken, ignored = [], [], collections.Counter()
  for path in paths:
    try:
      result = spec.utterance(path)
      if isinstance(result, str):
        ignored[result] += 1
      else:
        utterances.append(complete(result))
    except CorpusError as error:
      broken.append(Rejected(path, str(error)))
  if not utterances and broken:
    raise WrongCorpusError(
      f'{root}: none of its {len(paths):,} wav files has a name of '
      f'{spec.title} (like {spec.example}); found, for example, '
      f'{broken[0].path.name}.',
      paths,
    )
  return published(
    spec,
    root,
    utterances,
    broken=broken,
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
  """Reads a corpus whose label files list its utterances."""
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
  found = [path for path in paths if path.stem in wanted]
  if not found:
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
    [Utterance(id=p.stem, path=p, **wanted[p.stem]) for p in found],
    missing=sorted(wanted.keys() - {path.stem for path in found}),
    notes=[f'{note}: {counts}'] if counts else [],
    on_error=on_error,
  )


def published(
  spec: Corpus,
  root: pathlib.Path,
  utterances: Sequence[Utterance],
  *,
  broken: Sequence[Rejected] = (),
  missing: Sequence[str] = (),
  notes: Sequence[str] = (),
  on_error: str = 'raise',
) -> Manifest:
  """Sorts utterances into published order and checks them.

  Utterances without a label come last; for `broken`, `on_error` and what is
  raised see `manifest.check`.
  """
  classes = tuple(spec.classes)
  rank = {label: index for index, label in enumerate(classes)}
  ordered = sorted(
    utterances, key=lambda u: (rank.get(u.label, len(rank)), spec.rank(u))
  )
  manifest = Manifest(
    corpus=spec.name,
    classes=classes,
    vad_range=spec.vad_range,
    utterances=tuple(ordered),
    root=root.absolute(),
    missing=tuple(missing),
    notes=tuple(notes),
  )
  return manifest_lib.check(manifest, on_error=on_error, broken=broken)


def text_lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a release's text file (UTF-8 or else Latin-1)."""
  data = path.read_bytes()
  try:
    return data.decode('utf-8-sig').splitlines()
  except UnicodeDecodeError:
    return data.decode('latin-1').splitlines()
