"""The engine's own programs of a workload, to be timed or compiled ahead of time.

The one file of the benchmark that knows how the engine is built.
"""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.benchmark import costs, timing
from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.benchmark.workload import FOLDS, Workload
from jaxser.engine import stack
from jaxser.engine import step as step_lib
from jaxser.engine.sharding import EVERYWHERE, ROWS, RUNS, STEPS, Sharding
from jaxser.systems.base import System

DTYPES = ('float32', 'bfloat16')
# Fields of a system that name the type of its matmuls.
_DTYPE_FIELDS = ('compute_dtype', 'dtype')
_CORPUS = ('features', 'length', 'label', 'vad', 'speaker')


def dtype_field(system: System) -> str | None:
  """Returns the system's field for the type of matmuls; None if it has one type."""
  names = {field.name for field in dataclasses.fields(system)}
  return next((name for name in _DTYPE_FIELDS if name in names), None)


def dtype_of(system: System) -> str:
  """Returns the type of the system's matmuls."""
  field = dtype_field(system)
  return getattr(system, field) if field else DTYPES[0]


def with_dtype(system: System, dtype: str) -> System:
  """Returns the system with matmuls of this type.

  Raises:
    BenchmarkError: if it has no such type.
  """
  field = dtype_field(system)
  possible = DTYPES if field else DTYPES[:1]
  if dtype not in possible:
    raise BenchmarkError(
      f'--dtypes={dtype}: {type(system).__name__} computes in '
      f'{" or ".join(possible)}.'
    )
  return dataclasses.replace(system, **{field: dtype}) if field else system


def fold_sizes(utterances: int) -> tuple[int, int]:
  """Returns the utterances (trained on, tested) of the smallest of ten folds."""
  return utterances - utterances // FOLDS, utterances // FOLDS


