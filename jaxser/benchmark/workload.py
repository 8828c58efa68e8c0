"""Made-up batches of real shape: for timing a system without a corpus."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxser.benchmark.timing import BenchmarkError
from jaxser.data.corpus import Corpus, Table
from jaxser.systems.base import System

# Features by convention: [length, bins] or [samples] of one utterance, where
# the recipe does not say. 188 frames are EmoDB's 96,000 samples at 22,050 Hz.
_LENGTHS = {
  'librosa22k': 188,
  'kaldi16k': 600,
  'wave16k': 192_000,
  'wavlm': 600,
}
_BINS = {
  'librosa22k': (128,),
  'kaldi16k': (80,),
  'wave16k': (),
  'wavlm': (1024,),
}
_HOP = 512
# The demo corpus trains in smaller batches than what is published.
_TIMNET_BATCH = 64
EMODB_UTTERANCES = 535


def feature_shape(config: Any) -> tuple[int, ...]:
  """Shape of one utterance's features under a config."""
  name = config.features.name
  if name not in _LENGTHS:
    raise BenchmarkError(
      f'--config.features.name={name!r} has no known shape; known are '
      f'{", ".join(_LENGTHS)}.'
    )
  length = _LENGTHS[name]
  signal = config.features.get('signal_length', 0)
  if name == 'librosa22k' and signal:
    length = 1 + signal // _HOP
  return (config.data.max_length or length, *_BINS[name])


def usual_batch(config: Any) -> int:
  """Utterances per step: 64 for TIM-Net, else what the recipe says."""
  return _TIMNET_BATCH if config.system == 'timnet' else config.batch_size


def made_up_corpus(shape: Sequence[int], classes: int) -> Corpus:
  """A corpus of ten speakers with every class, for the systems' settings."""
  speakers = np.repeat([f'speaker{i}' for i in range(10)], classes)
  count = len(speakers)
  text = np.full(count, '')
  table = Table(
    ids=np.array([f'u{i}' for i in range(count)]),
    labels=(np.arange(count) % classes).astype(np.int32),
    speakers=speakers,
    genders=text,
    texts=text,
    splits=text,
    durations=np.ones(count, np.float32),
    vad=np.random.default_rng(1).uniform(1, 7, (count, 3)).astype(np.float32),
  )
  return Corpus(
    name='benchmark',
    classes=tuple(f'class{i}' for i in range(classes)),
    vad_range=(1.0, 7.0),
    table=table,
    stores={},
    read=lambda row: np.zeros(shape, np.float32),
    parts=np.full(count, 'benchmark'),
  )


def made_up_batch(
  system: System, corpus: Corpus, shape: Sequence[int], size: int, padded: int
) -> dict[str, np.ndarray]:
  """A batch as in `jaxser.systems.base`, of `size` utterances."""
  rng = np.random.default_rng(0)
  rows = np.arange(padded) % len(corpus.table)

  def features():
    value = rng.standard_normal((padded, *shape), np.float32)
    # Log-mel in dB lies between -80 and 0; the other conventions around 0.
    return np.clip(20 * value - 40, -80, 0) if shape[-1] == 128 else value

  batch = {
    'features': features(),
    'length': np.full(padded, shape[0], np.int32),
    'label': corpus.table.labels[rows],
    'vad': corpus.table.vad[rows],
    'mask': (np.arange(padded) < size).astype(np.float32),
    'speaker': (rows // len(corpus.classes)).astype(np.int32),
    'row': np.arange(padded, dtype=np.int32),
  }
  if system.needs_neutral:
    batch['neutral_features'] = features()
    batch['neutral_length'] = batch['length']
  return batch
