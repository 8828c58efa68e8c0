"""Synthetic batches of real shape, for timing a system without a corpus."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jaxser.benchmark.timing import BenchmarkError
from jaxser.core import config as config_lib
from jaxser.data.corpus import Corpus, Table
from jaxser.systems import registry
from jaxser.systems.base import System

# Features of one utterance where the recipe does not say how long it is. 188
# frames are EmoDB's 96,000 samples at 22,050 Hz.
_SHAPES = {
  'librosa22k': (188, 128),
  'kaldi16k': (600, 80),
  'wave16k': (192_000,),
  'wavlm': (600, 1024),
}
_HOP = 512
_SAMPLE_RATE = 16_000  # Of waveforms.
# TIM-Net trains in smaller batches on the demo corpus than what is published.
_DEMO_BATCH, _TIMNET_BATCH = 16, 64
EMODB_UTTERANCES = 535
FOLDS = 10


@dataclasses.dataclass(frozen=True)
class Workload:
  """A system, and the synthetic utterances that it is timed on."""

  config: Any
  system: System
  corpus: Corpus
  shape: tuple[int, ...]  # Of one utterance's features.
  size: int  # Utterances of a step.

  @classmethod
  def create(
    cls, config: Any, batch_size: int = 0, classes: int = 7
  ) -> 'Workload':
    """Makes up a corpus for a recipe; 0 is its `usual_batch_size`.

    Raises:
      ConfigError: for a config that no system takes.
      BenchmarkError: for features of unknown shape.
    """
    config_lib.validate(config)
    shape = feature_shape(config)
    corpus = _synthetic_corpus(shape, classes)
    system = registry.create(config, corpus)
    size = batch_size or usual_batch_size(config)
    return cls(config, system, corpus, shape, size)

  def micro_batches(self, size: int = 0) -> int:
    """Returns how many micro-batches a step of `size` utterances has.

    Recipes accumulate gradients because more do not fit at once, so a micro-batch
    stays as large as the recipe's: a batch of 64 in 4 makes 16 one, 128 eight.
    """
    accumulate = self.config.accumulate
    largest = -(-usual_batch_size(self.config) // accumulate)
    return 1 if accumulate == 1 else -(-(size or self.size) // largest)

  @property
  def phases(self) -> list[Hashable]:
    """Every phase of the loss, each once, in the order of its epochs."""
    phases = [self.system.phase(i) for i in range(self.config.epochs)]
    return list(dict.fromkeys(phases))

  def in_phase(self) -> str:
    """Returns ', in phase main' where the last epoch's step is not every epoch's."""
    last = self.system.phase(self.config.epochs - 1)
    return f', in phase {last}' if len(self.phases) > 1 else ''

  def describe(self, place: str) -> str:
    """'64 utterances of 188 x 128 per call in 4 micro-batches of 16'."""
    parts, cut = self.micro_batches(), 'one batch'
    if parts > 1:
      cut = f'{parts} micro-batches of {-(-self.size // parts)}'
    return (
      f'{self.size} utterances of {describe_shape(self.shape)} {place} in {cut}'
    )

  def batch(self, size: int, padded: int) -> dict[str, np.ndarray]:
    """Makes up a batch as in `jaxser.systems.base`: `size` rows of `padded`."""
    rng = np.random.default_rng(0)
    table = self.corpus.table
    rows = np.arange(padded) % len(table)

    def features():
      value = rng.standard_normal((padded, *self.shape), np.float32)
      # Log-mel in dB lies between -80 and 0; the other features around 0.
      log_mel = self.shape[-1] == 128
      return np.clip(20 * value - 40, -80, 0) if log_mel else value

    batch = {
      'features': features(),
      'length': np.full(padded, self.shape[0], np.int32),
      'label': table.labels[rows],
      'vad': table.vad[rows],
      'mask': (np.arange(padded) < size).astype(np.float32),
      'speaker': (rows // len(self.corpus.classes)).astype(np.int32),
      'row': np.arange(padded, dtype=np.int32),
    }
    for name in self.system.references:
      batch[f'{name}_features'] = features()
      batch[f'{name}_length'] = batch['length']
      batch[f'{name}_speaker'] = batch['speaker']
    return batch


def feature_shape(config: Any) -> tuple[int, ...]:
  """Returns the shape of one utterance's features under a config."""
  name = config.features.name
  if name not in _SHAPES:
    raise BenchmarkError(
      f'--config.features.name={name!r} has no known shape; known are '
      f'{", ".join(_SHAPES)}.'
    )
  length, *bins = _SHAPES[name]
  signal = config.features.get('signal_length', 0)
  if name == 'librosa22k' and signal:
    length = 1 + signal // _HOP
  return (config.data.max_length or length, *bins)


def usual_batch_size(config: Any) -> int:
  """Returns the recipe's batch, but 64 where it is TIM-Net's for the demo."""
  demo = config.system == 'timnet' and config.corpus == 'demo'
  if demo and config.batch_size == _DEMO_BATCH:
    return _TIMNET_BATCH
  return config.batch_size


def describe_shape(shape: Sequence[int]) -> str:
  """'188 x 128' of features, '12 s (192000 samples)' of a waveform."""
  if len(shape) == 1:
    return f'{shape[0] / _SAMPLE_RATE:g} s ({shape[0]} samples)'
  return ' x '.join(map(str, shape))


def _synthetic_corpus(shape: Sequence[int], classes: int) -> Corpus:
  """A corpus of ten speakers with every class."""
  count = 10 * classes
  unknown = np.full(count, '')
  table = Table(
    ids=np.array([f'u{i}' for i in range(count)]),
    labels=(np.arange(count) % classes).astype(np.int32),
    speakers=np.repeat([f'speaker{i}' for i in range(10)], classes),
    genders=unknown,
    texts=unknown,
    splits=unknown,
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
