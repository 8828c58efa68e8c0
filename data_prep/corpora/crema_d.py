"""CREMA-D: from its wav files, or from the TFDS data set `crema_d`."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base, crema_d_tfds
from data_prep.manifest import CorpusError, Manifest, Utterance

EMOTIONS = {
  'ANG': 'angry',
  'DIS': 'disgust',
  'FEA': 'fear',
  'HAP': 'happy',
  'NEU': 'neutral',
  'SAD': 'sad',
}
_SENTENCES = 'DFA IEO IOM ITH ITS IWL IWW MTI TAI TIE TSI WSI'
SENTENCES = tuple(_SENTENCES.split())
_FEMALE = """
  1002 1003 1004 1006 1007 1008 1009 1010 1012 1013 1018 1020 1021 1024 1025
  1028 1029 1030 1037 1043 1046 1047 1049 1052 1053 1054 1055 1056 1058 1060
  1061 1063 1072 1073 1074 1075 1076 1078 1079 1082 1084 1089 1091
"""
FEMALE = frozenset(_FEMALE.split())
# Three actors lack one sentence in every emotion, two lack one neutral one.
ABSENT = {('1008', 'WSI'), ('1009', 'MTI'), ('1019', 'ITH')} | {
  ('1002', 'TIE', 'NEU'),
  ('1076', 'ITS', 'NEU'),
}
ACTORS = tuple(str(number) for number in range(1001, 1092))


def _read(match: re.Match[str], path: pathlib.Path) -> Utterance:
  actor, sentence, emotion, level = match[1].upper().split('_')
  _check_actor(actor)
  return Utterance(
    id=f'{actor}_{sentence}_{emotion}_{level}',
    path=path,
    label=EMOTIONS[emotion],
    speaker=actor,
    gender='female' if actor in FEMALE else 'male',
    text=sentence,
  )


def _check_actor(actor: str) -> None:
  if actor not in ACTORS:
    raise CorpusError(
      f'actor {actor!r} is unknown; CREMA-D has {ACTORS[0]} to {ACTORS[-1]}'
    )


def expected() -> Iterator[str]:
  """The ids of the 7,442 recordings."""
  for actor, sentence, emotion in itertools.product(
    ACTORS, SENTENCES, EMOTIONS
  ):
    if {(actor, sentence), (actor, sentence, emotion)} & ABSENT:
      continue
    graded = sentence == 'IEO' and emotion != 'NEU'
    for level in ('LO', 'MD', 'HI') if graded else ('XX',):
      yield f'{actor}_{sentence}_{emotion}_{level}'


def parse_tfds(
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
  export_dir: str | os.PathLike[str] | None = None,
) -> Manifest:
  """Reads the TFDS data set `crema_d`, downloading it if TFDS has not yet.

  TFDS keeps neither file names nor sentences, so ids are counted and the text
  is unknown; its split by speaker becomes the column `split`.

  Args:
    audio_dir: 'tfds', or 'tfds:DIR' where TFDS keeps its data sets.
    on_error: see `base.collect`.
    export_dir: Folder for the audio as wav files; made, or used if complete.

  Raises:
    CorpusError: TFDS cannot give the data set, or there is no `export_dir`.
  """
  if not export_dir:
    raise CorpusError(f'{audio_dir}: a folder to keep its audio is needed.')
  tfds_dir = str(audio_dir).partition(':')[2] or None
  folder = crema_d_tfds.export(export_dir, tfds_dir)
  return base.collect(TFDS, folder, _read_tfds, on_error=on_error)


def _read_tfds(match: re.Match[str], path: pathlib.Path) -> Utterance:
  split, actor, emotion, number = match.groups()
  _check_actor(actor)
  return Utterance(
    id=f'{actor}_{emotion}_{number}',
    path=path,
    label=EMOTIONS[emotion],
    speaker=actor,
    gender='female' if actor in FEMALE else 'male',
    split=split,
  )


CORPUS = base.Corpus(
  name='crema_d',
  title='CREMA-D',
  read=_read,
  classes={
    'angry': 1271,
    'disgust': 1271,
    'fear': 1271,
    'happy': 1271,
    'neutral': 1087,
    'sad': 1271,
  },
  speakers=91,
  languages=('en',),
  signal_length=100_000,
  licence='Open Database License 1.0',
  homepage='https://github.com/CheyneyComputerScience/CREMA-D',
  citation="""@article{cao2014cremad,
  title={{CREMA-D}: Crowd-sourced Emotional Multimodal Actors Dataset},
  author={Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and
    Gur, Ruben C. and Nenkova, Ani and Verma, Ragini},
  journal={IEEE Transactions on Affective Computing},
  volume={5},
  number={4},
  pages={377--390},
  year={2014}
}""",
  layout='1001_DFA_ANG_XX.wav, ... (the folder AudioWAV); or --audio_dir=tfds '
  '(or tfds:DIR) for the TFDS data set crema_d',
  pattern=re.compile(
    rf'(?:^|/)(\d{{4}}_(?:{"|".join(SENTENCES)})_(?:{"|".join(EMOTIONS)})_'
    r'(?:LO|MD|HI|XX))\.wav$',
    re.IGNORECASE,
  ),
  example='1001_DFA_ANG_XX.wav',
  expected=expected,
)

# The builder leaves out four recordings that its source could not serve.
TFDS = dataclasses.replace(
  CORPUS,
  title='CREMA-D (TFDS)',
  read=None,
  parser=parse_tfds,
  classes=CORPUS.classes
  | {'disgust': 1270, 'fear': 1270, 'neutral': 1086, 'sad': 1270},
  pattern=re.compile(r'/(train|dev|test)/(\d{4})_([A-Z]{3})_(\d+)\.wav$'),
  example='train/1001_ANG_0001.wav',
  expected=None,
  options={'export_dir': None},
)
