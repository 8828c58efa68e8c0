"""The engine's own programs on synthetic utterances, timed or compiled ahead.

What is timed is an `Experiment` with a corpus in memory and its `Trainer`, as in
training; the one file of the benchmark that knows how the engine is built.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.benchmark import costs, timing
from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.core import config as config_lib
from jaxser.data import pipeline
from jaxser.data.corpus import Corpus, Table
from jaxser.data.protocols import Fold
from jaxser.engine import augmentation, stack
from jaxser.engine.experiment import Experiment
from jaxser.engine.sharding import EVERYWHERE, ROWS, RUNS, STEPS
from jaxser.engine.trainer import Trainer
from jaxser.systems import registry
from jaxser.systems.base import System

WORKS = ('training', 'prediction')
EMODB_UTTERANCES = 535
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


def create(
  config: Any,
  batch_size: int = 0,
  classes: int = 7,
  utterances: int = EMODB_UTTERANCES,
) -> Experiment:
  """Returns the experiment of a recipe on a synthetic corpus.

  Recipes accumulate gradients because more do not fit at once, so a micro-batch
  stays as large as the recipe's: a batch of 64 in 4 makes 16 one, 128 eight.
  """
  config_lib.validate(config)
  if registry.find(config.system).fit is not None:
    raise BenchmarkError(
      f'--config: {config.system} is fitted on the host and has no training step '
      'to time; choose timnet, dsnet or emosphere.'
    )
  if used := augmentation.used(config):
    raise BenchmarkError(
      f'--config.augment.{used[0]}: augmentation is not timed; leave it off.'
    )
  usual, parts = usual_batch_size(config), config.accumulate
  config = config.copy_and_resolve_references()
  config.batch_size = size = batch_size or usual
  if parts > 1:
    config.accumulate = -(-size // -(-usual // parts))
  corpus = _corpus(config, classes, utterances)
  # Not read into memory, where rows would no longer be shared.
  source = pipeline.Source(corpus, cache_gib=0)
  return Experiment(config, registry.create(config, corpus), source)


def changed(experiment: Experiment, **fields: Any) -> Experiment:
  """Returns the experiment with other fields of its config."""
  config = experiment.config.copy_and_resolve_references()
  config.update(fields)
  return dataclasses.replace(experiment, config=config)


def usual_batch_size(config: Any) -> int:
  """Returns the recipe's batch, but 64 where it is TIM-Net's for the demo."""
  demo = config.system == 'timnet' and config.corpus == 'demo'
  return 64 if demo and config.batch_size == 16 else config.batch_size


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


def _corpus(config: Any, classes: int, count: int) -> Corpus:
  """A corpus of ten speakers with every class, whose features repeat."""
  shape, rng = feature_shape(config), np.random.default_rng(0)
  features = rng.standard_normal((16, *shape), np.float32)
  if config.features.name == 'librosa22k':
    # Log-mel in dB lies between -80 and 0; the other features around 0.
    features = np.clip(20 * features - 40, -80, 0)
  rows, unknown = np.arange(count), np.full(count, '')
  table = Table(
    ids=rows.astype(str),
    labels=(rows % classes).astype(np.int32),
    speakers=(rows // classes % 10).astype(str),
    genders=unknown,
    texts=unknown,
    splits=unknown,
    durations=np.ones(count, np.float32),
    vad=rng.uniform(1, 7, (count, 3)).astype(np.float32),
  )
  info = {
    'max_length': shape[0],
    'feature_bins': (*shape, 0)[1],
    'parameters': {'signal_length': shape[0]},  # All are as long.
  }
  return Corpus(
    name='benchmark',
    classes=('neutral', *(f'class{i}' for i in range(1, classes))),
    vad_range=(1.0, 7.0),
    table=table,
    stores={'benchmark': info},
    read=lambda row: features[row % len(features)],
    parts=np.full(count, 'benchmark'),
  )


def describe(experiment: Experiment, place: str) -> str:
  """'64 utterances of 188 x 128 per call in 4 micro-batches of 16'."""
  config, cut = experiment.config, 'one batch'
  size, parts = config.batch_size, config.accumulate
  if parts > 1:
    cut = f'{parts} micro-batches of {-(-size // parts)}'
  return f'{size} utterances of {describe_shape(experiment)} {place} in {cut}'


def describe_shape(experiment: Experiment) -> str:
  """'188 x 128' of features, '12 s (192000 samples)' of a waveform."""
  shape = experiment.source.corpus.feature_shape
  if len(shape) == 1:
    return f'{shape[0] / _SAMPLE_RATE:g} s ({shape[0]} samples)'
  return ' x '.join(map(str, shape))


def phases(experiment: Experiment) -> list[Hashable]:
  """Returns every phase of the loss once; a program is timed in the last."""
  epochs = range(experiment.config.epochs)
  return list(dict.fromkeys(map(experiment.system.phase, epochs)))


def in_phase(experiment: Experiment) -> str:
  """Returns ', in phase main' where the last epoch's step is not every epoch's."""
  *others, last = phases(experiment)
  return f', in phase {last}' if others else ''


def dtypes(system: System) -> dict[str, System]:
  """Returns the system with each type of matmuls it has, its own first."""
  for field in ('compute_dtype', 'dtype'):
    if own := getattr(system, field, None):
      every = dict.fromkeys((own, 'float32', 'bfloat16'))
      return {d: dataclasses.replace(system, **{field: d}) for d in every}
  return {'float32': system}


def fold_of(experiment: Experiment) -> Fold:
  """Returns one of ten folds: about nine tenths of the corpus train."""
  corpus = experiment.source.corpus
  rows, classes = np.arange(len(corpus.table)), len(corpus.classes)
  # Between two speakers, each of whom begins with a neutral utterance.
  cut = (len(rows) - len(rows) // 10) // classes * classes
  return Fold(0, rows[:cut], rows[cut:], rows[cut:])


class Case:
  """Some runs of an experiment on some devices, and what their programs take.

  Either one run and one batch of arrays, or with `resident` an epoch of several
  runs over the corpus on the devices.
  """

  def __init__(
    self,
    experiment: Experiment,
    devices: Sequence[Any] | None = None,
    runs: int = 1,
    resident: bool = False,
  ):
    """Compiles nothing yet; devices may be those of a topology; default all."""
    self.experiment, self.resident = experiment, resident
    fold, size = fold_of(experiment), experiment.config.batch_size
    if not resident and size > len(fold.train):
      fold = dataclasses.replace(fold, train=np.resize(fold.train, size))
    self.run = 0, fold
    self.trainer = Trainer(
      experiment, [self.run], runs, resident=resident, devices=devices
    )

  def abstract(self, phase: Hashable) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted training program and shapes of its arguments."""
    trainer, spread = self.trainer, self.trainer.sharding.abstract
    if self.resident:
      rest = trainer.abstract_epoch()
    else:
      example = self.experiment.example(self.run[1])
      arrays = {
        name: jax.ShapeDtypeStruct((1, 1, trainer.rows, *x.shape[1:]), x.dtype)
        for name, x in example.items()
      }
      epoch = jax.ShapeDtypeStruct((), np.int32)
      rest = {}, spread(arrays, STEPS), None, spread(epoch, EVERYWHERE)
    return trainer.programs.train(phase), (trainer.abstract.train, *rest)

  def _batch(self, work: str) -> dict[str, np.ndarray]:
    """The arrays of one step, with an axis of runs, and of steps."""
    experiment, (seed, fold) = self.experiment, self.run
    rows = fold.train[: experiment.config.batch_size]
    if work == 'training':
      sampler = experiment.sampler(seed, fold, self.trainer.rows)
      slots, axes = sampler.epoch(0), (0, 1)
    else:
      beside, axes = experiment.predicted_with(rows), 0
      slots, _ = pipeline.for_evaluation(
        experiment.source, rows, self.trainer.rows, beside
      )
    batch = experiment.source.batch(slots[0])
    return {name: np.expand_dims(x, axes) for name, x in batch.items()}

  def _function(self, work: str) -> Callable[..., Any]:
    programs, phase = self.trainer.programs, phases(self.experiment)[-1]
    return programs.train(phase) if work == 'training' else programs.predict()

  def _first(self, work: str) -> Any:
    """The first argument of a program: fresh runs, or their weights."""
    state = self.trainer.put([self.experiment.first_state(*self.run)])
    return state if work == 'training' else (state.params, state.model_state)

  def _others(
    self, work: str, batch: dict[str, np.ndarray] | None = None
  ) -> tuple[Any, ...]:
    """The other arguments, sent to the devices; a batch of arrays if given."""
    trainer, put = self.trainer, self.trainer.sharding.put
    batches, training, real = trainer.batches, work == 'training', None
    if not self.resident:
      batch = put(batch or self._batch(work), STEPS if training else ROWS)
    elif training:
      samplers = trainer.samplers([self.run] * trainer.runs)
      chunk = next(batches.training(samplers, 0, 0, 1))
      batch, real = chunk.batches, put(chunk.real, RUNS)
    else:
      rows = self.run[1].test
      beside = self.experiment.predicted_with(rows)
      batch = next(
        batches.evaluation([rows] * trainer.slots, [beside] * trainer.slots)[0]
      )
    if not training:
      return batches.corpus, batch
    epoch = np.int32(self.experiment.config.epochs - 1)
    return batches.corpus, batch, real, put(epoch, EVERYWHERE)

  def program(self, *works: str) -> Program:
    """Compiles 'training', 'prediction' or both, one after the other.

    Arguments lie on the devices; state is carried from call to call.
    """
    calls, every = [], []
    for work in works:
      arguments = self._first(work), *self._others(work)
      compiled, found = costs.compile_program(self._function(work), arguments)
      calls.append(_carried(compiled, work, *arguments))
      every.append(found)

    def run(count):
      for _ in range(count):
        outputs = [call() for call in calls]
      jax.block_until_ready(outputs)

    size, found = self.experiment.config.batch_size, dict(every[0])
    for name in ('compile_seconds', 'flop'):
      found[name] = sum(each[name] for each in every)
    # The compiler's figure is of one device; 0 where it says nothing.
    found['bytes'] *= len(self.trainer.sharding.devices)
    if self.resident:
      size = self.trainer.runs * len(self.experiment.source.corpus.table)
      # It counts a loop's body once, and an epoch is a loop.
      found['bytes'] = 0
    dtype = next(iter(dtypes(self.experiment.system)))
    return Program('jaxser', works[0], size, run, dtype, found)

  def latency(self, work: str, seconds: float) -> dict[str, float]:
    """Times single calls from arrays on the host to outputs on the host."""
    call = _carried(self._function(work), work, self._first(work))
    batch = self._batch(work)
    return timing.latency(
      lambda: jax.device_get(call(*self._others(work, batch))), seconds
    )


