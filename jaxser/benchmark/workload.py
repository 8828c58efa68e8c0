"""Made-up batches of real shape: for timing a system without a corpus."""

from collections.abc import Hashable, Sequence
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
_RATE = 16_000  # Of waveforms.
# TIM-Net trains in smaller batches on the demo corpus than what is published.
_DEMO_BATCH, _TIMNET_BATCH = 16, 64
EMODB_UTTERANCES = 535
_FOLDS = 10


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
  """Utterances per step: of the recipe, but 64 where it is TIM-Net's demo."""
  demo = config.system == 'timnet' and config.corpus == 'demo'
  if demo and config.batch_size == _DEMO_BATCH:
    return _TIMNET_BATCH
  return config.batch_size


def micro_batches(config: Any, size: int) -> int:
  """Micro-batches of a step of so many utterances.

  Recipes accumulate gradients because more do not fit at once, so a
  micro-batch stays as large as the recipe's: a batch of 64 in 4 makes 16 one
  batch, and 128 eight.
  """
  if config.accumulate == 1:
    return 1
  largest = -(-usual_batch(config) // config.accumulate)
  return -(-size // largest)


def phases(config: Any, system: System) -> list[Hashable]:
  """Every phase of the loss in the epochs of a recipe, each once, in order."""
  return list(dict.fromkeys(map(system.phase, range(config.epochs))))


def in_phase(config: Any, system: System) -> str:
  """', in phase main' where a timed step is not that of every epoch."""
  last = system.phase(config.epochs - 1)
  return f', in phase {last}' if len(phases(config, system)) > 1 else ''


def described(
  size: int, shape: Sequence[int], parts: int, place: str = ''
) -> str:
  """'64 utterances of 12 s (192000 samples) in 4 micro-batches of 16'.

  Args:
    size: utterances of a step.
    shape: of one utterance's features.
    parts: micro-batches of the step.
    place: follows the utterances, such as 'per device'.
  """
  text = f'{size} utterances of {shaped(shape)}'
  cut = f'{parts} micro-batches of {-(-size // parts)}'
  return ' '.join(
    filter(None, (text, place, 'in', cut if parts > 1 else 'one batch'))
  )


def shaped(shape: Sequence[int]) -> str:
  """'188 x 128' of features, '12 s (192000 samples)' of a waveform."""
  if len(shape) == 1:
    return f'{shape[0] / _RATE:g} s ({shape[0]} samples)'
  return ' x '.join(map(str, shape))


def fold_sizes(utterances: int) -> tuple[int, int]:
  """Utterances (trained on, tested) of the smallest of ten random folds."""
  tested = utterances // _FOLDS
  return utterances - tested, tested


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
