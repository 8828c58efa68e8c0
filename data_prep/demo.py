"""The demo corpus: made-up speech, so that everything runs with no data.

Six invented speakers say four nonsense texts in five emotions, two versions
each: 240 mono wav files of about one second, 16 kHz, 16 bit.

Every utterance has a *known* point in valence, arousal and dominance: the
centre of its class plus an offset of its own. The point, not the class, drives
the prosody (`CORRELATES`), in directions reported for human speech: Banse &
Scherer (1996), Schröder et al. (2001), Juslin & Laukka (2003), Goudbeek &
Scherer (2010), Waaramaa et al. (2010). So classes and VAD can both be learnt,
and both with some error.

A score on it says that a program works. It says nothing about a method.
"""

import dataclasses
import errno
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile

import numpy as np
import scipy.io.wavfile

from data_prep import corpora, voice
from data_prep import manifest as manifest_lib
from data_prep.manifest import Manifest, Utterance
from data_prep.tables import CorpusError, listed
from data_prep.voice import SAMPLE_RATE, Speaker

_SPEC = corpora.CORPORA['demo']
CLASSES = tuple(_SPEC.classes)
VAD_RANGE = _SPEC.vad_range
VERSIONS = ('1', '2')
RECIPE = 1  # Counts up whenever a name would sound different.

SPEAKERS = (
  Speaker('demo_f1', 'female', 205.0, 1.17, 1.00, 1.00, 0.3, 1.0),
  Speaker('demo_f2', 'female', 192.0, 1.14, 0.96, 0.92, -0.6, 2.0),
  Speaker('demo_f3', 'female', 220.0, 1.19, 1.05, 1.08, 0.0, 0.0),
  Speaker('demo_m1', 'male', 112.0, 1.00, 0.98, 1.04, 0.0, 0.0),
  Speaker('demo_m2', 'male', 126.0, 1.03, 1.04, 0.92, 0.6, 1.5),
  Speaker('demo_m3', 'male', 104.0, 0.98, 0.95, 1.00, -0.3, -0.5),
)

# See `data_prep.voice.speak`.
TEXTS = {
  'a': "ma 'ne ti 'so la",
  'b': "do 'ri ka 'mu se",
  'c': "no 'Si be 'ta lu",
  'd': "'ke la fu 'mi da",
}

# Valence, arousal and dominance of each class on a scale from 1 to 7, and the
# standard deviation of the offset that each utterance adds.
CENTRES = {
  'angry': (2.0, 5.8, 5.7),
  'fear': (2.2, 5.4, 2.2),
  'happy': (5.9, 5.3, 4.7),
  'neutral': (4.3, 3.6, 4.1),
  'sad': (2.2, 2.1, 2.5),
}
VAD_SPREAD = 0.45

# How prosody follows the point: its value at the centre of neutral; its change
# per point of valence, of arousal, of dominance; the standard deviation of what
# else differs between utterances; limits. Units: `data_prep.voice.Prosody`.
CORRELATES = {
  'pitch': (0.0, 0.2, 1.7, -0.5, 0.6, (-6.0, 9.0)),
  'melody': (2.4, 0.7, 0.5, 0.3, 0.4, (0.4, 7.0)),
  'ending': (-1.0, 0.8, 0.3, -0.3, 0.5, (-5.0, 4.0)),
  'accent': (3.5, 1.0, 0.7, 0.3, 0.5, (0.0, 9.0)),
  'rate': (0.0, 0.02, 0.085, -0.03, 0.04, (-0.35, 0.35)),
  'level': (-24.0, 0.2, 1.6, 0.8, 1.0, (-32.0, -16.0)),
  'tilt': (0.50, 0.0, -0.08, -0.07, 0.03, (0.0, 0.9)),
  'open': (0.62, 0.0, -0.03, -0.03, 0.015, (0.40, 0.85)),
  'breath': (-26.0, -0.3, -0.8, -2.4, 1.0, (-40.0, -14.0)),
  'jitter': (0.7, -0.2, 0.15, -0.15, 0.12, (0.2, 2.5)),
  'tremor': (0.1, -0.02, 0.08, -0.14, 0.06, (0.0, 1.0)),
  'smile': (0.0, 0.03, 0.004, 0.0, 0.008, (-0.1, 0.1)),
  'damping': (0.0, -0.15, 0.0, 0.0, 0.06, (-0.6, 0.6)),
}

