"""From audio files to what a trained model hears of them.

The feature convention comes with the model. A recording that is longer than
what the model heard of an utterance in training is cut as it was in training,
unless it is taken apart into segments.
"""

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from data_prep import audio, resample, workers
from data_prep import features as features_lib
from jaxser.core.errors import UserError
from jaxser.data import pipeline
from jaxser.models.frozen_wavlm import HiddenStates
from jaxser.models.saved import Description

SUFFIXES = frozenset(
  {'.wav', '.wave', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff'}
  | {'.aifc', '.au', '.snd', '.caf', '.w64', '.rf64', '.sph', '.nist'}
)
"""Files of a folder that are taken for audio."""

FEATURES_ON = ('host', 'device')


class InputError(UserError):
  """Nothing can be predicted for what was given; says what to give."""


@dataclasses.dataclass(frozen=True)
class Input:
  """One recording to be read.

  Attributes:
    name: for people.
    source: where it is.
    error: why there is nothing to read, '' if there may be.
  """

  name: str
  source: pathlib.Path | BinaryIO
  error: str = ''


@dataclasses.dataclass(frozen=True)
class Piece:
  """What the model hears at once.

  Attributes:
    start, end: seconds from the beginning of the recording.
    features: float32 [frames, bins] or [samples]; with features on the device
      the fitted waveform [samples].
  """

  start: float
  end: float
  features: np.ndarray


@dataclasses.dataclass(frozen=True)
class Heard:
  """One recording, or why it cannot be used.

  Attributes:
    name: for people.
    seconds: duration.
    pieces: one, or one per segment; empty if there is an error.
    error: '' if all is well.
  """

  name: str
  seconds: float = 0.0
  pieces: tuple[Piece, ...] = ()
  error: str = ''


def find_inputs(arguments: Sequence[str], stdin: BinaryIO) -> list[Input]:
  """Files as given, the audio files of folders (sorted, with subfolders).

  Args:
    arguments: paths; '-' is the standard input.
    stdin: the standard input.

  Raises:
    InputError: if there is nothing but folders without audio, or '-' is given
      twice. Among others such a folder is an Input with an error.
  """
  found = []
  for argument in arguments:
    if argument == '-':
      if any(i.source is stdin for i in found):
        raise InputError('"-" (standard input) can be read once; give it once.')
      found.append(Input('<stdin>', stdin))
      continue
    path = pathlib.Path(argument)
    if not path.is_dir():
      found.append(Input(argument, path))
      continue
    inside = sorted(
      p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file()
    )
    if not inside:
      error = (
        f'{argument}: no audio file in this folder; files ending in '
        f'{" ".join(sorted(SUFFIXES))} are looked for. Give other files by name.'
      )
      found.append(Input(argument, path, error))
    found += [Input(str(p), p) for p in inside]
  if all(given.error for given in found):
    raise InputError(' '.join(given.error for given in found))
  return found


def window(description: Description) -> float:
  """Seconds of a recording that the model hears at once."""
  convention = description.convention
  if isinstance(convention, features_lib.Librosa22k):
    return convention.signal_length / convention.sample_rate
  if isinstance(convention, features_lib.Kaldi16k):
    shifts = (description.max_length - 1) * convention.frame_shift_ms
    return (convention.frame_length_ms + shifts) / 1000
  if isinstance(convention, HiddenStates):
    return convention.samples(description.max_length) / convention.sample_rate
  return description.max_length / convention.sample_rate


class Ears:
  """Reads recordings and computes what the model hears of them.

  Attributes:
    window: seconds that the model hears at once.
    row_shape: shape of the longest features of a piece. A model of hidden
      states gets waveforms, of which `jaxser.models.predictor` makes them.
    shortest: the fewest samples or frames that can be answered for.
  """

  def __init__(
    self,
    description: Description,
    *,
    segment: float = 0.0,
    features_on: str = 'host',
  ):
    """Prepares to hear for one model.

    Args:
      description: of the model.
      segment: seconds per segment; 0 hears a recording once.
      features_on: 'host' computes whole features; with 'device' the waveform is
        prepared here and `jaxser.ops.log_mel` does the rest.

    Raises:
      InputError: if the convention cannot be computed on the device.
    """
    self._convention = description.convention
    self._normalization = description.normalization
    self._segment = segment
    self._step = 1 / self._convention.frames_per_second
    self.window = window(description)
    self.on_device = features_on == 'device'
    bins = self._convention.bins
    self.row_shape = (description.max_length, *([bins] if bins else []))
    # WavLM gives no frame for less.
    self.shortest = getattr(description.system, 'min_length', 1)
    if isinstance(self._convention, HiddenStates):
      states, bins = self._convention, None
      self._convention = states.waveform
      self._normalization = states.normalization
      # A frame knows of the whole utterance, as far as it was heard when the
      # store was made; frames are cut to `max_length` afterwards.
      self.row_shape = (states.samples(description.longest),)
      self.shortest = states.extractor.config.receptive_field
    if self.on_device and bins:
      if not isinstance(self._convention, features_lib.Librosa22k):
        raise InputError(
          f'--features_on=device: {self._convention.name} features are computed '
          'on the host only; leave the flag out.'
        )
      self.row_shape = (self._convention.signal_length,)

  def cuts(self, seconds: float) -> bool:
    """Whether a part of a piece of this duration is left out."""
    # What is shorter than a step between frames never makes a frame.
    return seconds > self.window + max(self._step, 1e-3)

  def heard(self, seconds: float) -> tuple[float, float]:
    """The part of a recording that one piece covers, in seconds."""
    if not self.cuts(seconds):
      return 0.0, seconds
    if isinstance(self._convention, features_lib.Librosa22k):
      start = (seconds - self.window) / 2
      return start, start + self.window
    return 0.0, self.window

  def hear(self, given: Input) -> Heard:
    """Reads one recording; what is wrong with it becomes its error."""
    try:
      waveform, rate = audio.decode(given.source, name=given.name)
      seconds = len(waveform) / rate
      pieces = tuple(
        Piece(
          start / rate, stop / rate, self._features(waveform[start:stop], rate)
        )
        for start, stop in self._segments(len(waveform), rate)
      )
    except audio.AudioError as error:
      return Heard(given.name, error=_named(given.name, str(error)))
    except Exception as error:  # One bad file never stops the rest.
      return Heard(given.name, error=_unforeseen(given.name, error))
    if not self._segment:
      pieces = (Piece(*self.heard(seconds), pieces[0].features),)
    return Heard(given.name, seconds, pieces)

  def _segments(self, samples: int, rate: int) -> list[tuple[int, int]]:
    """First and last sample of each; the last one ends with the recording."""
    size = max(1, round(self._segment * rate)) if self._segment else samples
    if samples <= size:
      return [(0, samples)]
    starts = [*range(0, samples - size, size), samples - size]
    return [(start, start + size) for start in starts]

  def _features(self, waveform: np.ndarray, rate: int) -> np.ndarray:
    # A float file may hold values whose power is beyond any number.
    with np.errstate(over='ignore', invalid='ignore'):
      if self.on_device and self._convention.bins:
        signal = resample.resample(
          waveform,
          rate,
          self._convention.sample_rate,
          self._convention.resampler,
        )
        features = features_lib.fit_centre(signal, self.row_shape[0])
        finite = np.isfinite(np.square(features)).all()
      else:
        features = self._convention(waveform, rate)
        finite = np.isfinite(features).all()
    if not finite:
      raise audio.AudioError(
        f'the {self._convention.name} features are not finite; the largest '
        f'sample is {np.abs(waveform).max():g} and full scale is 1; normalise '
        'the file.'
      )
    return self._finished(features)

  def _finished(self, features: np.ndarray) -> np.ndarray:
    """Cut and normalised as in training."""
    features = features[: self.row_shape[0]]
    if len(features) < self.shortest:
      raise audio.AudioError(
        f'the recording gives {len(features)} values at '
        f'{self._convention.sample_rate} Hz, the model needs at least '
        f'{self.shortest}; give a longer one.'
      )
    return pipeline.normalized(features, self._normalization)

  def hear_all(
    self, inputs: Sequence[Input], num_workers: int | None = None
  ) -> Iterator[Heard]:
    """All recordings in their order, read ahead in bounded memory.

    Many files are read by several processes, see `data_prep.workers`; segments
    and waveforms for the device by threads.
    """
    heard = self._hear_files([i for i in inputs if not i.error], num_workers)
    for given in inputs:
      if given.error:
        yield Heard(given.name, error=given.error)
      else:
        yield next(heard)

  def _hear_files(
    self, inputs: Sequence[Input], num_workers: int | None
  ) -> Iterator[Heard]:
    paths = all(isinstance(i.source, pathlib.Path) for i in inputs)
    if self._segment or self.on_device or not paths:
      # What librosa does is not safe in threads at the same time.
      threads = 1
      if self.on_device:
        threads = num_workers or workers.default_workers()
      yield from _ordered(self.hear, inputs, threads)
      return
    left = list(inputs)
    while left:
      with workers.Pool(self._convention, num_workers, len(left)) as pool:
        if pool.num_workers == 1:
          yield from _ordered(self.hear, left, 1)
          return
        done = 0
        try:
          for result in pool.map(i.source for i in left):
            yield self._from_worker(left[done], result)
            done += 1
        except workers.WorkerError as error:
          # Its process may be gone, so the rest gets new ones.
          name = left[done].name
          yield Heard(name, error=_unforeseen(name, error))
          done += 1
      left = left[done:]

  def _from_worker(self, given: Input, result: workers.Extracted) -> Heard:
    if result.error:
      return Heard(given.name, error=_named(given.name, result.error))
    try:
      features = self._finished(result.features)
    except audio.AudioError as error:
      return Heard(given.name, error=_named(given.name, str(error)))
    piece = Piece(*self.heard(result.seconds), features)
    return Heard(given.name, result.seconds, (piece,))


def _ordered(
  function: Callable[[Input], Heard], inputs: Iterable[Input], threads: int
) -> Iterator[Heard]:
  """map() by threads that run a few items ahead."""
  waiting: collections.deque[concurrent.futures.Future] = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    try:
      for given in inputs:
        waiting.append(pool.submit(function, given))
        if len(waiting) > 2 * threads:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()


def _named(name: str, message: str) -> str:
  return message if message.startswith(name) else f'{name}: {message}'


def _unforeseen(name: str, error: Exception) -> str:
  last = (str(error).strip().splitlines() or [''])[-1]
  return (
    f'{name}: {type(error).__name__}: {last[:300]}; convert the file to WAV and '
    'try again.'
  )
