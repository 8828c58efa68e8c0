"""The feature specs: what each system takes as its input.

A feature spec is a frozen record of parameters and a pure function from one
mono waveform at any sample rate to float32 features. Everything that can be a
jittable operation (cosine transform, deltas, cropping, normalisation) comes
after the dataset, so that one dataset serves several models.

| name         | used by                     | result                        |
|--------------|-----------------------------|-------------------------------|
| `librosa22k` | TIM-Net (arXiv:2211.08233)  | log-mel, dB `[frames, 128]`   |
| `kaldi16k`   | DSNet                       | log filterbank `[frames, 80]` |
| `wave16k`    | EmoSphere-SER, WavLM        | waveform `[samples]`          |
| `egemaps`    | the linear baseline         | 88 functionals `[1, 88]`      |
| `compare`    | the linear baseline         | functionals `[1, 6373]`       |
"""

import dataclasses
import functools
import importlib.util
import sys
from typing import Any, ClassVar

import numpy as np

from data_prep import audio, resample
from data_prep.errors import UserError

# Part of every fingerprint: raise it when the numbers of a spec change.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Convention:
  """What the feature specs share."""

  name: ClassVar[str]
  sample_rate: ClassVar[int]  # Hz, to which every waveform is resampled.
  bins: ClassVar[int | None]  # Size of the last axis, None for a waveform.
  fixed: ClassVar[dict[str, Any]] = {}  # Parameters that are no fields.

  def parameters(self) -> dict[str, Any]:
    """Returns all parameters by name, ready for JSON."""
    fields = dataclasses.asdict(self)
    return {'sample_rate': self.sample_rate, **fields, **self.fixed}

  @property
  def frames_per_second(self) -> float:
    """Returns the frames, or samples of a waveform, per second of audio."""
    return float(self.sample_rate)

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Returns the shape of the features of so many (resampled) samples."""
    raise NotImplementedError

  def part(
    self, samples: int, sample_rate: int, length: int | None = None
  ) -> tuple[int, int]:
    """Returns the first and one past the last sample that features depend on.

    As the `part` of `audio.read` it keeps memory independent of the length of
    a recording.
    """
    if length is not None:
      # A second more: what lies beyond shows in the last frame and its filter.
      seconds = length / self.frames_per_second + 1
      samples = min(samples, int(seconds * sample_rate))
    return 0, samples

  def __call__(
    self,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    start: int = 0,
    samples: int | None = None,
  ) -> np.ndarray:
    """Computes the features of a recording.

    Args:
      waveform: mono `[samples]` with full scale 1; of a long recording only a
        part, see `part`.
      sample_rate: of the waveform, Hz.
      start: sample of the recording with which the waveform begins.
      samples: of the whole recording; by default the waveform is all of it.

    Returns:
      float32, as `shape` says.

    Raises:
      audio.AudioError: if the waveform has no samples or is too short.
    """
    return self.compute(
      self.fitted(waveform, sample_rate, start=start, samples=samples)
    )

  def fitted(
    self,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    start: int = 0,
    samples: int | None = None,
  ) -> np.ndarray:
    """Returns the resampled signal, float32 `[samples]`; see `__call__`."""
    if waveform.ndim != 1 or not len(waveform):
      raise audio.AudioError(
        f'{self.name}: needs a mono waveform [samples] with at least one '
        f'sample, not the shape {list(waveform.shape)}.'
      )
    samples = len(waveform) if samples is None else samples
    return self._resampled(waveform, sample_rate, start, samples)

  def _resampled(self, waveform, sample_rate, start, samples) -> np.ndarray:
    del start, samples
    return resample.resample_soxr_hq(waveform, sample_rate, self.sample_rate)

  def compute(self, signal: np.ndarray) -> np.ndarray:
    """Computes the features of a signal that `fitted` returned."""
    raise NotImplementedError

  def _length(self, samples: int, sample_rate: int | None) -> int:
    """Returns the number of samples after resampling, rounded up."""
    return -(-samples * self.sample_rate // (sample_rate or self.sample_rate))


@dataclasses.dataclass(frozen=True)
class Librosa22k(Convention):
  """Log-mel spectrogram in dB, `[frames, 128]`, as TIM-Net was trained on.

  The waveform is resampled to 22,050 Hz (with the Kaiser filter of resampy 0.3,
  unless another one is to be compared), fitted to `signal_length` samples about
  its centre, and becomes librosa's default mel spectrogram (Slaney's mel scale
  and area normalisation) in dB, cut off 80 dB below its maximum. Its first 39
  cosine coefficients (`jaxser.ops.dct.mfcc`) are the published MFCCs. The
  paper's text names other frames (50 ms, Hamming); the published features are
  these.

  """

  signal_length: int  # Samples at 22,050 Hz; a constant of the corpus.
  fft_length: int = 2048  # Samples per Hann frame, zero padded at the edges.
  hop_length: int = 512  # Frames are `1 + signal_length // hop_length`.
  floor: float = 1e-10  # Smallest power before the logarithm.
  range_db: float = 80.0  # Dynamic range below an utterance's maximum.
  # One of `resample.RESAMPLERS`: the published features have the first, others
  # cost several per cent of a published checkpoint.
  resampler: str = 'kaiser_best_v03'

  name: ClassVar[str] = 'librosa22k'
  sample_rate: ClassVar[int] = 22050
  bins: ClassVar[int] = 128
  fixed: ClassVar[dict[str, Any]] = {'bins': 128}

  def __post_init__(self):
    if isinstance(self.signal_length, bool) or not (
      isinstance(self.signal_length, int) and self.signal_length > 0
    ):
      raise ValueError(
        f'librosa22k: signal_length must be a whole number of samples, at '
        f'least 1, not {self.signal_length!r} (EmoDB: 96000).'
      )
    if self.resampler not in resample.RESAMPLERS:
      raise ValueError(
        f'librosa22k: resampler {self.resampler!r} is unknown; choose one of '
        f'{", ".join(resample.RESAMPLERS)}.'
      )

  def parameters(self) -> dict[str, Any]:
    """Returns all parameters by name, ready for JSON."""
    sinc = resample.KAISER.get(self.resampler)
    return super().parameters() | (dataclasses.asdict(sinc) if sinc else {})

  @property
  def frames_per_second(self) -> float:
    """Returns the frames per second of the fitted signal."""
    return self.sample_rate / self.hop_length

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Returns `(1 + signal_length // hop_length, 128)`, whatever the input."""
    return 1 + self.signal_length // self.hop_length, self.bins

  def part(
    self, samples: int, sample_rate: int, length: int | None = None
  ) -> tuple[int, int]:
    """Returns the samples that the centre of the resampled signal needs."""
    outputs = self._centre(samples, sample_rate)
    if outputs is None or self.resampler not in resample.KAISER:
      return 0, samples
    return resample.inputs_for(
      outputs, sample_rate, self.sample_rate, samples, self.resampler
    )

  def _centre(self, samples: int, rate: int) -> tuple[int, int] | None:
    """Returns which resampled samples are kept; None keeps all."""
    left = (self._length(samples, rate) - self.signal_length) // 2
    return (left, left + self.signal_length) if left >= 0 else None

  def _resampled(self, waveform, sample_rate, start, samples) -> np.ndarray:
    if self.resampler in resample.KAISER:
      signal = resample.resample_kaiser(
        waveform,
        sample_rate,
        self.sample_rate,
        self.resampler,
        start=start,
        samples=samples,
        outputs=self._centre(samples, sample_rate),
      )
    else:
      signal = super()._resampled(waveform, sample_rate, start, samples)
    return fit_centre(signal, self.signal_length)

  def compute(self, signal: np.ndarray) -> np.ndarray:
    """Computes the log-mel in dB, float32 `[frames, 128]`; see the class."""
    import threadpoolctl

    # librosa's arithmetic, step by step, without librosa: its import alone may
    # compile for a minute, and fails where no cache can be written.
    padded = np.pad(signal, self.fft_length // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft_length)
    turns = np.arange(self.fft_length) * (2 * np.pi / self.fft_length)
    windowed = frames[:: self.hop_length] * (0.5 - 0.5 * np.cos(turns))
    spectrum = np.fft.rfft(windowed).astype(np.complex64)
    # The order of a product's sums depends on its threads, and the last bits of
    # a feature must not depend on how many processes extract.
    with threadpoolctl.threadpool_limits(1):
      power = np.abs(spectrum) ** 2 @ mel_filters(
        self.sample_rate, self.fft_length, self.bins
      )
    decibels = 10 * np.log10(np.maximum(power, np.float32(self.floor)))
    return np.maximum(decibels, decibels.max() - np.float32(self.range_db))


@dataclasses.dataclass(frozen=True)
class Kaldi16k(Convention):
  """Kaldi log filterbank, `[frames, 80]`, natural logarithm, for DSNet.

  The waveform is resampled to 16,000 Hz (SoX, high quality, where it has
  another rate) and scaled by 2^15, as Kaldi does. Edges are snipped: frames are
  `1 + (samples - 640) // 160`. Direct current is removed per frame, there is no
  dither and no normalisation.

  """

  frame_length_ms: float = 40.0  # A Hamming window and a power-of-two FFT.
  frame_shift_ms: float = 10.0
  low_hz: float = 0.0  # Range of the mel filters.
  high_hz: float = 8000.0
  preemphasis: float = 0.97  # Applied per frame.

  name: ClassVar[str] = 'kaldi16k'
  sample_rate: ClassVar[int] = 16000
  bins: ClassVar[int] = 80
  fixed: ClassVar[dict[str, Any]] = {
    'resampler': 'soxr_hq',
    'window': 'hamming',
    'scale': 2**15,
    'bins': 80,
  }

  @property
  def frames_per_second(self) -> float:
    """Returns the frames per second of audio."""
    return 1000 / self.frame_shift_ms

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Returns `(1 + (samples - 640) // 160, 80)` at 16 kHz; 0 if shorter."""
    length, shift = (
      int(self.sample_rate * milliseconds / 1000)
      for milliseconds in (self.frame_length_ms, self.frame_shift_ms)
    )
    samples = self._length(samples, sample_rate)
    return max(0, 1 + (samples - length) // shift), self.bins

  def compute(self, signal: np.ndarray) -> np.ndarray:
    """Computes the log filterbank, float32 `[frames, 80]`; see the class."""
    import kaldi_native_fbank  # Only here: the other specs do without.

    if not self.shape(len(signal))[0]:
      raise audio.AudioError(
        f'{self.name}: the audio lasts '
        f'{1000 * len(signal) / self.sample_rate:.1f} ms, less than one frame '
        f'of {self.frame_length_ms:g} ms; leave it out.'
      )
    options = kaldi_native_fbank.FbankOptions()
    # Whatever is not named is so by default: power, logarithm, no energy,
    # direct current removed, power-of-two FFT, edges snipped.
    frames, mel = options.frame_opts, options.mel_opts
    frames.samp_freq, frames.dither = self.sample_rate, 0.0
    frames.frame_length_ms = self.frame_length_ms
    frames.frame_shift_ms = self.frame_shift_ms
    frames.window_type, frames.preemph_coeff = 'hamming', self.preemphasis
    mel.num_bins = self.bins
    mel.low_freq, mel.high_freq = self.low_hz, self.high_hz
    extractor = kaldi_native_fbank.OnlineFbank(options)
    extractor.accept_waveform(self.sample_rate, signal * np.float32(2**15))
    extractor.input_finished()
    return np.stack(
      [extractor.get_frame(i) for i in range(extractor.num_frames_ready)]
    ).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Wave16k(Convention):
  """The waveform itself at 16,000 Hz, `[samples]`, for WavLM.

  Resampled by SoX at high quality where needed. The mean and standard deviation
  over all samples of a corpus, with which it is normalised later, are gathered
  while the dataset is written.
  """

  name: ClassVar[str] = 'wave16k'
  sample_rate: ClassVar[int] = 16000
  bins: ClassVar[None] = None
  fixed: ClassVar[dict[str, Any]] = {'resampler': 'soxr_hq'}

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Returns `(ceil(samples * 16000 / sample_rate),)`."""
    return (self._length(samples, sample_rate),)

  def compute(self, signal: np.ndarray) -> np.ndarray:
    """Returns the signal itself."""
    return signal


@dataclasses.dataclass(frozen=True)
class Functionals16k(Convention):
  """One vector per utterance, by openSMILE, as a single frame `[1, bins]`.

  The waveform is resampled to 16,000 Hz (SoX, high quality, where it has
  another rate). The package `opensmile` is an extra, `jaxser[opensmile]`; its
  licence allows research, not commercial products.
  """

  feature_set: ClassVar[str]  # A name of `opensmile.FeatureSet`.
  sample_rate: ClassVar[int] = 16000

  def __post_init__(self):
    if importlib.util.find_spec('opensmile') is None:
      raise UserError(
        f'{self.name}: needs the package opensmile: pip install '
        "-e '.[opensmile]'. Its licence allows research only; the features "
        'of --features=kaldi16k do without.'
      )

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Returns `(1, bins)`, whatever the input."""
    return 1, self.bins

  def part(
    self, samples: int, sample_rate: int, length: int | None = None
  ) -> tuple[int, int]:
    """Returns the whole recording, on all of which its one frame depends."""
    return 0, samples

  def compute(self, signal: np.ndarray) -> np.ndarray:
    """Computes the functionals, float32 `[1, bins]`."""
    if len(signal) < 0.06 * self.sample_rate:
      raise audio.AudioError(
        f'{self.name}: the audio lasts '
        f'{1000 * len(signal) / self.sample_rate:.1f} ms, less than one frame '
        'of 60 ms; leave it out.'
      )
    # openSMILE aborts such a process.
    if 'tensorflow' in sys.modules:
      raise UserError(
        'openSMILE and TensorFlow cannot share a process; give --num_workers=2 or '
        'more, so that other processes extract features.'
      )
    values = _smile(self.feature_set)(signal, self.sample_rate)
    return values.reshape(1, self.bins).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Egemaps(Functionals16k):
  """eGeMAPSv02, `[1, 88]` (Eyben et al. 2016, IEEE Trans. Affect. Comput.)."""

  name: ClassVar[str] = 'egemaps'
  bins: ClassVar[int] = 88
  feature_set: ClassVar[str] = 'eGeMAPSv02'
  fixed: ClassVar[dict[str, Any]] = {
    'resampler': 'soxr_hq',
    'feature_set': 'eGeMAPSv02',
  }


@dataclasses.dataclass(frozen=True)
class Compare(Functionals16k):
  """ComParE_2016, `[1, 6373]` (Schuller et al., Interspeech 2016)."""

  name: ClassVar[str] = 'compare'
  bins: ClassVar[int] = 6373
  feature_set: ClassVar[str] = 'ComParE_2016'
  fixed: ClassVar[dict[str, Any]] = {
    'resampler': 'soxr_hq',
    'feature_set': 'ComParE_2016',
  }


@functools.cache
def _smile(feature_set: str) -> Any:
  """Returns openSMILE's extractor of a feature set."""
  import opensmile

  return opensmile.Smile(
    feature_set=opensmile.FeatureSet[feature_set],
    feature_level=opensmile.FeatureLevel.Functionals,
  )


CONVENTIONS: dict[str, type[Convention]] = {
  spec.name: spec for spec in (Librosa22k, Kaldi16k, Wave16k, Egemaps, Compare)
}


def by_name(name: str, **parameters: Any) -> Convention:
  """Returns the feature spec of this name; ValueError if there is none."""
  if name not in CONVENTIONS:
    raise ValueError(
      f'unknown features {name!r}; valid are {", ".join(CONVENTIONS)}.'
    )
  return CONVENTIONS[name](**parameters)


@functools.cache
def mel_filters(sample_rate: int, fft_length: int, bins: int) -> np.ndarray:
  """Returns triangles of area 1 between neighbouring mel frequencies.

  Slaney's mel scale: linear up to 1 kHz, then 27 steps per factor of 6.4. The
  filters are those of `librosa.filters.mel`.

  Args:
    sample_rate: Hz.
    fft_length: of the spectrum, whose frequencies are `k sample_rate /
      fft_length` for `k <= fft_length / 2`.
    bins: number of triangles between 0 Hz and the Nyquist frequency.

  Returns:
    float32 `[fft_length // 2 + 1, bins]`, not to be written to.
  """
  linear, knee, step = 200.0 / 3, 1000.0, np.log(6.4) / 27
  nyquist = sample_rate / 2
  top = min(nyquist, knee) / linear + np.log(max(nyquist, knee) / knee) / step
  mels = np.linspace(0, top, bins + 2)
  corners = np.where(
    mels < knee / linear,
    mels * linear,
    knee * np.exp(step * (mels - knee / linear)),
  )
  low, middle, high = corners[:-2], corners[1:-1], corners[2:]
  at = np.fft.rfftfreq(fft_length, 1 / sample_rate)[:, None]
  rising, falling = (at - low) / (middle - low), (high - at) / (high - middle)
  triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
  filters = (triangles * (2 / (high - low))).astype(np.float32)
  filters.flags.writeable = False
  return filters


def fit_centre(signal: np.ndarray, length: int) -> np.ndarray:
  """Cuts or zero pads `[samples]` to `[length]` about its centre.

  What is missing goes half to the left (rounded down), the rest to the right;
  what is too much is cut from `excess // 2` on.
  """
  missing = length - len(signal)
  if missing < 0:
    return signal[-missing // 2 : -missing // 2 + length]
  return np.pad(signal, (missing // 2, missing - missing // 2))
