"""RAVDESS, the spoken part."""

import itertools
import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import CorpusError, Utterance

EMOTIONS = {
  '01': 'neutral',
  '02': 'calm',
  '03': 'happy',
  '04': 'sad',
  '05': 'angry',
  '06': 'fear',
  '07': 'disgust',
  '08': 'surprise',
}


def _read(match: re.Match[str], path: pathlib.Path) -> Utterance | str:
  name = match[1]
  modality, channel, emotion, intensity, statement, take, actor = name.split(
    '-'
  )
  if channel == '02':
    return 'vocal channel 02, song; this corpus is the speech'
  if modality != '03' or channel != '01':
    raise CorpusError(
      f'modality {modality}, vocal channel {channel}: the audio of the speech '
      'is 03, 01'
    )
  if (
    emotion not in EMOTIONS
    or intensity not in ('01', '02')
    or statement not in ('01', '02')
    or take not in ('01', '02')
    or not 1 <= int(actor) <= 24
    or (emotion == '01' and intensity == '02')
  ):
    raise CorpusError(
      'a field has a value that RAVDESS does not use (emotion 01 to 08, '
      'intensity, statement and repetition 01 or 02, neutral only with '
      'intensity 01, actor 01 to 24)'
    )
  return Utterance(
    id=name,
    path=path,
    label=EMOTIONS[emotion],
    speaker=actor,
    gender='male' if int(actor) % 2 else 'female',
    text=statement,
  )


def expected() -> Iterator[str]:
  """The ids of the 1,440 recordings."""
  two = ('01', '02')
  for actor in range(1, 25):
    for emotion in EMOTIONS:
      intensities = two[:1] if emotion == '01' else two
      for rest in itertools.product(intensities, two, two):
        yield '-'.join(('03', '01', emotion, *rest, f'{actor:02d}'))


CORPUS = base.Corpus(
  name='ravdess',
  title='RAVDESS (speech)',
  read=_read,
  classes={
    'angry': 192,
    'calm': 192,
    'disgust': 192,
    'fear': 192,
    'happy': 192,
    'neutral': 96,
    'sad': 192,
    'surprise': 192,
  },
  speakers=24,
  languages=('en',),
  signal_length=110_000,
  licence='CC BY-NC-SA 4.0',
  homepage='https://zenodo.org/records/1188976',
  citation="""@article{livingstone2018ravdess,
  title={The {Ryerson} Audio-Visual Database of Emotional Speech and Song
    ({RAVDESS}): A dynamic, multimodal set of facial and vocal expressions in
    {North American English}},
  author={Livingstone, Steven R. and Russo, Frank A.},
  journal={PLoS ONE},
  volume={13},
  number={5},
  pages={e0196391},
  year={2018}
}""",
  layout='Actor_01/03-01-01-01-01-01-01.wav, ... (Audio_Speech_Actors_01-24)',
  pattern=re.compile(r'(?:^|/)(\d\d(?:-\d\d){6})\.wav$', re.IGNORECASE),
  example='03-01-06-01-02-01-12.wav',
  expected=expected,
)
