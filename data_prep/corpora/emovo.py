"""EMOVO, acted Italian speech."""

import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import Utterance

EMOTIONS = {
  'rab': 'angry',
  'dis': 'disgust',
  'pau': 'fear',
  'gio': 'happy',
  'neu': 'neutral',
  'tri': 'sad',
  'sor': 'surprise',
}
SPEAKERS = ('f1', 'f2', 'f3', 'm1', 'm2', 'm3')
_SENTENCES = 'b1 b2 b3 d1 d2 l1 l2 l3 l4 n1 n2 n3 n4 n5'
SENTENCES = tuple(_SENTENCES.split())


def _read(match: re.Match[str], path: pathlib.Path) -> Utterance:
  emotion, speaker, text = match[1].lower().split('-')
  return Utterance(
    id=f'{emotion}-{speaker}-{text}',
    path=path,
    label=EMOTIONS[emotion],
    speaker=speaker,
    gender='female' if speaker[0] == 'f' else 'male',
    text=text,
  )


def expected() -> Iterator[str]:
  """The ids of the 588 recordings."""
  for emotion in EMOTIONS:
    for speaker in SPEAKERS:
      for sentence in SENTENCES:
        yield f'{emotion}-{speaker}-{sentence}'


CORPUS = base.Corpus(
  name='emovo',
  title='EMOVO',
  read=_read,
  classes={
    'angry': 84,
    'disgust': 84,
    'fear': 84,
    'happy': 84,
    'neutral': 84,
    'sad': 84,
    'surprise': 84,
  },
  speakers=6,
  languages=('it',),
  signal_length=96_000,
  licence='free for research',
  homepage='http://voice.fub.it/activities/corpora/emovo/index.html',
  citation="""@inproceedings{costantini2014emovo,
  title={{EMOVO} Corpus: an {Italian} Emotional Speech Database},
  author={Costantini, Giovanni and Iaderola, Iacopo and Paoloni, Andrea and
    Todisco, Massimiliano},
  booktitle={Language Resources and Evaluation (LREC)},
  pages={3501--3504},
  year={2014}
}""",
  layout='f1/dis-f1-b1.wav, ... (one folder per speaker)',
  pattern=re.compile(
    r'(?:^|/)((?:rab|dis|pau|gio|neu|tri|sor)-[fm][123]-[a-z]\d)\.wav$',
    re.IGNORECASE,
  ),
  example='dis-f1-b1.wav',
  expected=expected,
)
