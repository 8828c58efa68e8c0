"""A synthetic voice: phones and prosody in, waveform out.

Source and filter (Fant 1960, *Acoustic Theory of Speech Production*; the
cascade of Klatt 1980, JASA 67(3)): a train of glottal pulses with jitter,
shimmer, tremor and aspiration noise excites formants that glide from phone to
phone; consonants add nasal murmur, closures, bursts and frication.
"""

import types
from typing import NamedTuple

import numpy as np
import scipy.ndimage

SAMPLE_RATE = 16_000
SECONDS = (0.92, 1.58)  # Utterances are stretched into these limits.


class Speaker(NamedTuple):
  """An invented person."""

  name: str
  gender: str
  pitch: float  # Mean fundamental frequency of neutral speech, Hz.
  tract: float  # Factor on all formants; 1 is a tract of about 17.5 cm.
  rate: float  # Factor on the speech rate.
  vividness: float  # Factor on every deviation from neutral prosody.
  level: float  # Distance from the microphone, dB.
  breath: float  # Habitual breathiness, dB.


class Segment(NamedTuple):
  """A stretch of constant targets; amplitudes are relative to a vowel."""

  seconds: float  # At rate 1.
  formants: tuple[float, float, float]  # Of a vocal tract of 17.5 cm, Hz.
  voice: float = 1.0  # Amplitude of the glottal pulses.
  breath: float = 0.0  # Amplitude of noise at the glottis.
  noise: float = 0.0  # Amplitude of frication noise; its centre and width, Hz.
  centre: float = 3000.0
  width: float = 2000.0
  nasal: float = 0.0  # 1 while the nose is open.


def _vowel(*formants):
  return (Segment(0.125, formants),)


def _fricative(formants, centre, width, noise):
  return (Segment(0.085, formants, 0.0, 0.05, noise, centre, width),)


def _stop(formants, centre, width, noise, voice):
  closure = Segment(0.045, formants, voice)
  burst = Segment(0.015, formants, voice, 0.0, noise, centre, width)
  aspiration = Segment(0.025, formants, 0.1, 0.5)
  return (closure, burst) if voice else (closure, burst, aspiration)


PHONES = {
  'a': _vowel(730, 1150, 2450),
  'e': _vowel(500, 1840, 2500),
  'i': _vowel(300, 2250, 2950),
  'o': _vowel(520, 880, 2400),
  'u': _vowel(320, 800, 2250),
  'm': (Segment(0.07, (270, 1000, 2200), 0.45, nasal=1.0),),
  'n': (Segment(0.07, (270, 1550, 2500), 0.45, nasal=1.0),),
  'l': (Segment(0.06, (350, 1150, 2700), 0.55),),
  'r': (Segment(0.055, (400, 1250, 1750), 0.55),),
  's': _fricative((350, 1700, 2600), 5800, 2200, 0.16),
  'S': _fricative((320, 1900, 2500), 3000, 1400, 0.2),
  'f': _fricative((340, 1000, 2200), 4500, 6000, 0.06),
  't': _stop((380, 1750, 2650), 4200, 2500, 0.25, 0.0),
  'k': _stop((350, 1900, 2350), 1900, 900, 0.35, 0.0),
  'd': _stop((350, 1700, 2600), 4000, 2500, 0.15, 0.12),
  'b': _stop((330, 950, 2200), 900, 1200, 0.2, 0.12),
}
VOWELS = 'aeiou'
# F4 and F5, and two wide resonances for all that lies above them, Hz.
_HIGH_FORMANTS = (3450.0, 4500.0, 5500.0, 6400.0)
_BANDWIDTHS = (80.0, 95.0, 140.0, 220.0, 320.0, 900.0, 1300.0)

_HOP = 80  # Targets move every 5 ms; the filter is cross-faded between them.
_RINGING = 608  # A formant 80 Hz wide has decayed by 80 dB in 38 ms.
_NOISE_RINGING = 96  # Frication is at least 900 Hz wide.
_EDGES = (0.05, 0.09)  # Seconds of room noise before and after the speech.
_ROOM = -66.0  # dB relative to full scale.


