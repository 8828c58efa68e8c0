"""The engine's own programs of a workload, to be timed or compiled ahead of time.

The one file of the benchmark that knows how the engine is built.
"""

import collections
import dataclasses
import functools
import itertools
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
_CORPUS = ('features', 'length', 'label', 'vad', 'speaker')


def dtypes(system: System) -> dict[str, System]:
  """Returns the system with each type of matmuls it has, its own first."""
  names = {field.name for field in dataclasses.fields(system)}
  for field in names & {'compute_dtype', 'dtype'}:
    own = getattr(system, field)
    others = [dtype for dtype in DTYPES if dtype != own]
    return {
      dtype: dataclasses.replace(system, **{field: dtype})
      for dtype in (own, *others)
    }
  return {DTYPES[0]: system}


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
    runs: int = 1,
    utterances: int = 0,
    parallel: str = 'jit',
  ):
    """Compiles nothing yet.

    Args:
      workload: system and utterances.
      devices: those of a topology that is not there, too; default all.
      size: utterances of a step of each run; 0 is the workload's. Larger ones
        make larger micro-batches, as devices share them.
      runs: of the stack.
      utterances: of the corpus on the devices; 0 trains on one batch.
      parallel: config.parallel.
    """
    self.workload, self.size = workload, size or workload.size
    self.runs, self.utterances = runs, utterances
    self.parts = workload.micro_batches(min(self.size, workload.size))
    self.sharding = Sharding(runs, devices=devices, parallel=parallel)
    self.slots = self.sharding.padded_runs(runs)
    self.rows = self.sharding.padded(self.size, self.parts)
    self.optimizer = step_lib.make_optimizer(workload.config, workload.system)
    self.programs = stack.Programs(
      workload.system,
      self.optimizer,
      self.sharding,
      accumulate=self.parts,
      ema=workload.config.ema,
    )
    trained, _ = fold_sizes(utterances)
    self.steps = -(-trained // self.size)

  def abstract(self, phase: Hashable) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted training program and shapes of its arguments."""
    example = self.workload.batch(1, 1)
    state = self.programs.abstract_state(self.slots, example, self._prepared)
    leading = (self.utterances,) if self.utterances else (1, 1, self.rows)
    arrays = {
      name: jax.ShapeDtypeStruct((*leading, *value.shape[1:]), value.dtype)
      for name, value in example.items()
    }
    if self.utterances:
      corpus = {name: arrays[name] for name in _CORPUS}
      rest = self.programs.abstract_epoch(
        self.slots, self.steps, self.rows, corpus
      )
    else:
      epoch = jax.ShapeDtypeStruct((), np.int32)
      abstract = self.sharding.abstract
      rest = {}, abstract(arrays, STEPS), None, abstract(epoch, EVERYWHERE)
    return self.programs.train(phase), (state, *rest)

  def _start(self, work: str) -> Any:
    """The first argument of a program: fresh runs, or their weights."""
    workload = self.workload
    state = step_lib.create_state(
      workload.system, self.optimizer, jax.random.key(0), workload.batch(1, 1)
    )
    state = self._prepared(state)
    state = self.sharding.put(stack.stacked([state], self.slots), RUNS)
    return state if work == 'training' else (state.params, state.model_state)

  def _prepared(self, state: step_lib.TrainState) -> step_lib.TrainState:
    table, system = self.workload.corpus.table, self.workload.system
    model_state = system.prepare(state.model_state, table.vad, table.labels)
    state = state.replace(model_state=model_state)
    return step_lib.with_average(state, self.workload.config.ema)

  @functools.cached_property
  def _host_batch(self) -> dict[str, np.ndarray]:
    return self.workload.batch(self.size, self.rows)

  @functools.cached_property
  def _corpus(self) -> dict[str, jax.Array]:
    whole = self.workload.batch(self.utterances, self.utterances)
    corpus = {name: whole[name] for name in _CORPUS}
    return self.sharding.put(corpus, EVERYWHERE)

  def _indices(self, *shape: int) -> dict[str, np.ndarray]:
    """Drawn utterances of the corpus, as `stack.gather` takes them."""
    rng = np.random.default_rng(0)
    names = ['rows', *self.workload.system.references]
    drawn = {
      name: rng.integers(0, self.utterances, shape, np.int32) for name in names
    }
    row = np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    return {**drawn, 'row': row}

  def _arguments(self, work: str) -> tuple[Any, ...]:
    """What a program takes after state or weights, sent to the devices."""
    put, training = self.sharding.put, work == 'training'
    if not self.utterances:
      # An axis of runs, and of steps.
      axes = (0, 1) if training else 0
      batch = {k: np.expand_dims(x, axes) for k, x in self._host_batch.items()}
      inputs = {}, put(batch, STEPS if training else ROWS)
    elif training:
      indices = self._indices(self.slots, self.steps, self.rows)
      inputs = self._corpus, put(indices, STEPS)
    else:
      tested = self.sharding.padded(-(-self.utterances // FOLDS))
      inputs = self._corpus, put(self._indices(self.slots, tested), ROWS)
    if not training:
      return inputs
    real = None
    if self.utterances:
      real = put(np.ones((self.slots, self.steps), bool), RUNS)
    epoch = np.int32(self.workload.config.epochs - 1)
    return *inputs, real, put(epoch, EVERYWHERE)

  def _function(self, work: str) -> Callable[..., Any]:
    """The jitted prediction, or the training in the last epoch's phase."""
    if work == 'prediction':
      return self.programs.predict()
    epoch = self.workload.config.epochs - 1
    return self.programs.train(self.workload.system.phase(epoch))

  def program(self, works: Sequence[str], variant: str = '') -> Program:
    """Compiles 'training', 'prediction' or both, one after the other.

    Arguments lie on the devices; state is carried from call to call.
    """
    calls, facts = [], []
    for work in works:
      arguments = self._start(work), *self._arguments(work)
      compiled, found = costs.compile_program(
        self._function(work), len(self.sharding.devices), *arguments
      )
      calls.append(_carried(compiled, work, *arguments))
      facts.append(found)

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
      dtype=next(iter(dtypes(self.workload.system))),
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
    call = _carried(self._function(work), work, self._start(work))

    def single():
      jax.device_get(call(*self._arguments(work)))

    first = 1e3 * timing.elapsed(single)
    return {'first_milliseconds': first, **timing.latency(single, seconds)}


def _carried(
  function: Callable, work: str, first: Any, *arguments: Any
) -> Callable[..., Any]:
  """Returns a call of a program that hands its state on to the next call."""

  def call(*more):
    nonlocal first
    outputs = function(first, *arguments, *more)
    if work == 'training':
      first, outputs = outputs
    return outputs

  return call


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
    jax.block_until_ready(state)

  def read():
    jax.block_until_ready(collections.deque(chunks(), 1)[0].batches)

  resident = next(chunks())
  train_on([resident])  # Compiles.
  alone, reading, together = (
    1e3 * timing.elapsed(body) / steps
    for body in (
      lambda: train_on([resident] * steps),
      read,
      lambda: train_on(chunks()),
    )
  )
  return {
    'corpus': corpus.name,
    'steps': steps,
    'step_milliseconds': alone,
    'pipeline_milliseconds': reading,
    'together_milliseconds': together,
    'share_waiting': max(0.0, 1 - alone / together),
  }
