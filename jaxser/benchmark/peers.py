"""The same networks in Keras and PyTorch, as programs that take turns with ours.

Each library is imported only when asked for; one that is missing is an error that
names the extra to install.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxser.benchmark import timing
from jaxser.benchmark.timing import BenchmarkError, Program
from jaxser.benchmark.workload import Workload
from jaxser.systems.dsnet import DSNet
from jaxser.systems.emosphere import EmoSphere
from jaxser.systems.timnet import TimNet

COMPARISONS = ('none', 'keras', 'torch')


def steps(
  compare: str, workload: Workload, dtypes: Sequence[str], works: Sequence[str]
) -> tuple[list[Program], list[str]]:
  """Returns training steps and predictions of a library, and notes on it.

  Raises:
    BenchmarkError: if the library is missing or has no such network here.
  """
  if compare == 'none':
    return [], []
  if compare == 'torch':
    return _torch_steps(workload, dtypes, works)
  model = keras_timnet(workload.system, workload.shape[0])
  x, y = _keras_data(workload, workload.size)
  calls = {
    'training': lambda: model.train_on_batch(x, y),
    'prediction': lambda: model.predict_on_batch(x),
  }
  return [
    _program('Keras', work, workload.size, _calls(calls[work]))
    for work in works
  ], []


def epochs(
  compare: str, workload: Workload, trained: int, tested: int
) -> list[Program]:
  """Returns epochs of one fold in Keras, by `Model.fit` with validation data.

  Those of one turn are one call of `fit`, so what `fit` does once is not counted
  for every epoch.

  Raises:
    BenchmarkError: if Keras is missing or has no such network here.
  """
  if compare == 'none':
    return []
  if compare != 'keras':
    raise BenchmarkError(
      f'--scale=folds has no --compare={compare}: give --compare=keras, or leave '
      'out --scale to compare single steps.'
    )
  model = keras_timnet(workload.system, workload.shape[0])
  train, test = (_keras_data(workload, count) for count in (trained, tested))

  def run(count):
    model.fit(
      *train,
      batch_size=workload.size,
      epochs=count,
      validation_data=test,
      verbose=0,
    )

  return [_program('Keras', 'training', trained + tested, run, '1 fold')]


def _keras_data(
  workload: Workload, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ready-made coefficients, which our own step computes, and one-hot labels."""
  system, rng = workload.system, np.random.default_rng(0)
  shape = count, workload.shape[0], system.num_coefficients
  one_hot = np.eye(system.num_classes, dtype=np.float32)
  labels = np.arange(count) % system.num_classes
  return rng.standard_normal(shape, np.float32), one_hot[labels]


def keras_timnet(system: TimNet, frames: int) -> Any:
  """Builds TIM-Net over coefficients [batch, frames, coefficients] in Keras.

  Written from the network's formulas as a Keras user would, compiled, its layers
  in the order of the published checkpoints.

  Raises:
    BenchmarkError: if Keras is missing, or for another network than TIM-Net.
  """
  if not isinstance(system, TimNet):
    raise BenchmarkError(
      f'--compare=keras has TIM-Net only, not {type(system).__name__}; use '
      '--config=configs/timnet.py.'
    )
  if system.ablation != 'none':
    raise BenchmarkError(
      f'ablation={system.ablation!r} has no Keras model here; compare the whole '
      'network, ablation=none.'
    )
  os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
  try:
    import keras
    import tensorflow as tf
  except ImportError as error:
    raise BenchmarkError(
      f'The comparison needs Keras and TensorFlow ({error}); install them with '
      "pip install 'jaxser[test]', or leave out --compare=keras."
    ) from error
  tf.config.set_visible_devices([], 'GPU')
  layers, ops, width = keras.layers, keras.ops, system.filters

  def block(hidden, dilation):
    gate = hidden
    for _ in range(2):
      gate = layers.Conv1D(
        width, system.kernel_size, padding='causal', dilation_rate=dilation
      )(gate)
      gate = layers.BatchNormalization()(gate)
      gate = layers.Activation('relu')(gate)
      gate = layers.SpatialDropout1D(system.dropout)(gate)
    return layers.Multiply()([hidden, layers.Activation('sigmoid')(gate)])

  inputs = layers.Input((frames, system.num_coefficients))
  forward = layers.Conv1D(width, 1)(inputs)
  backward = layers.Conv1D(width, 1)(ops.flip(inputs, axis=1))
  scales = []
  for number in range(system.num_blocks):
    forward = block(forward, 2**number)
    backward = block(backward, 2**number)
    both = layers.Add()([forward, backward])
    scales.append(layers.GlobalAveragePooling1D()(both))
  initializer = keras.initializers.RandomUniform(-0.05, 0.05)
  fusion = layers.Dense(1, use_bias=False, kernel_initializer=initializer)
  fused = layers.Reshape((width,))(fusion(ops.stack(scales, axis=-1)))
  outputs = layers.Dense(system.num_classes, activation='softmax')(fused)
  model = keras.Model(inputs, outputs)
  model.compile(
    keras.optimizers.Adam(1e-3, 0.93, 0.98, 1e-8),
    keras.losses.CategoricalCrossentropy(
      label_smoothing=system.label_smoothing
    ),
  )
  return model


def _torch_steps(
  workload: Workload, dtypes: Sequence[str], works: Sequence[str]
) -> tuple[list[Program], list[str]]:
  """Eager and compiled; on the GPU where PyTorch sees one."""
  system = workload.system
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

    from jaxser.benchmark import peers_torch
  except ModuleNotFoundError as error:
    raise BenchmarkError(
      f"The comparison needs PyTorch ({error}): pip install 'jaxser[parity]', "
      'or leave out --compare=torch.'
    ) from error
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  # What JAX does with float32 on NVIDIA GPUs unless told otherwise.
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  notes = [f'PyTorch {torch.__version__} on {device}.']
  names = {'eager': False, 'compiled': True}
  if reason := _no_compiler(device):
    notes.append(f'torch.compile is left out: {reason}')
    del names['compiled']
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
  found = []
  for dtype in dtypes:
    for name, compiled in names.items():
      calls = peers_torch.build(workload, dtype, device, compiled)
      found += [
        _program(
          f'PyTorch {name}',
          work,
          workload.size,
          _calls(calls[work], wait),
          dtype=dtype,
        )
        for work in works
      ]
  return found, notes


def _no_compiler(device: str) -> str:
  """Why torch.compile cannot work here, or nothing."""
  needed = {
    'cpu': ('it needs a C++ compiler', ('g++', 'clang++')),
    'cuda': ('Triton needs a C compiler', ('gcc', 'cc', 'clang')),
  }
  reason, compilers = needed[device]
  if any(map(shutil.which, compilers)):
    return ''
  return f'{reason} ({" or ".join(compilers)}), and there is none.'


def _calls(
  call: Callable[[], Any], wait: Callable[[], Any] = lambda: None
) -> Callable[[int], None]:
  """Returns what makes so many calls and waits for the last."""

  def run(count):
    for _ in range(count):
      call()
    wait()

  return run


def _program(
  implementation: str,
  work: str,
  utterances: int,
  run: Callable[[int], None],
  variant: str = '',
  dtype: str = 'float32',
) -> Program:
  """A program whose first call is its compilation."""
  seconds = timing.elapsed(run, 1)
  return Program(
    implementation, work, utterances, seconds, run, dtype, variant=variant
  )
