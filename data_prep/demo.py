"""The demo corpus: synthetic speech, so that everything runs with no data.

Six invented speakers say four nonsense texts in five emotions, two versions
each: 240 mono wav files of about one second, 16 kHz, 16 bit.

Every utterance has a *known* point in valence, arousal and dominance: the
centre of its class plus an offset of its own. The point, not the class, drives
the prosody (`demo.toml`), in directions reported for human speech: Banse &
Scherer (1996), Schröder et al. (2001), Juslin & Laukka (2003), Goudbeek &
Scherer (2010), Waaramaa et al. (2010). So classes and VAD can both be learnt,
and both with some error.

A score on it says that a program works. It says nothing about a method.
"""

import errno
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile
import tomllib
import types
from typing import NamedTuple

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
RECIPE = 1  # Counts up whenever a name would sound different.

_RECIPE = tomllib.loads(
  pathlib.Path(__file__).with_name('demo.toml').read_text('utf-8')
)
SPEAKERS = tuple(Speaker(n, *v) for n, v in _RECIPE['speakers'].items())
TEXTS, CENTRES = _RECIPE['texts'], _RECIPE['centres']
VAD_SPREAD = 0.45  # Standard deviation of the offset that each utterance adds.

_README = f"""SYNTHETIC SPEECH - the jaxser demo corpus, recipe {RECIPE}

These {len(CLASSES) * len(SPEAKERS) * len(TEXTS) * 2} files were computed. Nobody spoke them, no emotion was felt, and
the "speakers" do not exist. They let jaxser run and be tested without any data.
Do not report a score on them as a result: it says nothing about human speech.

Names: SPEAKER-TEXT-EMOTION-VERSION.wav; f is a female voice, m a male one.
manifest.tsv holds the label of each file and the valence, arousal and dominance
(1 to 7) that its prosody was computed from.

To the extent possible under law, all rights to these files are waived
(CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/).
"""


class Plan(NamedTuple):
  """All that the name of an utterance decides."""

  speaker: Speaker
  text: str  # Key of `TEXTS`.
  label: str
  vad: tuple[float, float, float]
  prosody: types.SimpleNamespace  # See `voice.speak`.


@functools.cache
def utterance_names() -> tuple[str, ...]:
  """Returns the 240 names in published order: by class, naturally sorted."""
  return tuple(
    f'{speaker.name}-{text}-{label}-{version}'
    for label in CLASSES
    for speaker in SPEAKERS
    for text in TEXTS
    for version in '12'
  )


def _generator(name: str, use: str) -> np.random.Generator:
  digest = hashlib.sha256(f'{RECIPE}/{name}/{use}'.encode()).digest()
  return np.random.Generator(np.random.PCG64(int.from_bytes(digest, 'big')))


def plan(name: str) -> Plan:
  """Decides the VAD point and the prosody of an utterance."""
  if name not in utterance_names():
    raise CorpusError(
      f'{name!r} is not an utterance of the demo corpus. Names are '
      f'SPEAKER-TEXT-EMOTION-VERSION, like {utterance_names()[0]!r}; speakers: '
      f'{", ".join(s.name for s in SPEAKERS)}; texts: {", ".join(TEXTS)}; '
      f'emotions: {", ".join(CLASSES)}; versions: 1, 2.'
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
  for key, (base, *slopes, deviation, limits) in _RECIPE['correlates'].items():
    change = speaker.vividness * (np.array(slopes) @ difference)
    value = base + change + deviation * normal(1)[0]
    prosody[key] = float(np.clip(value, *limits))
  return Plan(
    speaker,
    text,
    label,
    tuple(point.tolist()),
    types.SimpleNamespace(**prosody),
  )


def synthesise(name: str) -> np.ndarray:
  """Speaks one utterance."""
  plan_ = plan(name)
  rng = _generator(name, 'voice')
  waveform = voice.speak(TEXTS[plan_.text], plan_.speaker, plan_.prosody, rng)
  return np.round(waveform * 32767).astype(np.int16)


def write_corpus(directory: str | os.PathLike[str]) -> None:
  """Synthesises the corpus, unless it is there already.

  The folder appears complete or not at all: 240 wav files, `manifest.tsv` and a
  `README.txt` that says what they are.
  """
  directory = pathlib.Path(directory).absolute()
  temporary = None
  try:
    if _is_written(directory):
      return
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(
      tempfile.mkdtemp('.tmp', f'.{directory.name}.', directory.parent)
    )
    _write(temporary)
    temporary.chmod(0o755)  # mkdtemp makes it private.
    os.rename(temporary, directory)
  except OSError as error:
    # Another process may have finished the same work a moment earlier.
    finished = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
    if not (finished and directory.is_dir() and _is_written(directory)):
      raise CorpusError(
        f'{error.filename or directory}: the demo corpus cannot be written '
        f'({error.strerror}); make room or choose another --data_dir.'
      ) from error
  finally:
    if temporary:
      shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: pathlib.Path) -> None:
  utterances, seconds = [], []
  for name in utterance_names():
    path, waveform = folder / f'{name}.wav', synthesise(name)
    scipy.io.wavfile.write(path, SAMPLE_RATE, waveform)
    seconds.append(len(waveform) / SAMPLE_RATE)
    speaker, text, label, vad, _ = plan(name)
    utterances.append(
      Utterance(name, path, label, speaker.name, speaker.gender, text, '', *vad)
    )
  manifest = Manifest('demo', CLASSES, VAD_RANGE, tuple(utterances), folder)
  manifest_lib.write_manifest(manifest, folder / 'manifest.tsv', seconds)
  (folder / 'README.txt').write_text(_README, encoding='utf-8')


def _is_written(directory: pathlib.Path) -> bool:
  """Returns whether the corpus is there; raises where something else is."""
  try:
    found = set(os.listdir(directory))
  except FileNotFoundError:
    return False
  except NotADirectoryError as error:
    raise CorpusError(
      f'{directory}: is a file, or lies below one, so the demo corpus cannot be '
      'written there; name a folder.'
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
  missing = [n for n in utterance_names() if f'{n}.wav' not in found]
  if missing:
    raise CorpusError(
      f'{directory}: {len(missing)} of the {len(utterance_names())} wav files of '
      'the demo corpus are missing. Delete the folder, and it is synthesised '
      f'again:\n{listed(missing)}'
    )
  return True