_README = f"""SYNTHETIC SPEECH - the jaxser demo corpus, recipe {RECIPE}

These {len(CLASSES) * len(SPEAKERS) * len(TEXTS) * len(VERSIONS)} files were computed. Nobody spoke them, no emotion was felt, and
the "speakers" do not exist. They let jaxser run and be tested without any data.
Do not report a score on them as a result: it says nothing about human speech.

Names: SPEAKER-TEXT-EMOTION-VERSION.wav; f is a female voice, m a male one.
manifest.tsv holds the label of each file and the valence, arousal and dominance
(1 to 7) that its prosody was computed from.

To the extent possible under law, all rights to these files are waived
(CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/).
"""


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that the name of an utterance decides.

  Attributes:
    name: File name without its suffix, like `demo_f1-a-angry-1`.
    speaker: Who speaks.
    text: Key of `TEXTS`.
    label: One of `CLASSES`.
    vad: Valence, arousal, dominance, within `VAD_RANGE`.
    prosody: What follows from the point.
  """

  name: str
  speaker: Speaker
  text: str
  label: str
  vad: tuple[float, float, float]
  prosody: voice.Prosody


@functools.cache
def utterance_names() -> tuple[str, ...]:
  """The 240 names in published order: by class, then naturally sorted."""
  return tuple(
    f'{speaker.name}-{text}-{label}-{version}'
    for label in CLASSES
    for speaker in SPEAKERS
    for text in TEXTS
    for version in VERSIONS
  )


def _generator(name: str, use: str) -> np.random.Generator:
  digest = hashlib.sha256(f'{RECIPE}/{name}/{use}'.encode()).digest()
  return np.random.Generator(np.random.PCG64(int.from_bytes(digest, 'big')))


def plan(name: str) -> Plan:
  """Decides the VAD point and the prosody of an utterance.

  Args:
    name: One of `utterance_names()`; it is also the seed.

  Raises:
    CorpusError: The demo corpus has no such utterance.
  """
  if name not in utterance_names():
    raise CorpusError(
      f'{name!r} is not an utterance of the demo corpus. Names are '
      f'SPEAKER-TEXT-EMOTION-VERSION, like {utterance_names()[0]!r}; speakers: '
      f'{", ".join(s.name for s in SPEAKERS)}; texts: {", ".join(TEXTS)}; '
      f'emotions: {", ".join(CLASSES)}; versions: {", ".join(VERSIONS)}.'
    )
  who, text, label, _ = name.split('-')
  speaker = {speaker.name: speaker for speaker in SPEAKERS}[who]
  rng = _generator(name, 'plan')

  def normal(size):
    # Without rare outliers, which would leave the scale or the limits.
    return np.clip(rng.standard_normal(size), -2.0, 2.0)

  point = np.array(CENTRES[label]) + VAD_SPREAD * normal(3)
  point = np.round(np.clip(point, *VAD_RANGE), 2)
  difference = point - np.array(CENTRES['neutral'])
  prosody = {}
  for key, (base, *slopes, deviation, limits) in CORRELATES.items():
    change = speaker.vividness * (np.array(slopes) @ difference)
    value = base + change + deviation * normal(1)[0]
    prosody[key] = float(np.clip(value, *limits))
  valence, arousal, dominance = point.tolist()
  return Plan(
    name=name,
    speaker=speaker,
    text=text,
    label=label,
    vad=(valence, arousal, dominance),
    prosody=voice.Prosody(**prosody),
  )


def synthesise(name: str) -> np.ndarray:
  """Speaks one utterance.

  Args:
    name: One of `utterance_names()`; it is also the seed, so that one name
      always gives the same samples.

  Returns:
    Waveform, int16 `[samples]`, 16 kHz, 0.9 to 1.6 s.

  Raises:
    CorpusError: The demo corpus has no such utterance.
  """
  plan_ = plan(name)
  rng = _generator(name, 'voice')
  waveform = voice.speak(TEXTS[plan_.text], plan_.speaker, plan_.prosody, rng)
  return np.round(waveform * 32767).astype(np.int16)


def write_corpus(directory: str | os.PathLike[str]) -> None:
  """Synthesises the corpus, unless it is there already.

  The folder appears complete or not at all: 240 wav files, `manifest.tsv` and a
  `README.txt` that says what they are.

  Args:
    directory: Folder to write; may exist if it is empty.

  Raises:
    CorpusError: The folder holds something other than this corpus, or only a
      part of it.
  """
  directory = pathlib.Path(directory).absolute()
  if _is_written(directory):
    return
  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(
    tempfile.mkdtemp(
      prefix=f'.{directory.name}.', suffix='.tmp', dir=directory.parent
    )
  )
  try:
    seconds = []
    for name in utterance_names():
      waveform = synthesise(name)
      seconds.append(len(waveform) / SAMPLE_RATE)
      scipy.io.wavfile.write(temporary / f'{name}.wav', SAMPLE_RATE, waveform)
    manifest_lib.write_manifest(
      demo_manifest(temporary), temporary / 'manifest.tsv', seconds
    )
    (temporary / 'README.txt').write_text(_README, encoding='utf-8')
    temporary.chmod(0o755)  # mkdtemp makes it private.
    try:
      os.rename(temporary, directory)
    except OSError as error:
      # Another process may have finished the same work a moment earlier.
      if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
        raise
      _is_written(directory)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _is_written(directory: pathlib.Path) -> bool:
  """Whether the corpus is there; raises where something else is."""
  try:
    found = set(os.listdir(directory))
  except FileNotFoundError:
    return False
  except NotADirectoryError as error:
    raise CorpusError(
      f'{directory}: is a file, so the demo corpus cannot be written there; '
      'name a folder.'
    ) from error
  if not found:
    return False
  readme = directory / 'README.txt'
  if not readme.is_file() or readme.read_bytes() != _README.encode():
    raise CorpusError(
      f'{directory}: is not empty and holds no demo corpus of recipe {RECIPE} '
      '(by its README.txt), so nothing was written. Delete the folder, or name '
      'another one.'
    )
  _require_all(directory, _missing(directory))
  return True


def _missing(directory: pathlib.Path) -> list[str]:
  return [
    name
    for name in utterance_names()
    if not (directory / f'{name}.wav').is_file()
  ]


def _require_all(directory: pathlib.Path, missing: list[str]) -> None:
  if missing:
    raise CorpusError(
      f'{directory}: {len(missing)} of the {len(utterance_names())} wav files of '
      'the demo corpus are missing. Delete the folder, and it is synthesised '
      f'again:\n{listed(missing)}'
    )


def demo_manifest(
  directory: str | os.PathLike[str], *, on_error: str = 'raise'
) -> Manifest:
  """Lists the corpus that `write_corpus` wrote, in published order.

  Args:
    directory: The folder.
    on_error: 'raise', or 'skip' to go on without missing files.

  Raises:
    CorpusError: Files are missing.
  """
  root = pathlib.Path(directory).absolute()
  missing = _missing(root)
  if on_error != 'skip':
    _require_all(root, missing)
  absent = set(missing)
  return manifest_lib.check(
    Manifest(
      corpus='demo',
      classes=CLASSES,
      vad_range=VAD_RANGE,
      utterances=tuple(
        _utterance(root, plan(name))
        for name in utterance_names()
        if name not in absent
      ),
      root=root,
      missing=tuple(missing),
    )
  )


def _utterance(root: pathlib.Path, plan_: Plan) -> Utterance:
  valence, arousal, dominance = plan_.vad
  return Utterance(
    id=plan_.name,
    path=root / f'{plan_.name}.wav',
    label=plan_.label,
    speaker=plan_.speaker.name,
    gender=plan_.speaker.gender,
    text=plan_.text,
    valence=valence,
    arousal=arousal,
    dominance=dominance,
  )
