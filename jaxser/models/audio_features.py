"""From recordings to the features that a trained model was trained on.

A recording that is longer than the model's window is cut as it was in training,
unless it is taken apart into segments. Where there is nothing to recognise,
there is a reason instead.

Nothing here imports JAX, so that the processes that read many files start
quickly.
"""

import dataclasses
import functools
import io
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from data_prep import audio, expanded, workers
from data_prep import features as features_lib
from jaxser.core.errors import UserError
from jaxser.models.output import Prediction, Recording

SILENT = 1e-3
"""A largest sample below this, -60 dB of full scale, is taken for silence."""
QUIET = 1e-2
"""Below this, -40 dB of full scale, there is a warning."""
CLIPPED = 1e-3
"""Share of samples at full scale from which on there is a warning."""
LOUDEST = 4.0
"""Samples beyond this are taken for integers in a float file, and scaled."""
_INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)


class InputError(UserError):
  """Nothing can be predicted for what was given; says what to give."""


@dataclasses.dataclass(frozen=True)
class Input:
  """One recording to be read; with an `error` there is nothing to read.

  `source` is a path, an open binary file, or (samples, rate): an array [samples]
  or [samples, channels] and its sample rate in Hz.
  """

  name: str
  source: pathlib.Path | BinaryIO | tuple[np.ndarray, int]
  error: str = ''


# A recording without its predictions, and the features of it or of its segments:
# float32 [frames, bins] or [samples], as the model takes them (of a log-mel on
# the device the waveform); None where there is an error.
Extracted = tuple[Recording, list[np.ndarray | None]]


def find_inputs(arguments: Sequence[str], stdin: BinaryIO) -> list[Input]:
  """Returns files as given, '-' for stdin, and the audio files of folders.

  A folder without audio among others is an Input with an error.
  """
  if arguments.count('-') > 1:
    raise InputError('"-" (standard input) can be read once; give it once.')
  found = []
  for argument in arguments:
    path = expanded(argument)
    if argument == '-':
      found.append(Input('<stdin>', stdin))
    elif inside := audio.find_recordings(path):
      found += [Input(str(file), file) for file in inside]
    else:
      error = (
        f'{argument}: no audio file in this folder; files ending in '
        f'{" ".join(sorted(audio.SUFFIXES))} are looked for. Give other files by '
        'name.'
      )
      found.append(Input(argument, path, error))
  if all(given.error for given in found):
    raise InputError(' '.join(given.error for given in found))
  return found


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
  """Reads recordings and computes the features of one model.

  Attributes:
    spec: what is computed on the host: `wave16k` for hidden states.
    normalization: mean and standard deviation of waveforms, or None.
    row_shape: shape of the longest features of a piece.
    shortest: the fewest frames or samples that the model takes.
    window: seconds of a recording that the model uses at once.
    frame: seconds of the shortest recording.
    segment: seconds per segment; 0 takes a recording as one.
    on_device: whether features are the waveform, of which the device computes
      the log-mel spectrogram.
  """

  spec: features_lib.Convention
  normalization: tuple[float, float] | None
  row_shape: tuple[int, ...]
  shortest: int
  window: float
  frame: float
  segment: float = 0.0
  on_device: bool = False

  @classmethod
  def for_model(
    cls, description: Any, *, segment: float = 0.0, features_on: str = 'host'
  ) -> 'FeatureExtractor':
    """Returns the extractor for a `jaxser.models.saved.Description`."""
    spec, length = description.feature_spec, description.max_length
    normalization, on_device = description.normalization, False
    row_shape = (length, *([spec.bins] if spec.bins else []))
    shortest = description.system.min_length
    if description.uses_hidden_states:
      # A frame depends on the whole utterance, as far as it was used when the
      # store was made; frames are cut to `max_length` afterwards.
      longest = description.content.get('longest', length)
      row_shape, normalization = (spec.samples(longest),), spec.normalization
      window = spec.samples(length) / spec.sample_rate
      shortest, spec = spec.config.receptive_field, spec.waveform
      frame = shortest / spec.sample_rate
    elif isinstance(spec, features_lib.Librosa22k):
      on_device = features_on == 'device'
      window = spec.signal_length / spec.sample_rate
      frame = spec.fft_length / spec.sample_rate
      row_shape = (spec.signal_length,) if on_device else row_shape
    elif isinstance(spec, features_lib.Kaldi16k):
      shifts = (length - 1) * spec.frame_shift_ms
      window = (spec.frame_length_ms + shifts) / 1000
      frame = spec.frame_length_ms / 1000
    elif isinstance(spec, features_lib.Functionals16k):
      window, frame = math.inf, 0.06
    else:
      window = length / spec.sample_rate
      frame = max(0.025, shortest / spec.sample_rate)
    if features_on == 'device' and spec.bins and not on_device:
      raise InputError(
        f'--features_on=device: {spec.name} features are computed on the host '
        'only; leave the flag out.'
      )
    about = spec, normalization, row_shape, shortest, window, frame
    return cls(*about, segment, on_device)

  def cuts(self, seconds: float) -> bool:
    """Returns whether a part of a piece of this duration is left out."""
    # What is shorter than a step between frames never makes a frame.
    step = max(1 / self.spec.frames_per_second, 1e-3)
    return seconds > self.window + step

  def used(self, seconds: float) -> tuple[float, float]:
    """Returns the part of a recording that one piece covers, in seconds."""
    if not self.cuts(seconds):
      return 0.0, seconds
    centred = isinstance(self.spec, features_lib.Librosa22k)
    start = (seconds - self.window) / 2 if centred else 0.0
    return start, start + self.window

  def extract(self, given: Input) -> Extracted:
    """Reads one recording; what is wrong with it becomes its error."""
    if given.error:
      return _unusable(given, given.error)
    try:
      return self._extract(given)
    except audio.AudioError as error:
      return _unusable(given, str(error))
    except Exception as error:  # One bad file never stops the rest.
      return _unforeseen(given, error)

  def _extract(self, given: Input) -> Extracted:
    source, warnings = given.source, {}
    if isinstance(source, tuple):
      source = _as_file(*source)
    if self.segment:
      parts = audio.read_blocks(source, self.segment, name=given.name)
    else:
      part = functools.partial(self.spec.part, length=self.row_shape[0])
      parts = [audio.read(source, part=part, name=given.name)]
    pieces, features = [], []
    for part in parts:
      piece, found = self._piece(part, warnings)
      pieces.append(piece)
      features.append(found)
    if all(piece.error for piece in pieces):
      raise audio.AudioError(pieces[0].error)
    one = len(pieces) == 1
    recording = Recording(
      name=given.name,
      seconds=part.seconds,
      start=pieces[0].start if one else 0.0,
      end=pieces[0].end if one else part.seconds,
      segments=tuple(pieces) if self.segment else (),
      warnings=tuple(warnings),
    )
    return recording, features

  def _piece(
    self, part: audio.Recording, warnings: dict[str, None]
  ) -> tuple[Prediction, np.ndarray | None]:
    """Returns a segment and its features; what is doubtful joins `warnings`."""
    rate, origin, samples = part.rate, part.start, part.samples
    if self.segment:
      origin, samples = 0, len(part.waveform)
    seconds = samples / rate
    if seconds < self.frame:
      raise audio.AudioError(
        f'lasts {1000 * seconds:.1f} ms, less than one frame of '
        f'{1000 * self.frame:.3g} ms; give a longer recording.'
      )
    place = self.used(seconds)
    first, last = (max(0, round(s * rate) - origin) for s in place)
    if self.segment:
      place = part.start / rate, part.start / rate + seconds
    waveform, scaled = _in_range(part.waveform)
    error, doubts = _level(waveform[first:last])
    warnings |= dict.fromkeys(filter(None, [part.warning, scaled, *doubts]))
    piece = Prediction(start=place[0], end=place[1], error=error)
    if error:
      return piece, None
    compute = self.spec.fitted if self.on_device else self.spec
    features = compute(waveform, rate, start=origin, samples=samples)
    features = features[: self.row_shape[0]]
    if self.normalization is not None:
      from jaxser.data import pipeline  # It imports JAX.

      features = pipeline.normalized(features, self.normalization)
    return piece, features

  def extract_all(
    self, inputs: Sequence[Input], num_workers: int | None = None
  ) -> Iterator[Extracted]:
    """Reads recordings in their order, a few ahead, in some processes."""
    if not all(isinstance(i.source, pathlib.Path) for i in inputs):
      num_workers = 1  # Arrays and open files stay in this process.
    with workers.Pool(
      self.extract, num_workers, len(inputs), lost=_unforeseen
    ) as pool:
      yield from pool.map(inputs)