def _carried(
  function: Callable, work: str, first: Any, *others: Any
) -> Callable[..., Any]:
  """Returns a call of a program that hands its state on to the next call."""

  def call(*more):
    nonlocal first
    outputs = function(first, *others, *more)
    if work == 'training':
      first, outputs = outputs
    return outputs

  return call


def waiting(config: Any, data_dir: str, steps: int = 50) -> str:
  """Times streamed training on a prepared corpus; says how long a step waits.

  Of steps on one batch that lies on the devices, of the pipeline alone, and of
  both together; batches have one length, so that one program is compiled.
  """
  # Reading a corpus needs TensorFlow; the other measurements do not.
  from jaxser.engine import opening, train

  config = config.copy_and_resolve_references()
  config.data_dir, config.data.buckets = data_dir, ()
  config.data.num_buckets = 0
  corpus = opening.open_corpus(config)
  folds = train.make_folds(config, corpus)
  fold = train.choose_folds(folds, config.fold_subset)[0]
  if not len(fold.train):
    raise BenchmarkError(f'fold {fold.number} trains on no utterance.')
  run, experiment = (config.seed, fold), train.make_experiment(config, corpus)
  trainer = Trainer(experiment, [run])
  state = trainer.put([stack.start(experiment.first_state(*run), ())])

  def chunks():
    stream = trainer.batches.training(trainer.samplers([run]), 0, 0, steps)
    return itertools.islice(stream, steps)

  def train_on(several):
    nonlocal state
    for chunk in several:
      state, _ = trainer.train(state, chunk, np.ones(1, bool), 0)
    jax.block_until_ready(state)

  def read():
    for chunk in chunks():
      jax.block_until_ready(chunk.batches)

  ready = next(chunks())
  train_on([ready])  # Compiles.
  alone, reading, together = (
    1e3 / steps * timing.elapsed(function)
    for function in (
      lambda: train_on([ready] * steps),
      read,
      lambda: train_on(chunks()),
    )
  )
  return (
    f'Time waiting for data ({corpus.name}, {steps} steps): '
    f'{max(0.0, 100 - 100 * alone / together):.1f} % of the time of a step; '
    f'{alone:.1f} ms per step on data that is there, {together:.1f} ms with the '
    f'pipeline, which alone takes {reading:.1f} ms per batch.'
  )
