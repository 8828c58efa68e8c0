"""EmoTale, enacted Danish and English speech with VAD annotations."""

import dataclasses
import os
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping

from data_prep import agreement, tables
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest, Utterance

EMOTIONS = {
  'A': 'angry',
  'B': 'boredom',
  'H': 'happy',
  'N': 'neutral',
  'S': 'sad',
}
MALE = ('004', '005', '006', '015', '018', '019')
SPEAKERS = tuple(f'{number:03d}' for number in range(1, 20) if number != 2)
DANISH_ONLY = ('014', '015', '018', '019')
ANNOTATORS = ('a1', 'a2', 'a3')


def parse(
  audio_dir: str | os.PathLike[str], *, on_error: str = 'raise'
) -> Manifest:
  """Reads the repository: `wav/` and `annotations.csv`.

  Valence, arousal and dominance are the means of the three annotators, whose
  agreement is that over these utterances.

  Raises:
    CorpusError: see `base.collect`; also for no `annotations.csv`, and for a
      file that has no line in it, or another emotion there.
  """
  base.find_wavs(audio_dir)
  table = base.find_one(
    audio_dir, ['annotations.csv'], 'valence, arousal, dominance'
  )
  columns = [f'{a}_{d}' for a in ANNOTATORS for d in 'VAD']
  rows = {
    row['file']: row
    for row in tables.read_table(table, ['file', 'gt_emotion', *columns], ',')
  }
  manifest = base.collect(
    CORPUS,
    audio_dir,
    lambda match, path: _read(match, path, rows, table),
    on_error=on_error,
  )
  lines = [rows[f'{utterance.id}.wav'] for utterance in manifest.utterances]
  ratings = {
    name: [
      [float(line[f'{a}_{name[0].upper()}']) for a in ANNOTATORS]
      for line in lines
    ]
    for name in ('valence', 'arousal', 'dominance')
  }
  return dataclasses.replace(manifest, annotators=agreement.summarise(ratings))


def _read(
  match: re.Match[str],
  path: pathlib.Path,
  rows: Mapping[str, Mapping[str, str]],
  table: pathlib.Path,
) -> Utterance:
  name, language, speaker, emotion, number = match.groups()
  name, emotion = name.upper(), emotion.upper()
  row = rows.get(f'{name}.wav')
  if row is None:
    raise CorpusError(f'has no line in {table}')
  if row['gt_emotion'] != emotion:
    raise CorpusError(
      f'is {emotion!r} by its name and {row["gt_emotion"]!r} in {table}'
    )
  valence, arousal, dominance = (
    statistics.fmean(_rating(row, f'{a}_{d}', table) for a in ANNOTATORS)
    for d in 'VAD'
  )
  return Utterance(
    id=name,
    path=path,
    label=EMOTIONS[emotion],
    speaker=speaker,
    gender='male' if speaker in MALE else 'female',
    text=f'{language.upper()}_{number}',
    valence=valence,
    arousal=arousal,
    dominance=dominance,
  )


def _rating(row: Mapping[str, str], column: str, table: pathlib.Path) -> float:
  """One annotator's rating; a mean could hide one that is off the scale."""
  lowest, highest = CORPUS.vad_range
  try:
    rating = float(row[column])
  except ValueError as error:
    raise CorpusError(f'its line in {table} has no number ({error})') from error
  if not lowest <= rating <= highest:
    raise CorpusError(
      f'its line in {table} has {column} {rating:g}, outside of the scale from '
      f'{lowest:g} to {highest:g}'
    )
  return rating


def expected() -> Iterator[str]:
  """The ids of the 800 recordings; four speakers speak Danish only."""
  for speaker in SPEAKERS:
    for language in ('DK',) if speaker in DANISH_ONLY else ('DK', 'EN'):
      for emotion in EMOTIONS:
        for number in range(1, 6):
          yield f'{language}_{speaker}_{emotion}_{number}'


CORPUS = base.Corpus(
  name='emotale',
  title='EmoTale',
  parser=parse,
  classes=dict.fromkeys(EMOTIONS.values(), 160),
  speakers=18,
  languages=('da', 'en'),
  signal_length=100_000,
  licence='copyright of the authors, who ask to cite the paper',
  homepage='https://github.com/snehadas/EmoTale',
  citation="""@inproceedings{hjuler2025emotale,
  title={{EmoTale}: An Enacted Speech-emotion Dataset in {Danish}},
  author={Hjuler, Maja J. and Skat-R{\\o}rdam, Harald V. and
    Clemmensen, Line H. and Das, Sneha},
  booktitle={IEEE Automatic Speech Recognition and Understanding Workshop},
  year={2025}
}""",
  layout='wav/DK_001_A_1.wav, ... and annotations.csv (the whole repository)',
  vad_range=(1.0, 5.0),
  pattern=re.compile(
    r'(?:^|/)((DK|EN)_(\d{3})_([ABHNS])_(\d))\.wav$', re.IGNORECASE
  ),
  example='DK_001_A_1.wav',
  expected=expected,
)