def _as_file(samples: np.ndarray, rate: int) -> bytes:
  """Returns an array as a WAV file, so that all audio is read one way."""
  import soundfile

  samples, file = np.asarray(samples), io.BytesIO()
  if samples.ndim not in (1, 2) or max(samples.shape[1:], default=1) > 32:
    raise audio.AudioError(
      'an array must be [samples] or [samples, channels], not of the shape '
      f'{list(samples.shape)}.'
    )
  whole = {'int16': 'PCM_16', 'int32': 'PCM_32'}.get(str(samples.dtype))
  samples = samples if whole else samples.astype(np.float32)
  soundfile.write(file, samples, int(rate), whole or 'FLOAT', format='WAV')
  return file.getvalue()


def _in_range(waveform: np.ndarray) -> tuple[np.ndarray, str]:
  """Scales what is far beyond full scale; returns also what was done."""
  peak = float(np.abs(waveform).max())
  if peak <= LOUDEST:
    return waveform, ''
  scale = next((scale for scale in _INTEGER_SCALES if peak <= scale), None)
  if scale is None:
    raise audio.AudioError(
      f'the largest sample is {peak:g} and full scale is 1; normalise the file.'
    )
  return waveform / np.float32(scale), (
    f'out of range: the largest sample is {peak:g} and full scale is 1; all were '
    f'divided by {scale:.0f}'
  )


def _level(waveform: np.ndarray) -> tuple[str, list[str]]:
  """Returns why there is nothing to recognise, or '', and what is doubtful."""
  middle = float(waveform.mean(dtype=np.float64))
  peak = float(np.abs(waveform - middle).max())
  if peak < SILENT:
    return (
      f'silence: no sample is further than {peak:.2g} from the mean, and full '
      f'scale is 1 (at least {SILENT:g} is needed); record it louder.'
    ), []
  clipped = float(np.mean(np.abs(waveform) >= 0.999))
  quiet = f'very quiet: the largest sample is {peak:.2g}, and full scale is 1'
  loud = f'clipped: {100 * clipped:.1f} % of the samples at full scale'
  return '', [quiet] * (peak < QUIET) + [loud] * (clipped >= CLIPPED)


def _unusable(given: Input, text: str) -> Extracted:
  text = text if text.startswith(given.name) else f'{given.name}: {text}'
  return Recording(name=given.name, error=text), []


def _unforeseen(given: Input, error: Exception) -> Extracted:
  last = (str(error).strip().splitlines() or [''])[-1]
  text = f'{given.name}: {type(error).__name__}: {last[:300]}; '
  return _unusable(given, f'{text}convert the file to WAV and try again.')
