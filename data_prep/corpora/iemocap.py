"""IEMOCAP, acted and improvised dialogues: the usual four classes."""

import collections
import os
import pathlib
import re
import statistics

from data_prep import manifest as manifest_lib
from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest, Utterance

# The other labels of the release (fru, sur, fea, dis, oth, xxx) are left out.
EMOTIONS = {
  'ang': 'angry',
  'hap': 'happy',
  'exc': 'happy',
  'neu': 'neutral',
  'sad': 'sad',
}
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
  audio_dir: str | os.PathLike[str], *, on_error: str = 'raise'
) -> Manifest:
  """Reads the release: `Session1` to `Session5`.

  Turns are those whose majority label is angry, happy, excited (merged into
  happy), neutral or sad. VAD is the mean over the evaluators (not the speaker's
  own rating), leaving out ratings that are empty or off the scale 1 to 5.

  Args:
    audio_dir: Folder that holds the sessions.
    on_error: 'skip' leaves out turns that cannot be used; see `base.published`.

  Raises:
    CorpusError: No audio, no `EmoEvaluation`, two files of one name.
  """
  root = pathlib.Path(audio_dir).absolute()
  wavs = base.find_wavs(root)
  dialogues = [
    path
    for path in base.find_files(root, lambda name: name.endswith('.txt'))
    if path.parent.name.lower() == 'emoevaluation'
  ]
  if not dialogues:
    raise CorpusError(
      f'{root}: has no file like Session1/dialog/EmoEvaluation/'
      'Ses01F_impro01.txt, which holds the labels; give the folder of the whole '
      'IEMOCAP release as --audio_dir.'
    )
  texts = _transcripts(root)
  turns, others, first = {}, collections.Counter(), {}
  for table in dialogues:
    for turn in _turns(table):
      name, label = turn.id, turn.label
      if name in first:
        raise CorpusError(
          f'{table}: turn {name} is also in {first[name]}; leave one of them '
          'below --audio_dir.'
        )
      first[name] = table
      if label in EMOTIONS:
        turns[name] = turn
      else:
        others[label] += 1
  if not turns:
    raise CorpusError(
      f'{dialogues[0].parent}: none of its {len(dialogues)} files has a turn like '
      '"[6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]".'
    )
  found = base.labelled(CORPUS, root, wavs, turns)
  notes = []
  if others:
    kinds = ', '.join(f'{n:,} {label}' for label, n in sorted(others.items()))
    notes.append(f'turns of other classes left out: {kinds}')
  return base.published(
    CORPUS,
    root,
    [
      Utterance(
        id=name,
        path=path,
        label=EMOTIONS[turns[name].label],
        speaker=turns[name].speaker,
        gender=tables.normal_gender(turns[name].speaker[-1]),
        text=texts.get(name, ''),
        **dict(zip(manifest_lib.VAD, turns[name].vad, strict=True)),
      )
      for name, path in found.items()
    ],
    missing=[name for name in turns if name not in found],
    notes=notes,
    on_error=on_error,
  )


_Turn = collections.namedtuple('_Turn', 'id speaker label vad')


def _turns(table: pathlib.Path) -> list[_Turn]:
  """The turns of one dialogue."""
  turns, ratings = [], []
  for line in base.text_lines(table):
    if match := _TURN.match(line):
      name, session, sex, label, *means = match.groups()
      ratings = []
      turns.append((name, f'Ses{session}{sex}', label, means, ratings))
    elif line.startswith('[') and 'Ses' in line:
      raise CorpusError(
        f'{table}: cannot read {line.strip()!r}; expected "[start - end] turn '
        'label [valence, activation, dominance]".'
      )
    elif match := _EVALUATOR.match(line):
      ratings.append(match.groups())
  return [
    _Turn(name, speaker, label, _mean(means, ratings))
    for name, speaker, label, means, ratings in turns
  ]


def _mean(means, ratings) -> tuple[float | None, ...]:
  """Mean per dimension over the ratings that lie on the scale."""
  low, high = CORPUS.vad_range
  if not ratings:
    return tuple(map(float, means))
  valid = [
    [float(r) for r in column if r and low <= float(r) <= high]
    for column in zip(*ratings, strict=True)
  ]
  return tuple(statistics.fmean(v) if v else None for v in valid)


def _transcripts(root: pathlib.Path) -> dict[str, str]:
  texts = {}
  for path in base.find_files(root, lambda name: name.endswith('.txt')):
    if path.parent.name.lower() == 'transcriptions':
      for line in base.text_lines(path):
        if match := _TRANSCRIPT.match(line):
          texts[match[1]] = match[2].strip()
  return texts


CORPUS = base.Corpus(
  name='iemocap',
  title='IEMOCAP (4 classes)',
  parser=parse,
  classes={'angry': 1103, 'happy': 1636, 'neutral': 1708, 'sad': 1084},
  speakers=10,
  languages=('en',),
  signal_length=310_000,
  licence='licensed by the University of Southern California',
  homepage='https://sail.usc.edu/iemocap/',
  citation="""@article{busso2008iemocap,
  title={{IEMOCAP}: Interactive emotional dyadic motion capture database},
  author={Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and
    Kazemzadeh, Abe and Mower, Emily and Kim, Samuel and
    Chang, Jeannette N. and Lee, Sungbok and Narayanan, Shrikanth S.},
  journal={Language Resources and Evaluation},
  volume={42},
  number={4},
  pages={335--359},
  year={2008}
}""",
  layout='the release: Session1/sentences/wav/..., Session1/dialog/'
  'EmoEvaluation/*.txt, ...',
  vad_range=(1.0, 5.0),
  example='Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav',
)
