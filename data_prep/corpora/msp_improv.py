"""MSP-IMPROV, acted dialogues: its four classes."""

import collections
import os
import pathlib
import re

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest, Utterance

# O (other) and X (no agreement) are left out.
EMOTIONS = {'A': 'angry', 'H': 'happy', 'N': 'neutral', 'S': 'sad'}
# Evalution.txt has a line per turn, and one per evaluator below it:
#   UTD-IMPROV-S08A-F05-P-FM01.avi; N; A:3.000000; V:3.000000; D:3.000000 ; ...
_TURN = re.compile(
  r'UTD-IMPROV-(\S+?)\.avi\s*;\s*([A-Z])\s*;\s*A:\s*([\d.]+|NaN)\s*;'
  r'\s*V:\s*([\d.]+|NaN)\s*;\s*D:\s*([\d.]+|NaN)\s*;',
  re.IGNORECASE,
)
# Sentence and intended emotion, speaker and session, kind of recording (P
# natural, R read, S and T improvised), turn.
_NAME = re.compile(
  r'S(?P<sentence>\d\d)[AHNS]-(?P<speaker>[FM]\d\d)[FM]?-(?P<kind>[PRST])-'
  r'[FM]{2}\d+'
)


def parse(
  audio_dir: str | os.PathLike[str], *, on_error: str = 'raise'
) -> Manifest:
  """Reads the release: `Evalution.txt` (so spelled) and the audio.

  The speaker is the fourth field of the name, `F05`, as in published work on
  this corpus; its last two digits are the session.

  Raises:
    CorpusError: No audio or labels, a line that cannot be read, two files of
      one name.
  """
  root = pathlib.Path(audio_dir).absolute()
  wavs = base.find_wavs(root)
  table = base.find_one(root, ['Evalution.txt', 'Evaluation.txt'], 'the labels')
  turns, others = {}, collections.Counter()
  for number, line in enumerate(base.text_lines(table), start=1):
    if not line.upper().startswith('UTD-IMPROV-'):
      continue
    match = _TURN.match(line)
    name = _NAME.fullmatch(match[1]) if match else None
    if not name:
      raise CorpusError(
        f'{table}: cannot read line {number}, {line.strip()!r}; expected "'
        'UTD-IMPROV-S08A-F05-P-FM01.avi; N; A:3.0; V:3.0; D:3.0; ...".'
      )
    if match[2] not in EMOTIONS:
      others[match[2]] += 1
      continue
    if f'MSP-IMPROV-{match[1]}' in turns:
      raise CorpusError(
        f'{table}: line {number} repeats {match[1]}; every turn has one line.'
      )
    turns[f'MSP-IMPROV-{match[1]}'] = (match, name)
  found = base.labelled(CORPUS, root, wavs, turns)
  left = ', '.join(f'{n:,} {label}' for label, n in sorted(others.items()))
  return base.published(
    CORPUS,
    root,
    [_utterance(stem, path, *turns[stem]) for stem, path in found.items()],
    missing=[stem for stem in turns if stem not in found],
    notes=[f'turns left out (O other, X no agreement): {left}'] if left else [],
    on_error=on_error,
  )


def _utterance(
  stem: str, path: pathlib.Path, match: re.Match[str], name: re.Match[str]
) -> Utterance:
  # Only the target sentences have a text that is known.
  fixed = name['kind'] in 'RT'
  arousal, valence, dominance = map(tables.number, match.groups()[2:])
  return Utterance(
    id=stem,
    path=path,
    label=EMOTIONS[match[2]],
    speaker=name['speaker'],
    gender=tables.normal_gender(name['speaker'][0]),
    text=f'S{name["sentence"]}' if fixed else '',
    valence=valence,
    arousal=arousal,
    dominance=dominance,
  )


CORPUS = base.Corpus(
  name='msp_improv',
  title='MSP-IMPROV',
  parser=parse,
  classes={'angry': 792, 'happy': 2644, 'neutral': 3477, 'sad': 885},
  speakers=12,
  languages=('en',),
  signal_length=220_500,
  licence='licensed by the University of Texas at Dallas',
  homepage='https://ecs.utdallas.edu/research/researchlabs/msp-lab/'
  'MSP-Improv.html',
  citation="""@article{busso2017mspimprov,
  title={{MSP-IMPROV}: An Acted Corpus of Dyadic Interactions to Study Emotion
    Perception},
  author={Busso, Carlos and Parthasarathy, Srinivas and Burmania, Alec and
    AbdelWahab, Mohammed and Sadoughi, Najmeh and Mower Provost, Emily},
  journal={IEEE Transactions on Affective Computing},
  volume={8},
  number={1},
  pages={67--80},
  year={2017}
}""",
  layout='the release: session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav, ... and '
  'Evalution.txt',
  vad_range=(1.0, 5.0),
  example='MSP-IMPROV-S08A-F05-P-FM01.wav',
)
