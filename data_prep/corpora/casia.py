"""CASIA, acted Mandarin speech."""

import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import CorpusError, Utterance

CLASSES = ('angry', 'fear', 'happy', 'neutral', 'sad', 'surprise')
# In the order in which they follow each other under one number.
SPEAKERS = {
  'liuchanhg': 'female',
  'wangzhe': 'male',
  'zhaoquanyin': 'female',
  'ZhaoZuoxiang': 'male',
}
NUMBERS = range(201, 251)
_SPELLING = {name.lower(): name for name in SPEAKERS}
_RANK = {name: index for index, name in enumerate(SPEAKERS)}


def _read(match: re.Match[str], path: pathlib.Path) -> Utterance:
  speaker, emotion, number = match.groups()
  speaker, emotion = _SPELLING[speaker.lower()], emotion.lower()
  if int(number) not in NUMBERS:
    raise CorpusError(
      f'number {number} is not one of {NUMBERS[0]} to {NUMBERS[-1]}'
    )
  return Utterance(
    id=f'{speaker}-{emotion}-{number}',
    path=path,
    label=emotion,
    speaker=speaker,
    gender=SPEAKERS[speaker],
    text=number,
  )


def expected() -> Iterator[str]:
  """The ids of the 1,200 recordings."""
  for emotion in CLASSES:
    for number in NUMBERS:
      for speaker in SPEAKERS:
        yield f'{speaker}-{emotion}-{number}'


CORPUS = base.Corpus(
  name='casia',
  title='CASIA',
  read=_read,
  # The published order inside a class.
  order=lambda u: (int(u.text), _RANK[u.speaker]),
  classes=dict.fromkeys(CLASSES, 200),
  speakers=4,
  languages=('zh',),
  signal_length=88_000,
  licence='licensed by the Chinese Academy of Sciences',
  homepage='http://www.chineseldc.org/resource_info.php?rid=76',
  citation="""@inproceedings{tao2008casia,
  title={Design of Speech Corpus for {Mandarin} Text to Speech},
  author={Tao, Jianhua and Liu, Fangzhou and Zhang, Meng and Jia, Huibin},
  booktitle={The Blizzard Challenge Workshop},
  year={2008}
}""",
  layout='liuchanhg/angry/201.wav, ... (SPEAKER/EMOTION/NUMBER.wav)',
  pattern=re.compile(
    rf'(?:^|/)({"|".join(SPEAKERS)})/({"|".join(CLASSES)})/(\d+)\.wav$',
    re.IGNORECASE,
  ),
  example='liuchanhg/angry/201.wav',
  expected=expected,
)
