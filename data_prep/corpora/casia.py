"""CASIA, acted Mandarin speech."""

import os
import pathlib
import re
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest, Utterance

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


def parse(
  audio_dir: str | os.PathLike[str], *, on_error: str = 'raise'
) -> Manifest:
  """Reads `SPEAKER/EMOTION/201.wav` to `250.wav`.

  The published order inside a class is by number, then by speaker.

  Raises:
    CorpusError: see `base.collect`.
  """
  rank = {name: index for index, name in enumerate(SPEAKERS)}
  return base.collect(
    CORPUS,
    audio_dir,
    _read,
    on_error=on_error,
    order=lambda u: (int(u.text), rank[u.speaker]),
  )


def _read(path: pathlib.Path) -> Utterance:
  speaker, emotion, number = base.match(CORPUS, path).groups()
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
  parse=parse,
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