class Stack:
  """Some runs of a workload on some devices.

  Either one run and one batch of arrays, or an epoch of several runs with the
  corpus on the devices; as in ten folds, nine tenths of it are trained on.
  """

  def __init__(
    self,
    workload: Workload,
    devices: Sequence[Any] | None = None,
    *,
    size: int = 0,
    parts: int = 0,
    runs: int = 1,
    utterances: int = 0,
    parallel: str = 'jit',
  ):
    """Compiles nothing yet.

    Args:
      workload: system and utterances.
      devices: those of a topology that is not there, too; default all.
      size: utterances of a step of each run; 0 is the workload's.
      parts: micro-batches of a step; 0 is the workload's for the size.
      runs: of the stack.
      utterances: of the corpus on the devices; 0 trains on one batch.
      parallel: config.parallel.
    """
    self.workload, self.size = workload, size or workload.size
    self.runs, self.utterances = runs, utterances
    self.parts = parts or workload.micro_batches(self.size)
    self.sharding = Sharding(runs, devices=devices, parallel=parallel)
    self.slots = self.sharding.padded_runs(runs)
    self.rows = self.sharding.padded(self.size, self.parts)
    self.optimizer = step_lib.make_optimizer(workload.config, workload.system)
    self.programs = stack.Programs(
      workload.system, self.optimizer, self.sharding, accumulate=self.parts
    )
    trained, _ = fold_sizes(utterances)
    self.steps = -(-trained // self.size)

  def abstract(self, phase: Hashable) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted training program and shapes of its arguments."""
    table, example = self.workload.corpus.table, self.workload.batch(1, 1)
    state = self.programs.abstract_state(
      self.slots, example, (table.vad, table.labels)
    )

    def shapes(*leading):
      return {
        name: jax.ShapeDtypeStruct((*leading, *value.shape[1:]), value.dtype)
        for name, value in example.items()
      }

    corpus = {name: shapes(self.utterances)[name] for name in _CORPUS}
    rest = self.programs.abstract_epoch(
      self.slots, self.steps, self.rows, corpus
    )
    if not self.utterances:
      batch = self.sharding.abstract(shapes(1, 1, self.rows), STEPS)
      rest = {}, batch, None, rest[-1]
    return self.programs.train(phase), (state, *rest)

  def state(self) -> step_lib.TrainState:
    """Returns fresh runs on the devices."""
    workload = self.workload
    table, system = workload.corpus.table, workload.system
    state = step_lib.create_state(
      system, self.optimizer, jax.random.key(0), workload.batch(1, 1)
    )
    model_state = system.prepare(state.model_state, table.vad, table.labels)
    state = state.replace(model_state=model_state)
    return self.sharding.put(stack.stacked([state], self.slots), RUNS)

  @functools.cached_property
  def host_batch(self) -> dict[str, np.ndarray]:
    """A batch of one run, [rows, ...]."""
    return self.workload.batch(self.size, self.rows)

  def _indices(self, *shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ['rows', *['neutral'] * self.workload.system.needs_neutral]
    drawn = {
      name: rng.integers(0, self.utterances, shape, np.int32) for name in names
    }
    row = np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    return {**drawn, 'row': row}

  def train_arguments(self) -> tuple[Any, ...]:
    """Returns what the training program takes after the state."""
    put = self.sharding.put
    epoch = put(np.int32(self.workload.config.epochs - 1), EVERYWHERE)
    if not self.utterances:
      batch = jax.tree.map(lambda x: x[None, None], self.host_batch)
      return {}, put(batch, STEPS), None, epoch
    real = put(np.ones((self.slots, self.steps), bool), RUNS)
    indices = self._indices(self.slots, self.steps, self.rows)
    return self._corpus, put(indices, STEPS), real, epoch

  @functools.cached_property
  def _corpus(self) -> dict[str, jax.Array]:
    whole = self.workload.batch(self.utterances, self.utterances)
    corpus = {name: whole[name] for name in _CORPUS}
    return self.sharding.put(corpus, EVERYWHERE)

  def predict_arguments(self) -> tuple[Any, ...]:
    """Returns what the prediction takes after the weights: a batch, or a test split."""
    if not self.utterances:
      batch = jax.tree.map(lambda x: x[None], self.host_batch)
      return {}, self.sharding.put(batch, ROWS)
    tested = self.sharding.padded(-(-self.utterances // FOLDS))
    indices = self._indices(self.slots, tested)
    return self._corpus, self.sharding.put(indices, ROWS)

  def train_function(self) -> Callable[..., Any]:
    """Returns the jitted training program of the last epoch's phase."""
    epoch = self.workload.config.epochs - 1
    return self.programs.train(self.workload.system.phase(epoch))

  def _training(self) -> tuple[Callable[[], Any], dict[str, Any]]:
    state, rest = self.state(), self.train_arguments()
    train, facts = costs.compile_program(
      self.train_function(), len(self.sharding.devices), state, *rest
    )

    def call():
      nonlocal state
      state, metrics = train(state, *rest)
      return metrics

    return call, facts

  def _prediction(self) -> tuple[Callable[[], Any], dict[str, Any]]:
    state, batch = self.state(), self.predict_arguments()
    weights = state.params, state.model_state
    predict, facts = costs.compile_program(
      self.programs.predict(), len(self.sharding.devices), weights, *batch
    )
    return lambda: predict(weights, *batch), facts

  def program(self, works: Sequence[str], variant: str = '') -> Program:
    """Compiles 'training', 'prediction' or both, one after the other.

    Arguments lie on the devices; state is carried from call to call.
    """
    made = {'training': self._training, 'prediction': self._prediction}
    calls, facts = zip(*(made[work]() for work in works), strict=True)

    def run(count):
      for _ in range(count):
        outputs = [call() for call in calls]
      jax.block_until_ready(outputs)

    return Program(
      timing.OURS,
      works[0],
      self.runs * (self.utterances or self.size),
      sum(each['compile_seconds'] for each in facts),
      run,
      dtype=dtype_of(self.workload.system),
      flops=sum(each['flops'] for each in facts),
      # The compiler counts a loop's body once, and an epoch is a loop.
      bytes_accessed=None if self.utterances else facts[0]['bytes_accessed'],
      memory=facts[0]['memory'],
      variant=variant,
    )

  def latency(self, work: str, seconds: float) -> dict[str, float]:
    """Times single calls from arrays on the host to outputs on the host.

    'first_milliseconds' is the first call, the compiler included.
    """
    state = self.state()
    train, predict = self.train_function(), self.programs.predict()

    def training():
      nonlocal state
      state, metrics = train(state, *self.train_arguments())
      jax.block_until_ready((state, metrics))

    def prediction():
      weights = state.params, state.model_state
      return np.asarray(predict(weights, *self.predict_arguments()))

    call = training if work == 'training' else prediction
    start = time.perf_counter()
    call()
    first = 1e3 * (time.perf_counter() - start)
    return {'first_milliseconds': first, **timing.latency(call, seconds)}


def waiting(config: Any, data_dir: str, steps: int = 50) -> dict[str, Any]:
  """Times streamed training on a prepared corpus.

  Of steps on one batch that lies on the devices, of the pipeline alone, and of
  both together; batches have one length, so that one program is compiled.

  Raises:
    BenchmarkError: if the first fold has no utterance to train on.
    StoreError: if the corpus is not prepared; the message gives the command.
  """
  # Reading a corpus needs TensorFlow; the other measurements do not.
  from jaxser import train
  from jaxser.engine import opening
  from jaxser.engine.trainer import Trainer

  config = config.copy_and_resolve_references()
  config.data_dir, config.data.buckets = data_dir, ()
  config.data.num_buckets = 0
  corpus = opening.open_corpus(config)
  folds = train.make_folds(config, corpus)
  fold = train.choose_folds(folds, config.fold_subset)[0]
  if not len(fold.train):
    raise BenchmarkError(f'fold {fold.number} trains on no utterance.')
  run = config.seed, fold
  experiment = train.make_experiment(config, corpus)
  trainer = Trainer(experiment, [run], 1, resident=False)
  first = stack.start(experiment.first_state(*run), tuple(trainer.selections))
  state, active = trainer.put([first]), np.ones(1, bool)

  def chunks():
    stream = trainer.batches.training(trainer.samplers([run]), 0, 0, steps)
    return itertools.islice(stream, steps)

  def train_on(several):
    nonlocal state
    for chunk in several:
      state, _ = trainer.train(state, chunk, active, config.epochs - 1)

  def milliseconds(body, *arguments):
    start = time.perf_counter()
    jax.block_until_ready((body(*arguments), state))
    return 1e3 * (time.perf_counter() - start) / steps

  resident = next(chunks())
  train_on([resident])  # Compiles.
  alone = milliseconds(train_on, [resident] * steps)
  reading = milliseconds(lambda: collections.deque(chunks(), 1)[0].batches)
  together = milliseconds(lambda: train_on(chunks()))
  return {
    'corpus': corpus.name,
    'steps': steps,
    'step_milliseconds': alone,
    'pipeline_milliseconds': reading,
    'together_milliseconds': together,
    'share_waiting': max(0.0, 1 - alone / together),
  }
