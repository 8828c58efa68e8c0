"""MSP-Podcast, natural speech from podcasts: classes, VAD, official split."""

import collections
import os
import pathlib

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest, Utterance

EMOTIONS = {
  'A': 'angry',
  'C': 'contempt',
  'D': 'disgust',
  'F': 'fear',
  'H': 'happy',
  'N': 'neutral',
  'S': 'sad',
  'U': 'surprise',
}
OTHER, NO_AGREEMENT = 'O', 'X'
ROWS = {
  'all': {*EMOTIONS, OTHER, NO_AGREEMENT},
  'agreed': {*EMOTIONS, OTHER},
  'classes': {*EMOTIONS},
}
COLUMNS = (
  'FileName',
  'EmoClass',
  'EmoAct',
  'EmoVal',
  'EmoDom',
  'SpkrID',
  'Gender',
  'Split_Set',
)


def parse(
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
  rows: str = 'agreed',
) -> Manifest:
  """Reads a release: `Labels/labels_consensus.csv` and `Audios/`.

  Args:
    audio_dir: Folder of the release.
    on_error: 'skip' leaves out rows that cannot be used.
    rows: 'agreed' leaves out those on whose class the annotators did not agree
      (X), and keeps those of another class (O) with VAD and no label; 'all'
      keeps both; 'classes' keeps the eight classes only.

  Raises:
    CorpusError: No audio or labels, a column or value that is not as in the
      release, two files of one name.
  """
  if rows not in ROWS:
    raise CorpusError(
      f'--rows={rows}: is unknown; choose one of {", ".join(ROWS)}.'
    )
  root = pathlib.Path(audio_dir).absolute()
  wavs = base.find_wavs(root)
  table = base.find_one(
    root, ['labels_consensus.csv', 'labels_concensus.csv'], 'the labels'
  )
  wanted, left = {}, collections.Counter()
  for line, row in enumerate(tables.read_table(table, COLUMNS, ','), start=2):
    letter = row['EmoClass']
    if letter not in ROWS['all']:
      raise CorpusError(
        f'{table}: line {line} has EmoClass {letter!r}; a release has '
        f'{", ".join(sorted(ROWS["all"]))}.'
      )
    stem = pathlib.PurePath(row['FileName']).stem
    if stem in wanted:
      raise CorpusError(
        f'{table}: line {line} repeats {row["FileName"]}; every file has one '
        'line.'
      )
    if letter in ROWS[rows]:
      wanted[stem] = row
    else:
      left[letter] += 1
  found = base.labelled(CORPUS, root, wavs, wanted)
  counts = ', '.join(f'{n:,} {letter}' for letter, n in sorted(left.items()))
  return base.published(
    CORPUS,
    root,
    [_utterance(s, path, wanted[s], table) for s, path in found.items()],
    missing=[stem for stem in wanted if stem not in found],
    notes=[f'rows left out (--rows={rows}): {counts}'] if counts else [],
    on_error=on_error,
  )


def _utterance(
  stem: str, path: pathlib.Path, row: dict[str, str], table: pathlib.Path
) -> Utterance:
  try:
    arousal, valence, dominance = (
      tables.number(row[name]) for name in ('EmoAct', 'EmoVal', 'EmoDom')
    )
  except ValueError as error:
    raise CorpusError(
      f'{table}: {row["FileName"]} has no number where one is due ({error}).'
    ) from error
  return Utterance(
    id=stem,
    path=path,
    label=EMOTIONS.get(row['EmoClass'], ''),
    speaker=row['SpkrID'],
    gender=tables.normal_gender(row['Gender']),
    split=tables.normal_split(row['Split_Set']),
    valence=valence,
    arousal=arousal,
    dominance=dominance,
  )


CORPUS = base.Corpus(
  name='msp_podcast',
  title='MSP-Podcast',
  parser=parse,
  classes=dict.fromkeys(EMOTIONS.values()),
  speakers=None,
  languages=('en',),
  signal_length=250_000,
  licence='licensed by the University of Texas at Dallas',
  homepage='https://ecs.utdallas.edu/research/researchlabs/msp-lab/'
  'MSP-Podcast.html',
  citation="""@article{lotfian2019msppodcast,
  title={Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving
    Emotional Speech from Existing Podcast Recordings},
  author={Lotfian, Reza and Busso, Carlos},
  journal={IEEE Transactions on Affective Computing},
  volume={10},
  number={4},
  pages={471--483},
  year={2019}
}""",
  layout='the release: Audios/MSP-PODCAST_0001_0008.wav, ... and '
  'Labels/labels_consensus.csv',
  vad_range=(1.0, 7.0),
  example='MSP-PODCAST_0001_0008.wav',
  options={'rows': 'agreed'},
)
