"""MSP-IMPROV, acted dialogues: its four classes."""

import os
import pathlib
import re
from collections.abc import Iterator

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError

# Evalution.txt has a line per turn, and one per evaluator below it:
#   UTD-IMPROV-S08A-F05-P-FM01.avi; N; A:3.000000; V:3.000000; D:3.000000 ; ...
# The name holds sentence and intended emotion, speaker and session, kind of
# recording (P natural, R read, S and T improvised), turn.
_TURN = re.compile(
  r'UTD-IMPROV-(?P<name>S(?P<sentence>\d\d)[AHNS]-(?P<speaker>[FM]\d\d)[FM]?-'
  r'(?P<kind>[PRST])-[FM]{2}\d+)\.avi\s*;\s*(?P<label>[A-Z])\s*;'
  r'\s*A:\s*(?P<arousal>[\d.]+|NaN)\s*;\s*V:\s*(?P<valence>[\d.]+|NaN)\s*;'
  r'\s*D:\s*(?P<dominance>[\d.]+|NaN)\s*;',
  re.IGNORECASE,
)


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
) -> Manifest:
  """Reads the release: `Evalution.txt` (so spelled) and the audio.

  The speaker is the fourth field of the name, `F05`, as in published work on
  this corpus; its last two digits are the session.
  """
  base.find_wavs(audio_dir)
  table = base.find_one(
    audio_dir, ['Evalution.txt', 'Evaluation.txt'], 'the labels'
  )
  return base.from_labels(
    spec,
    audio_dir,
    _turns(table),
    spec.emotions,
    note='turns left out (O other, X no agreement)',
    on_error=on_error,
  )


def _turns(table: pathlib.Path) -> Iterator[tuple]:
  """Yields the turns as rows of `base.from_labels`."""
  for number, line in enumerate(base.text_lines(table), start=1):
    if not line.upper().startswith('UTD-IMPROV-'):
      continue
    turn = _TURN.match(line)
    if not turn:
      raise CorpusError(
        f'{table}: cannot read line {number}, {line.strip()!r}; expected "'
        'UTD-IMPROV-S08A-F05-P-FM01.avi; N; A:3.0; V:3.0; D:3.0; ...".'
      )
    # Only the target sentences have a text that is known.
    text = f'S{turn["sentence"]}' if turn['kind'] in 'RT' else ''
    fields = {
      'speaker': turn['speaker'],
      'gender': tables.normal_gender(turn['speaker'][0]),
      'text': text,
      'valence': tables.number(turn['valence']),
      'arousal': tables.number(turn['arousal']),
      'dominance': tables.number(turn['dominance']),
    }
    name = f'MSP-IMPROV-{turn["name"]}'
    yield f'{table}: line {number}', name, turn['label'], fields
