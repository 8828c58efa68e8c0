"""SAVEE, Surrey Audio-Visual Expressed Emotion."""

import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import Utterance

EMOTIONS = {
  'a': 'angry',
  'd': 'disgust',
  'f': 'fear',
  'h': 'happy',
  'n': 'neutral',
  'sa': 'sad',
  'su': 'surprise',
}
SPEAKERS = ('DC', 'JE', 'JK', 'KL')


def _read(match: re.Match[str], path: pathlib.Path) -> Utterance:
  speaker, emotion, number = match.groups()
  speaker, emotion = speaker.upper(), emotion.lower()
  return Utterance(
    id=f'{speaker}_{emotion}{number}',
    path=path,
    label=EMOTIONS[emotion],
    speaker=speaker,
    gender='male',
    # Numbers start anew with every emotion, and mean other sentences there.
    text=f'{emotion}{number}',
  )


def expected() -> Iterator[str]:
  """The ids of the 480 recordings."""
  for speaker in SPEAKERS:
    for emotion in EMOTIONS:
      for number in range(1, 31 if emotion == 'n' else 16):
        yield f'{speaker}_{emotion}{number:02d}'


CORPUS = base.Corpus(
  name='savee',
  title='SAVEE',
  read=_read,
  classes={
    'angry': 60,
    'disgust': 60,
    'fear': 60,
    'happy': 60,
    'neutral': 120,
    'sad': 60,
    'surprise': 60,
  },
  speakers=4,
  languages=('en',),
  signal_length=130_000,
  licence='free for research, on registration',
  homepage='http://kahlan.eps.surrey.ac.uk/savee/',
  citation="""@inproceedings{haq2009savee,
  title={Speaker-dependent audio-visual emotion recognition},
  author={Haq, Sanaul and Jackson, Philip J. B.},
  booktitle={International Conference on Auditory-Visual Speech Processing},
  pages={53--58},
  year={2009}
}""",
  layout='DC/a01.wav, ... (the folder AudioData) or DC_a01.wav, ...',
  pattern=re.compile(
    r'(?:^|/)(DC|JE|JK|KL)[_/](a|d|f|h|n|sa|su)(\d\d)\.wav$', re.IGNORECASE
  ),
  example='DC_a01.wav or DC/a01.wav',
  expected=expected,
)
