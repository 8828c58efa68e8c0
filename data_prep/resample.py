"""Convert sample rates as the feature specs name it.

`kaiser_best_v03` and `kaiser_best_v04` are the Kaiser-windowed sincs that
resampy shipped as `kaiser_best` before version 0.4 and ships since (J. O.
Smith, "Digital audio resampling", ccrma.stanford.edu/~jos/resample). They are
written out here because the published features need the first to the last bit
(another filter costs a published checkpoint several per cent), and resampy's
just-in-time compiler alone takes longer than a small corpus and most of the
memory. For two integer rates the output instants repeat with a short period, so
the filter is evaluated once per phase and then applied to all periods at once.

`soxr_hq` is the SoX resampler, librosa's present default.
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class KaiserSinc:
  """A sinc under a Kaiser window, tabulated."""

  num_zeros: int  # Zero crossings on either side.
  precision: int  # The table has 2^precision entries per zero crossing.
  rolloff: float  # Cut-off, relative to the lower Nyquist frequency.
  beta: float  # Of the window.

  @functools.cached_property
  def table(self) -> tuple[np.ndarray, np.ndarray]:
    """The right half, and its increments: [num_zeros * 2^precision + 1] each."""
    size = self.num_zeros * 2**self.precision
    time = np.linspace(0, self.num_zeros, size + 1)
    window = np.kaiser(2 * size + 1, self.beta)[size:]
    table = window * self.rolloff * np.sinc(self.rolloff * time)
    return table, np.diff(table, append=table[-1])


KAISER = {
  'kaiser_best_v03': KaiserSinc(64, 9, 0.9475937167399596, 14.769656459379492),
  'kaiser_best_v04': KaiserSinc(50, 13, 0.9173473712608761, 12.984585247040012),
}
RESAMPLERS = (*KAISER, 'soxr_hq')
# Phases that are worked on together: more for short audio, to save calls.
_PHASES = 512
_MOST_PHASES = 1024
_OUTPUTS = 8192


def resample(
  waveform: np.ndarray, rate: int, new_rate: int, resampler: str
) -> np.ndarray:
  """Resamples with one of `RESAMPLERS`; see the functions below."""
  if resampler in KAISER:
    return resample_kaiser(waveform, rate, new_rate, resampler)
  return resample_soxr_hq(waveform, rate, new_rate)


def resample_kaiser(
  waveform: np.ndarray,
  rate: int,
  new_rate: int = 22050,
  name: str = 'kaiser_best_v03',
  *,
  start: int = 0,
  samples: int | None = None,
  outputs: tuple[int, int] | None = None,
) -> np.ndarray:
  """Resamples with a windowed sinc of resampy, or some output samples only.

  `y(t) = Σ_n x(n) h(t - n)`, h interpolated linearly from a table.

  Args:
    waveform: float `[samples]`, or of a long recording only a part, which
      holds what `inputs_for` says.
    rate: its sample rate, Hz.
    new_rate: the wanted sample rate, Hz.
    name: the filter, see `KAISER`.
    start: sample of the recording with which the waveform begins.
    samples: of the whole recording; by default the waveform is all of it.
    outputs: first output sample, and the first that is no longer wanted; by
      default all `ceil(samples * new_rate / rate)`. They are the same numbers
      whichever are asked for.

  Returns:
    float32 `[outputs]`. Where `samples * new_rate / rate` is not a whole number
    the very last sample is 0, as in librosa.
  """
  samples = len(waveform) if samples is None else samples
  first, last = outputs or (0, -(-samples * new_rate // rate))
  if rate == new_rate:
    return waveform[first - start : last - start].astype(np.float32)
  divisor = int(np.gcd(rate, new_rate))
  step, phases = rate // divisor, new_rate // divisor
  # A short period is repeated, so that one pass still covers many samples.
  repeats = max(1, _PHASES // phases)
  step, phases = step * repeats, phases * repeats

  count = samples * new_rate // rate
  period = first // phases
  periods = max(0, -(-min(last, count) // phases) - period)
  sinc = KAISER[name]
  reach = _reach(sinc, rate, new_rate)
  padded = np.zeros(reach + (periods + 1) * step + reach)
  origin = period * step - reach  # The input sample of padded[0].
  low = max(start, origin)
  high = max(low, min(start + len(waveform), origin + len(padded)))
  padded[low - origin : high - origin] = waveform[low - start : high - start]

  block = _PHASES if _PHASES * periods >= _OUTPUTS else _MOST_PHASES

  output = np.zeros((phases, periods), np.float32)
  for phase in range(0, phases, block):
    end = min(phase + block, phases)
    offset, inputs, weights = _weights(sinc, rate, new_rate, phase, end)
    frames = np.lib.stride_tricks.sliding_window_view(
      padded, int(inputs.max()) + 1
    )
    # One row per input sample, so that a tap takes whole rows.
    frames = frames[offset : offset + periods * step : step].T.copy()
    total = output[phase:end]
    # One tap after the other, rounded to float32 after each, from the centre
    # outwards on the left and then on the right: the order of resampy, whose
    # rounding shows in the logarithm of the quiet parts of a recording.
    taps = np.empty(total.shape)
    for row, weight in zip(inputs, weights, strict=True):
      np.take(frames, row, axis=0, out=taps, mode='clip')
      taps *= weight[:, None]
      np.add(total, taps, out=total, casting='same_kind')
  result = np.zeros(last - first, np.float32)
  made = output.T.reshape(-1)[first - period * phases :]
  known = max(0, min(last, count) - first)
  result[:known] = made[:known]
  return result


def inputs_for(
  outputs: tuple[int, int],
  rate: int,
  new_rate: int,
  samples: int,
  name: str = 'kaiser_best_v03',
) -> tuple[int, int]:
  """Returns which of the `samples` inputs `resample_kaiser` needs for outputs."""
  if rate == new_rate:
    return outputs
  reach = _reach(KAISER[name], rate, new_rate)
  first = outputs[0] * rate // new_rate - reach
  last = -(-outputs[1] * rate // new_rate) + reach
  return max(0, first), min(samples, last)


def resample_soxr_hq(
  waveform: np.ndarray, rate: int, new_rate: int = 16000
) -> np.ndarray:
  """Resamples with SoX at high quality, as `librosa.resample` does by default.

  Both float32; rates in Hz; the result is `[ceil(samples * new_rate / rate)]`.
  """
  if rate == new_rate:
    return waveform.astype(np.float32)
  import soxr  # Only here: a corpus at the wanted rate does not need it.

  wanted = -(-len(waveform) * new_rate // rate)
  result = soxr.resample(
    waveform.astype(np.float32), rate, new_rate, quality='soxr_hq'
  )[:wanted]
  return np.pad(result, (0, wanted - len(result)))


def _stride(sinc: KaiserSinc, rate: int, new_rate: int) -> int:
  """Returns table entries per input sample (a whole number, as in resampy)."""
  return int(min(1.0, new_rate / rate) * 2**sinc.precision)


def _reach(sinc: KaiserSinc, rate: int, new_rate: int) -> int:
  """Returns the input samples that the filter sees on either side."""
  return len(sinc.table[0]) // max(1, _stride(sinc, rate, new_rate)) + 2


@functools.lru_cache(maxsize=32)
def _weights(
  sinc: KaiserSinc, rate: int, new_rate: int, first: int, last: int
) -> tuple[int, np.ndarray, np.ndarray]:
  """Returns the filter's taps for the output samples first <= t < last.

  That is the first input sample used, counted from `_reach` samples before the
  signal; then, in the order in which they are to be summed, the input samples
  counted from that one, int32 `[taps, last - first]`, and their weights,
  float64. The cache is small: rates without a common divisor need many of them.
  """
  table, increments = sinc.table
  scale, stride = min(1.0, new_rate / rate), _stride(sinc, rate, new_rate)
  table, increments = scale * table, scale * increments
  reach = _reach(sinc, rate, new_rate)
  # In whole numbers: the instant t * rate / new_rate = centre + rest/new_rate.
  centres, rests = np.divmod(np.arange(first, last) * rate, new_rate)
  start = int(centres[0])
  fraction = scale * rests / new_rate
  taps = np.arange(reach)[:, None]
  inputs, weights = [], []
  # The centre sample and those before it; then those after it.
  for position, direction, offset in (
    (fraction, -1, 0),
    (scale - fraction, 1, 1),
  ):
    position = position * 2**sinc.precision
    whole = position.astype(np.int64)
    entry = whole + taps * stride
    valid = taps < (len(table) - whole) // stride
    entry = np.where(valid, entry, 0)
    value = table[entry] + (position - whole) * increments[entry]
    inputs.append(
      (centres - start + reach + offset + direction * taps).astype(np.int32)
    )
    weights.append(np.where(valid, value, 0.0))
  return start, np.concatenate(inputs), np.concatenate(weights)