def speak(
  text: str,
  speaker: Speaker,
  prosody: types.SimpleNamespace,
  rng: np.random.Generator,
) -> np.ndarray:
  """Says a text."""
  segments, ends, syllable_of, stress = _timeline(text, speaker, prosody, rng)

  # Targets per frame; one frame more than there are hops.
  hops = round((ends[-1] + sum(_EDGES)) * SAMPLE_RATE / _HOP)
  samples = hops * _HOP
  times = np.arange(hops + 1) * _HOP / SAMPLE_RATE - _EDGES[0]
  index = np.minimum(np.searchsorted(ends, times, 'right'), len(segments) - 1)
  speaking = (times >= 0) & (times < ends[-1])
  position = np.clip(times / ends[-1], 0, 1)
  syllable = syllable_of[index]

  def targets(field):
    return np.array([getattr(s, field) for s in segments], float)[index]

  # Stressed syllables are louder, and the voice weakens towards the end.
  effort = prosody.accent * stress[syllable] - 3.0 * position
  effort = 10 ** (_smooth(effort, 15) / 20)

  def amplitude(field, width):
    track = _smooth(targets(field) * speaking, width) * effort
    return np.interp(np.arange(samples) / _HOP, np.arange(hops + 1), track)

  # Source.
  pitch = _pitch(speaker, prosody, rng, syllable, stress, position)
  pulses, flow = _source(prosody, rng, pitch, samples)
  breath = 10 ** ((prosody.breath + speaker.breath) / 20)
  hiss = rng.standard_normal(samples)
  voice, whisper = amplitude('voice', 5), amplitude('breath', 5)
  source = voice * pulses + 4 * hiss * (
    breath * voice * (0.3 + flow) + 0.3 * whisper
  )

  # Vocal tract.
  formants = np.concatenate(
    [_smooth(targets('formants'), 15), np.tile(_HIGH_FORMANTS, (hops + 1, 1))],
    axis=1,
  )
  nose = _smooth(targets('nasal') * speaking, 9)
  numerator, denominator = _tract(formants, nose, speaker.tract, prosody)
  speech = _filter(source, numerator, denominator, _RINGING)
  speech /= np.sqrt(np.mean(speech[voice > 0.5] ** 2))

  # Frication passes one resonance of unit noise power.
  section = _resonator(
    _smooth(targets('centre'), 5) * np.sqrt(speaker.tract), targets('width')
  )
  _, a1, a2 = section.T
  power = (1 + a2) / ((1 - a2) * ((1 + a2) ** 2 - a1**2))
  bright = np.array([1.0, -0.9]) / np.sqrt(power)[:, None]
  friction = amplitude('noise', 3) * rng.standard_normal(samples)
  speech += _filter(friction, bright, section, _NOISE_RINGING)

  # Level, room noise, and edges without a step.
  speech *= 10 ** ((prosody.level + speaker.level) / 20)
  speech += 10 ** (_ROOM / 20) * rng.standard_normal(samples)
  ramp = np.minimum(np.arange(1, samples + 1) * 100 / SAMPLE_RATE, 1.0)
  speech *= ramp * ramp[::-1]
  return speech * min(1.0, 0.97 / np.max(np.abs(speech)))


def _timeline(text, speaker, prosody, rng):
  """Lays out segments in time."""
  segments, seconds, syllable_of, stress = [], [], [], []
  syllables = text.split()
  pace = speaker.rate * np.exp(prosody.rate)
  for index, syllable in enumerate(syllables):
    stress.append(syllable.startswith("'"))
    for phone in syllable.lstrip("'"):
      vowel = phone in VOWELS
      # Vowels give way to the pace, consonants less so.
      stretch = pace ** (-1.15 if vowel else -0.6)
      stretch *= np.exp(0.06 * _normal(rng))
      if vowel and stress[-1]:
        stretch *= 1.12
      if vowel and index == len(syllables) - 1:
        stretch *= 1.35
      for segment in PHONES[phone]:
        segments.append(segment)
        seconds.append(segment.seconds * stretch)
        syllable_of.append(index)
  seconds = np.array(seconds)
  limits = np.array(SECONDS) - sum(_EDGES)
  seconds *= np.clip(seconds.sum(), *limits) / seconds.sum()
  return segments, np.cumsum(seconds), np.array(syllable_of), np.array(stress)


def _normal(rng, size=None):
  """Normal deviates, at most two deviations from 0: no outliers by ear."""
  return np.clip(rng.standard_normal(size), -2.0, 2.0)


def _smooth(track, frames):
  """Moves from target to target: Hann-weighted mean over time (axis 0)."""
  kernel = np.hanning(frames + 2)[1:-1]
  return scipy.ndimage.convolve1d(
    np.asarray(track, float), kernel / kernel.sum(), axis=0, mode='nearest'
  )


def _pitch(speaker, prosody, rng, syllable, stress, position):
  """Returns the fundamental frequency, Hz `[frames]`.

  `syllable` and `position` (0 to 1) are `[frames]`, `stress` `[syllables]`.
  """
  accents = np.where(stress, 1.0, -0.5) + 0.3 * _normal(rng, len(stress))
  melody = _smooth(prosody.melody * accents[syllable], 31)
  drift = _smooth(rng.standard_normal(len(syllable)), 25)
  seconds = np.arange(len(syllable)) * _HOP / SAMPLE_RATE
  turn = 2 * np.pi * (rng.uniform(5.0, 7.0) * seconds + rng.uniform())
  semitones = (
    prosody.pitch
    + melody
    + prosody.ending * _smooth(syllable == len(stress) - 1, 31)
    + 1.5 * (0.5 - position)  # Declination.
    + 0.6 * drift
    + prosody.tremor * np.sin(turn)
  )
  return speaker.pitch * 2.0 ** (semitones / 12)


