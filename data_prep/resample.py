"""The two sample rate converters that the feature conventions name.

`kaiser_best_v03` is the Kaiser-windowed sinc that resampy shipped as
`kaiser_best` before version 0.4 (J. O. Smith, "Digital audio resampling",
ccrma.stanford.edu/~jos/resample). For two integer rates the output instants
repeat with a short period, so the filter is evaluated once per phase and then
applied to all periods at once. The numbers are resampy's, without its
just-in-time compiler, whose start alone takes longer than a small corpus and
whose memory, once per process, is most of what preparing one needs.

`soxr_hq` is the SoX resampler, librosa's present default.
"""

import functools

import numpy as np

KAISER_BEST_V03 = {
  'resampler': 'kaiser_best_v03',
  'num_zeros': 64,
  'precision': 9,
  'rolloff': 0.9475937167399596,
  'beta': 14.769656459379492,
}
# Phases that are worked on together: more for short audio, to save calls.
_PHASES = 512
_MOST_PHASES = 1024
_OUTPUTS = 8192


def resample_kaiser_best_v03(
  waveform: np.ndarray, rate: int, new_rate: int = 22050
) -> np.ndarray:
  """Resamples with the windowed sinc of resampy < 0.4.

  `y(t) = Σ_n x(n) h(t - n)`, h the sinc with 64 zero crossings a side, cut off
  at 0.9476 of the lower Nyquist frequency, interpolated linearly from a table
  with 512 entries per zero crossing.

  Args:
    waveform: float `[samples]`.
    rate: its sample rate, Hz.
    new_rate: the wanted sample rate, Hz.

  Returns:
    float32 `[ceil(samples * new_rate / rate)]`. Where that is not a whole
    number the last sample is 0, as in librosa.
  """
  if rate == new_rate:
    return waveform.astype(np.float32)
  divisor = int(np.gcd(rate, new_rate))
  step, phases = rate // divisor, new_rate // divisor
  # A short period is repeated, so that one pass still covers many samples.
  repeats = max(1, _PHASES // phases)
  step, phases = step * repeats, phases * repeats

  count = len(waveform) * new_rate // rate
  periods = -(-count // phases)
  reach = _reach(rate, new_rate)
  padded = np.zeros(reach + (periods + 1) * step + reach)
  stop = min(len(waveform), len(padded) - reach)
  padded[reach : reach + stop] = waveform[:stop]

  block = _PHASES if _PHASES * periods >= _OUTPUTS else _MOST_PHASES

  output = np.zeros((phases, periods), np.float32)
  for first in range(0, phases, block):
    last = min(first + block, phases)
    start, inputs, weights = _weights(rate, new_rate, first, last)
    frames = np.lib.stride_tricks.sliding_window_view(
      padded, int(inputs.max()) + 1
    )
    # One row per input sample, so that a tap takes whole rows.
    frames = frames[start : start + periods * step : step].T.copy()
    total = output[first:last]
    # One tap after the other, rounded to float32 after each, from the centre
    # outwards on the left and then on the right: the order of resampy, whose
    # rounding shows in the logarithm of the quiet parts of a recording.
    taps = np.empty(total.shape)
    for row, weight in zip(inputs, weights, strict=True):
      np.take(frames, row, axis=0, out=taps, mode='clip')
      taps *= weight[:, None]
      np.add(total, taps, out=total, casting='same_kind')
  result = np.zeros(-(-len(waveform) * new_rate // rate), np.float32)
  result[:count] = output.T.reshape(-1)[:count]
  return result


def resample_soxr_hq(
  waveform: np.ndarray, rate: int, new_rate: int = 16000
) -> np.ndarray:
  """Resamples with SoX at high quality, as `librosa.resample` does by default.

  Args:
    waveform: float32 `[samples]`.
    rate: its sample rate, Hz.
    new_rate: the wanted sample rate, Hz.

  Returns:
    float32 `[ceil(samples * new_rate / rate)]`.
  """
  if rate == new_rate:
    return waveform.astype(np.float32)
  import soxr  # Only here: a corpus at the wanted rate does not need it.

  wanted = -(-len(waveform) * new_rate // rate)
  result = soxr.resample(
    waveform.astype(np.float32), rate, new_rate, quality='soxr_hq'
  )[:wanted]
  return np.pad(result, (0, wanted - len(result)))


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
  """The right half of the filter, and its increments: [64 * 512 + 1] each."""
  zeros, resolution = KAISER_BEST_V03['num_zeros'], _resolution()
  rolloff, beta = KAISER_BEST_V03['rolloff'], KAISER_BEST_V03['beta']
  size = zeros * resolution
  time = np.linspace(0, zeros, size + 1)
  window = np.kaiser(2 * size + 1, beta)[size:]
  table = window * rolloff * np.sinc(rolloff * time)
  return table, np.diff(table, append=table[-1])


def _resolution() -> int:
  return 2 ** KAISER_BEST_V03['precision']


def _stride(rate: int, new_rate: int) -> tuple[float, int]:
  """Filter width, and table entries per input sample (whole, as in resampy)."""
  scale = min(1.0, new_rate / rate)
  return scale, int(scale * _resolution())


def _reach(rate: int, new_rate: int) -> int:
  """Input samples that the filter sees on either side."""
  return len(_table()[0]) // max(1, _stride(rate, new_rate)[1]) + 2


@functools.lru_cache(maxsize=32)
def _weights(
  rate: int, new_rate: int, first: int, last: int
) -> tuple[int, np.ndarray, np.ndarray]:
  """The filter's taps for the output samples first <= t < last.

  Two rates without a common divisor need more of these than are kept; they are
  then made again for every file, so that memory stays bounded.

  Returns:
    The first input sample that is used, counted from `_reach` samples before
    the signal; then, in the order in which they are to be summed, the input
    samples counted from that one, int32 `[taps, last - first]`, and their
    weights, float64 of the same shape.
  """
  table, increments = _table()
  scale, stride = _stride(rate, new_rate)
  table, increments = scale * table, scale * increments
  reach = _reach(rate, new_rate)
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
    position = position * _resolution()
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
