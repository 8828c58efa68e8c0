"""The three feature conventions: what each system hears.

Each convention is a frozen record of parameters and a pure function from one
mono waveform at any sample rate to float32 features. Everything that can be a
jittable operation (cosine transform, deltas, cropping, normalisation) comes
after the store, so that one store serves several models.

| name         | used by                     | result                      |
|--------------|-----------------------------|-----------------------------|
| `librosa22k` | TIM-Net (arXiv:2211.08233)  | log-mel, dB `[frames, 128]` |
| `kaldi16k`   | DSNet                       | log filterbank `[frames, 80]` |
| `wave16k`    | EmoSphere-SER, WavLM        | waveform `[samples]`        |
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from data_prep import audio, resample

# Part of every store's fingerprint: raise it when a convention's numbers change.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Convention:
  """What the conventions share.

  Attributes:
    name: of the convention.
    sample_rate: Hz, to which every waveform is brought.
    bins: size of the last axis of the features, None for a waveform.
  """

  name: ClassVar[str]
  sample_rate: ClassVar[int]
  bins: ClassVar[int | None]

  def parameters(self) -> dict[str, Any]:
    """All parameters by name, ready for JSON."""
    return {'sample_rate': self.sample_rate, **dataclasses.asdict(self)}

  @property
  def frames_per_second(self) -> float:
    """Frames, or samples of a waveform, per second of audio."""
    return float(self.sample_rate)

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Shape of the features of this many samples (by default resampled ones)."""
    raise TypeError(f'{type(self).__name__} is not a feature convention itself')

  def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Features, float32, of a mono waveform `[samples]` with full scale 1.

    Raises:
      audio.AudioError: if the waveform has no samples or is too short.
    """
    raise TypeError(f'{type(self).__name__} is not a feature convention itself')

  def _length(self, samples: int, sample_rate: int | None) -> int:
    """Samples after resampling: rounded up."""
    return -(-samples * self.sample_rate // (sample_rate or self.sample_rate))


@dataclasses.dataclass(frozen=True)
class Librosa22k(Convention):
  """Log-mel spectrogram in dB, `[frames, 128]`, as TIM-Net was trained on.

  The waveform is resampled to 22,050 Hz (with the Kaiser filter of resampy 0.3,
  unless another one is to be compared),
  fitted to `signal_length` samples about its centre, and becomes librosa's
  default mel spectrogram (Slaney's mel scale and area normalisation) in dB, cut
  off 80 dB below its maximum. Its first 39 cosine coefficients
  (`jaxser.ops.dct.mfcc`) are the published MFCCs. The paper's text names other
  frames (50 ms, Hamming); the published features are these.

  Attributes:
    signal_length: samples at 22,050 Hz; a constant of the corpus. Frames are
      `1 + signal_length // 512`.
    fft_length: samples per frame, with a Hann window, zero padded at the edges.
    hop_length: samples between frames.
    floor: the power spectrum's smallest value before the logarithm.
    range_db: dynamic range below an utterance's maximum.
    resampler: one of `resample.RESAMPLERS`; the published features are those of
      the first, and others cost several per cent of a published checkpoint.
  """

  signal_length: int
  fft_length: int = 2048
  hop_length: int = 512
  floor: float = 1e-10
  range_db: float = 80.0
  resampler: str = 'kaiser_best_v03'

  name: ClassVar[str] = 'librosa22k'
  sample_rate: ClassVar[int] = 22050
  bins: ClassVar[int] = 128

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
    """All parameters by name, ready for JSON."""
    sinc = resample.KAISER.get(self.resampler)
    return {
      **super().parameters(),
      **(dataclasses.asdict(sinc) if sinc else {}),
      'bins': self.bins,
    }

  @property
  def frames_per_second(self) -> float:
    """Frames per second of the fitted signal."""
    return self.sample_rate / self.hop_length

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """`(1 + signal_length // hop_length, 128)`, whatever the input."""
    return 1 + self.signal_length // self.hop_length, self.bins

  def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel in dB, float32 `[frames, 128]`; see the class."""
    # They take seconds; the other conventions do without.
    import librosa
    import threadpoolctl

    _check(waveform, self.name)
    signal = resample.resample(
      waveform, sample_rate, self.sample_rate, self.resampler
    )
    signal = fit_centre(signal, self.signal_length)
    # The order of a product's sums depends on its threads, and the last bits of
    # a feature must not depend on how many processes extract.
    with threadpoolctl.threadpool_limits(1):
      power = librosa.feature.melspectrogram(
        y=signal,
        sr=self.sample_rate,
        n_fft=self.fft_length,
        hop_length=self.hop_length,
        n_mels=self.bins,
      )
    decibels = librosa.power_to_db(power, amin=self.floor, top_db=self.range_db)
    return decibels.T.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Kaldi16k(Convention):
  """Kaldi log filterbank, `[frames, 80]`, natural logarithm, for DSNet.

  The waveform is brought to 16,000 Hz (SoX, high quality, where it is not) and
  scaled by 2^15, Kaldi's convention. Edges are snipped: frames are
  `1 + (samples - 640) // 160`. Direct current is removed per frame, there is no
  dither and no normalisation.

  Attributes:
    frame_length_ms: of a frame, with a Hamming window and a power-of-two FFT.
    frame_shift_ms: between frames.
    low_hz, high_hz: the range of the mel filters.
    preemphasis: coefficient, applied per frame.
  """

  frame_length_ms: float = 40.0
  frame_shift_ms: float = 10.0
  low_hz: float = 0.0
  high_hz: float = 8000.0
  preemphasis: float = 0.97

  name: ClassVar[str] = 'kaldi16k'
  sample_rate: ClassVar[int] = 16000
  bins: ClassVar[int] = 80

  def parameters(self) -> dict[str, Any]:
    """All parameters by name, ready for JSON."""
    return {
      **super().parameters(),
      'resampler': 'soxr_hq',
      'window': 'hamming',
      'scale': 2**15,
      'bins': self.bins,
    }

  @property
  def frames_per_second(self) -> float:
    """Frames per second of audio."""
    return 1000 / self.frame_shift_ms

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """`(1 + (samples - 640) // 160, 80)` at 16 kHz; no frame if shorter."""
    length, shift = (
      int(self.sample_rate * milliseconds / 1000)
      for milliseconds in (self.frame_length_ms, self.frame_shift_ms)
    )
    samples = self._length(samples, sample_rate)
    return max(0, 1 + (samples - length) // shift), self.bins

  def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log filterbank, float32 `[frames, 80]`; see the class."""
    import kaldi_native_fbank  # Only here: the other conventions do without.

    _check(waveform, self.name)
    signal = resample.resample_soxr_hq(waveform, sample_rate, self.sample_rate)
    if not self.shape(len(signal))[0]:
      raise audio.AudioError(
        f'{self.name}: the audio lasts '
        f'{1000 * len(waveform) / sample_rate:.1f} ms, less than one frame of '
        f'{self.frame_length_ms:g} ms; leave it out.'
      )
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = self.sample_rate
    options.frame_opts.dither = 0.0
    options.frame_opts.frame_length_ms = self.frame_length_ms
    options.frame_opts.frame_shift_ms = self.frame_shift_ms
    options.frame_opts.window_type = 'hamming'
    options.frame_opts.preemph_coeff = self.preemphasis
    options.frame_opts.remove_dc_offset = True
    options.frame_opts.round_to_power_of_two = True
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = self.bins
    options.mel_opts.low_freq = self.low_hz
    options.mel_opts.high_freq = self.high_hz
    options.use_energy = False
    options.use_log_fbank = True
    options.use_power = True
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
  while the store is written.
  """

  name: ClassVar[str] = 'wave16k'
  sample_rate: ClassVar[int] = 16000
  bins: ClassVar[None] = None

  def parameters(self) -> dict[str, Any]:
    """All parameters by name, ready for JSON."""
    return {**super().parameters(), 'resampler': 'soxr_hq'}

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """`(ceil(samples * 16000 / sample_rate),)`."""
    return (self._length(samples, sample_rate),)

  def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """The waveform at 16 kHz, float32 `[samples]`."""
    _check(waveform, self.name)
    return resample.resample_soxr_hq(waveform, sample_rate, self.sample_rate)


CONVENTIONS: dict[str, type[Convention]] = {
  convention.name: convention for convention in (Librosa22k, Kaldi16k, Wave16k)
}


def by_name(name: str, **parameters: Any) -> Convention:
  """The convention of this name, with its parameters.

  Raises:
    ValueError: if there is none of this name, or it has no such parameter, or
      lacks one.
  """
  if name not in CONVENTIONS:
    raise ValueError(
      f'unknown features {name!r}; valid are {", ".join(CONVENTIONS)}.'
    )
  convention = CONVENTIONS[name]
  fields = dataclasses.fields(convention)
  known = [field.name for field in fields]
  unknown = sorted(set(parameters) - set(known))
  if unknown:
    raise ValueError(
      f'{name} has no parameter {", ".join(unknown)}; valid are '
      f'{", ".join(known) or "none"}.'
    )
  missing = [
    field.name
    for field in fields
    if field.default is dataclasses.MISSING and field.name not in parameters
  ]
  if missing:
    raise ValueError(f'{name} needs a value for {", ".join(missing)}.')
  return convention(**parameters)


def fit_centre(signal: np.ndarray, length: int) -> np.ndarray:
  """Cuts or zero pads `[samples]` to `[length]` about its centre.

  What is missing goes half to the left (rounded down), the rest to the right;
  what is too much is cut from `excess // 2` on.
  """
  missing = length - len(signal)
  if missing < 0:
    return signal[-missing // 2 : -missing // 2 + length]
  return np.pad(signal, (missing // 2, missing - missing // 2))


def _check(waveform: np.ndarray, name: str) -> None:
  if waveform.ndim != 1 or not len(waveform):
    raise audio.AudioError(
      f'{name}: needs a mono waveform [samples] with at least one sample, not '
      f'the shape {list(waveform.shape)}.'
    )
