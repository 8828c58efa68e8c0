"""IEMOCAP, acted and improvised dialogues: the usual four classes."""

import os
import pathlib
import re
import statistics
from collections.abc import Iterator

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import VAD, Manifest
from data_prep.tables import CorpusError

# Session1/dialog/EmoEvaluation/Ses01F_impro01.txt has, per turn, a line with
# the majority label and the mean VAD, and a line per evaluator:
#   [6.2901 - 8.2357]  Ses01F_impro01_F000  neu  [2.5000, 2.5000, 2.5000]
#   A-E3:  val 3; act 2; dom  2;  ()
_TURN = re.compile(
  r'\[[\d.]+ - [\d.]+\]\s+(Ses(\d\d)[FM]_\S*_([FM])\w+)\s+(\w{3})\s+'
  r'\[([\d.]+), ([\d.]+), ([\d.]+)\]'
)
_EVALUATOR = re.compile(
  r'A-E\d+:\s*val\s*([\d.]*)\s*;\s*act\s*([\d.]*)\s*;\s*dom\s*([\d.]*)\s*;'
)
# Session1/dialog/transcriptions/Ses01F_impro01.txt:
#   Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
_TRANSCRIPT = re.compile(r'(Ses\S+_[FM]\w+) \[[\d.]+-[\d.]+\]: ?(.*)')


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
) -> Manifest:
  """Reads the release: `Session1` to `Session5`.

  Turns are those whose majority label is angry, happy, excited (merged into
  happy), neutral or sad. VAD is the mean over the evaluators (not the speaker's
  own rating), leaving out ratings that are empty or off the scale 1 to 5.
  """
  root = pathlib.Path(audio_dir).absolute()
  base.find_wavs(root)
  files = base.find_files(root, ['.txt'])
  dialogues = [p for p in files if p.parent.name.lower() == 'emoevaluation']
  if not dialogues:
    raise CorpusError(
      f'{root}: has no file like Session1/dialog/EmoEvaluation/'
      'Ses01F_impro01.txt, which holds the labels; give the folder of the whole '
      'IEMOCAP release as --audio_dir.'
    )
  texts = {
    match[1]: match[2].strip()
    for path in files
    if path.parent.name.lower() == 'transcriptions'
    for line in base.text_lines(path)
    if (match := _TRANSCRIPT.match(line))
  }
  turns = [turn for path in dialogues for turn in _turns(path, texts, spec)]
  if not turns:
    raise CorpusError(
      f'{dialogues[0].parent}: none of its {len(dialogues)} files has a turn like '
      '"[6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]".'
    )
  return base.from_labels(
    spec,
    root,
    turns,
    spec.emotions,
    note='turns of other classes left out',
    on_error=on_error,
  )


def _turns(
  table: pathlib.Path, texts: dict[str, str], spec: base.Corpus
) -> Iterator[tuple]:
  """Yields the turns of one dialogue as rows of `base.from_labels`."""
  turns = []
  for line in base.text_lines(table):
    if match := _TURN.match(line):
      turns.append((match, []))
    elif line.startswith('[') and 'Ses' in line:
      raise CorpusError(
        f'{table}: cannot read {line.strip()!r}; expected "[start - end] turn '
        'label [valence, activation, dominance]".'
      )
    elif turns and (match := _EVALUATOR.match(line)):
      turns[-1][1].append(match.groups())
  for match, ratings in turns:
    name, session, sex, label, *means = match.groups()
    fields = {
      'speaker': f'Ses{session}{sex}',
      'gender': tables.normal_gender(sex),
      'text': texts.get(name, ''),
      **dict(zip(VAD, _mean(means, ratings, spec.vad_range), strict=True)),
    }
    yield str(table), name, label, fields


def _mean(means, ratings, scale) -> tuple[float | None, ...]:
  """Returns per dimension the mean of the ratings that lie on the scale."""
  low, high = scale
  if not ratings:
    return tuple(map(float, means))
  valid = [
    [float(r) for r in column if r and low <= float(r) <= high]
    for column in zip(*ratings, strict=True)
  ]
  return tuple(statistics.fmean(v) if v else None for v in valid)
