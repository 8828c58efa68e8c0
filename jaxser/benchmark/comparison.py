"""The same networks in Keras and PyTorch, as programs that take turns with ours.

Each is built only when asked for, and a library that is missing is an error
that names the extra to install.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.systems.base import System
from jaxser.systems.dsnet import DSNet
from jaxser.systems.emosphere import EmoSphere
from jaxser.systems.timnet import TimNet

COMPARISONS = ('none', 'keras', 'torch')


def programs(
  compare: str,
  config: Any,
  system: System,
  shape: Sequence[int],
  size: int,
  dtypes: Sequence[str],
) -> tuple[list[Program], list[str]]:
  """Programs of the other library, and notes on what could not be had.

  Args:
    compare: one of `COMPARISONS`.
    config: of ours.
    system: ours.
    shape: of one utterance's features.
    size: utterances per batch.
    dtypes: of the products.

  Raises:
    BenchmarkError: if the library is missing or has no such network here.
  """
  if compare == 'none':
    return [], []
  if compare == 'keras':
    return _keras(system, shape, size), []
  return _torch(config, system, shape, size, dtypes)


def _keras(system: System, shape: Sequence[int], size: int) -> list[Program]:
  model = _keras_model(system, shape)
  x, y = _keras_data(system, shape, size)
  return [
    _timed('Keras', work, size, 'float32', call, _nothing)
    for work, call in (
      ('training', lambda: model.train_on_batch(x, y)),
      ('prediction', lambda: model.predict_on_batch(x)),
    )
  ]


def keras_fold(
  system: System, shape: Sequence[int], size: int, trained: int, tested: int
) -> Program:
  """Epochs of one fold in Keras, by `Model.fit` with validation data.

  Args:
    system: ours.
    shape: of one utterance's features.
    size: utterances per batch.
    trained: utterances that are trained on.
    tested: utterances that are evaluated after every epoch.

  Returns:
    A program whose call is an epoch. Those of one turn are one call of `fit`,
    so what `fit` does once is not counted for every epoch.

  Raises:
    BenchmarkError: if Keras is missing or has no such network here.
  """
  model = _keras_model(system, shape)
  train = _keras_data(system, shape, trained)
  test = _keras_data(system, shape, tested)

  def run(epochs):
    model.fit(
      *train, batch_size=size, epochs=epochs, validation_data=test, verbose=0
    )

  start = time.perf_counter()
  run(1)
  return Program(
    'Keras',
    'training',
    trained + tested,
    time.perf_counter() - start,
    run,
    variant='1 fold',
  )


def _keras_model(system: System, shape: Sequence[int]) -> Any:
  if not isinstance(system, TimNet):
    raise BenchmarkError(
      f'--compare=keras has TIM-Net only, not {type(system).__name__}; use '
      '--config=configs/timnet.py.'
    )
  # Only this comparison needs TensorFlow.
  from jaxser.benchmark import keras_network

  try:
    return keras_network.build(system, shape[0])
  except (keras_network.NoKerasError, ValueError) as error:
    raise BenchmarkError(str(error)) from error


def _keras_data(
  system: TimNet, shape: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ready-made coefficients, which our own step computes, and one-hot labels."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal(
    (count, shape[0], system.num_coefficients), np.float32
  )
  y = np.eye(system.num_classes, dtype=np.float32)[
    np.arange(count) % system.num_classes
  ]
  return x, y


def _torch(
  config: Any,
  system: System,
  shape: Sequence[int],
  size: int,
  dtypes: Sequence[str],
) -> tuple[list[Program], list[str]]:
  """Eager and compiled; on the GPU where PyTorch sees one."""
  fits = isinstance(system, DSNet) and system.variant == 'dsnet'
  fits |= isinstance(system, EmoSphere) and system.encoder == 'wavlm'
  if not fits:
    raise BenchmarkError(
      '--compare=torch has DSNet (--config=configs/dsnet.py) and EmoSphere-SER '
      'on WavLM (--config=configs/emosphere.py:encoder=wavlm), not this '
      f'{type(system).__name__}.'
    )
  try:
    import torch
  except ModuleNotFoundError as error:
    raise BenchmarkError(
      f"The comparison needs PyTorch ({error}): pip install 'jaxser[parity]', "
      'or leave out --compare=torch.'
    ) from error
  from jaxser.benchmark import torch_training

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  # What JAX does with float32 on NVIDIA GPUs unless told otherwise.
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  found, notes = [], [f'PyTorch {torch.__version__} on {device}']
  reason = _no_compiler(device)
  if reason:
    notes.append(f'torch.compile is left out: {reason}')
  wait = torch.cuda.synchronize if device == 'cuda' else _nothing
  for dtype in dtypes:
    for compiled in (False, True)[: 1 if reason else 2]:
      maker = 'PyTorch compiled' if compiled else 'PyTorch eager'
      train, predict = torch_training.build(
        config, system, shape, size, dtype, device, compiled
      )
      found += [
        _timed(maker, 'training', size, dtype, train, wait),
        _timed(maker, 'prediction', size, dtype, predict, wait),
      ]
  return found, notes


def _no_compiler(device: str) -> str:
  """Why torch.compile cannot work here, or nothing."""
  if device == 'cpu' and not any(map(shutil.which, ('g++', 'clang++'))):
    return 'it needs a C++ compiler (g++ or clang++), and there is none.'
  if device == 'cuda' and not any(map(shutil.which, ('gcc', 'cc', 'clang'))):
    return 'Triton needs a C compiler (gcc or clang), and there is none.'
  return ''


def _nothing() -> None:
  """Libraries that return when they are done need no waiting."""


def _timed(
  maker: str,
  work: str,
  size: int,
  dtype: str,
  call: Callable[[], Any],
  wait: Callable[[], None],
) -> Program:
  """A program of single calls; its first call is its compilation."""

  def run(calls):
    for _ in range(calls):
      call()
    wait()

  start = time.perf_counter()
  run(1)
  seconds = time.perf_counter() - start
  return Program(maker, work, size, seconds, run, dtype=dtype)
