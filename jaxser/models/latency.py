"""How long prediction takes: the first file, the next ones, thousands."""

import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

from jaxser.models.audio_features import Input
from jaxser.models.predictor import Predictor

_RATE = 16_000
_WARM = 20


def measure(
  model: Predictor,
  *,
  files: int = 256,
  seconds: float = 3.0,
  num_workers: int | None = None,
  repeats: int = 3,
) -> dict[str, Any]:
  """Times prediction from synthetic wav files; returns it ready for JSON.

  'first_latency_s' is one file with nothing compiled in this process (in a fresh
  one with the import of what computes the features), 'warm_latency_s' the median
  of 20 further ones, 'files_per_s' that of `repeats` passes over all files.
  """
  with tempfile.TemporaryDirectory() as folder:
    inputs = _synthetic(pathlib.Path(folder), files, seconds)

    def once(chosen: list[Input], workers: int | None) -> float:
      start = time.perf_counter()
      for recording in model.stream(chosen, num_workers=workers):
        if recording.error:
          raise RuntimeError(recording.error)
      return time.perf_counter() - start

    jax.clear_caches()
    first = once(inputs[:1], 1)
    warm = [once([inputs[i % files]], 1) for i in range(_WARM)]
    once(inputs, num_workers)
    rates = sorted(files / once(inputs, num_workers) for _ in range(repeats))
  rate = statistics.median(rates)
  return {
    'system': model.description.content['system'],
    'features': model.description.feature_spec.name,
    'features_on': 'device' if model.extractor.on_device else 'host',
    'members': len(model.models),
    'files': files,
    'seconds': seconds,
    'first_latency_s': first,
    'warm_latency_s': statistics.median(warm),
    'files_per_s': rate,
    'files_per_s_range': [rates[0], rates[-1]],
    'times_real_time': rate * seconds,
  }


def _synthetic(folder: pathlib.Path, files: int, seconds: float) -> list[Input]:
  """Writes noise and tones: 16 kHz, 16 bit, one channel."""
  import soundfile

  random = np.random.default_rng(0)
  at = np.arange(max(1, round(seconds * _RATE))) / _RATE
  paths = [folder / f'{i:05d}.wav' for i in range(files)]
  for path in paths:
    tone = np.sin(2 * np.pi * random.uniform(90, 400) * at)
    noise = random.standard_normal(len(at))
    soundfile.write(path, 0.3 * tone + 0.03 * noise, _RATE, 'PCM_16')
  return [Input(str(path), path) for path in paths]


def lines(measured: dict[str, Any]) -> list[str]:
  """Returns what was measured, for people."""
  low, high = measured['files_per_s_range']
  first = 1000 * measured['first_latency_s']
  warm = 1000 * measured['warm_latency_s']
  return [
    '{system}, {members} models, {features} features on the {features_on}; '
    '{files} files of {seconds:g} s'.format(**measured),
    f'  first file     {first:9.1f} ms (with compilation)',
    f'  next files     {warm:9.1f} ms each',
    f'  throughput     {measured["files_per_s"]:9.1f} files/s ({low:.1f} to '
    f'{high:.1f}), {measured["times_real_time"]:.0f} times real time',
  ]