def _source(prosody, rng, pitch, samples):
  """Derivative of the glottal flow, and the flow itself, which gates breath.

  The pulse is that of Klatt & Klatt (1990, JASA 87(2)): while the glottis is
  open, flow is proportional to phase² (open - phase). The derivative is taken
  as a difference of flows, which keeps aliases low at any pitch.
  """
  at = np.arange(samples + 1) / _HOP
  step = np.interp(at, np.arange(len(pitch)), pitch) / SAMPLE_RATE
  phase = np.cumsum(step) + rng.uniform()
  cycles = int(phase[-1]) + 3
  deviation = prosody.jitter / 100
  # The difference of two onsets has the deviation asked for.
  onsets = deviation / np.sqrt(2) * rng.standard_normal(cycles)
  shimmer = np.exp(4 * deviation * rng.standard_normal(cycles))
  phase = phase + np.interp(phase, np.arange(cycles), onsets)
  cycle = np.clip(phase.astype(int), 0, cycles - 1)
  share = np.maximum(phase - cycle, 0) / prosody.open
  flow = np.where(share < 1, 6.75 * share**2 * (1 - share), 0.0)
  flow = flow * shimmer[cycle]
  return np.diff(flow) / step[1:], flow[1:]


def _tract(formants, nose, tract, prosody):
  """Returns the filter of the vocal tract, with the tilt of the source.

  `formants` `[frames, n]` are those of a tract of factor 1, `nose` `[frames]`
  is 1 where it is open. Numerator and denominator are `[frames, order + 1]`
  with gain 1 at 0 Hz.
  """
  frames = len(formants)
  scale = np.full(formants.shape[1], tract * np.exp(prosody.smile))
  scale[0] = tract
  formants = np.minimum(formants * scale, 0.97 * SAMPLE_RATE / 2)
  widths = np.array(_BANDWIDTHS) * np.exp(prosody.damping)
  denominator = _unit(np.tile([1.0, -prosody.tilt], (frames, 1)))
  for section in np.moveaxis(_resonator(formants, widths), 1, 0):
    denominator = _times(denominator, _unit(section))
  # While the nose is closed, its pole and its zero cancel.
  pole = np.full(frames, 300.0 * tract)
  zero = pole + 500.0 * tract * nose
  denominator = _times(denominator, _unit(_resonator(pole, 100.0)))
  return _unit(_resonator(zero, 100.0)), denominator


def _resonator(frequency, width):
  """Denominators `[..., 3]` of second-order resonators (Klatt 1980, eq. 2)."""
  frequency, width = np.broadcast_arrays(frequency, width)
  radius = np.exp(-np.pi * width / SAMPLE_RATE)
  angle = 2 * np.pi * frequency / SAMPLE_RATE
  return np.stack(
    [np.ones_like(radius), -2 * radius * np.cos(angle), radius**2], axis=-1
  )


def _times(first, second):
  """Products of polynomials `[frames, m]` and `[frames, n]`."""
  product = np.zeros((len(first), first.shape[1] + second.shape[1] - 1))
  for lag in range(second.shape[1]):
    product[:, lag : lag + first.shape[1]] += first * second[:, lag : lag + 1]
  return product


def _unit(polynomial):
  """Scales polynomials `[frames, n]` to the value 1 at 0 Hz."""
  return polynomial / polynomial.sum(axis=1, keepdims=True)


def _filter(signal, numerator, denominator, ringing):
  """Filters with coefficients that change every frame, without clicks.

  Each 10 ms Hann window of the signal `[hops * hop]` rings out, for `ringing`
  samples, through the filter of its own frame, and the results overlap and add.
  Row k of `numerator` and `denominator` `[hops + 1, n]` is centred on sample
  k * hop.
  """
  windows = np.lib.stride_tricks.sliding_window_view(
    np.pad(signal, _HOP), 2 * _HOP
  )[::_HOP]
  windows = windows * np.hanning(2 * _HOP + 1)[:-1]
  size = 2 * _HOP + ringing
  spectrum = np.fft.rfft(windows, size) * np.fft.rfft(numerator, size)
  echo = np.fft.irfft(spectrum / np.fft.rfft(denominator, size), size)
  hops = -(-size // _HOP)
  echo = np.pad(echo, ((0, 0), (0, hops * _HOP - size)))
  echo = echo.reshape(len(echo), hops, _HOP)
  output = np.zeros((len(echo) + hops, _HOP))
  for hop in range(hops):
    output[hop : hop + len(echo)] += echo[:, hop]
  return output.reshape(-1)[_HOP : _HOP + len(signal)]
