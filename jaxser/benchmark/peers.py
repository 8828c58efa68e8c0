"""The same networks in Keras and PyTorch, as programs that take turns with ours.

Each library is imported only when asked for; one that is missing is an error that
names the extra to install.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxser.benchmark import programs
from jaxser.benchmark.timing import BenchmarkError, Program, lazy
from jaxser.engine.experiment import Experiment
from jaxser.systems.dsnet import DSNet
from jaxser.systems.emosphere import EmoSphere
from jaxser.systems.timnet import TimNet


def steps(
  compare: str,
  experiment: Experiment,
  dtypes: Sequence[str],
  works: Sequence[str],
) -> tuple[list[Program], list[str]]:
  """Returns training steps and predictions of a library, and notes on it."""
  if compare == 'none':
    return [], []
  system, size = experiment.system, experiment.config.batch_size
  if compare == 'keras':
    model = keras_timnet(system, experiment.source.max_length)
    x, y = _coefficients(experiment, size)
    calls = {
      'training': lambda: model.train_on_batch(x, y),
      'prediction': lambda: model.predict_on_batch(x),
    }

    def repeated(call):
      return lambda count: [call() for _ in range(count)]

    return [lazy('Keras', w, size, repeated(calls[w])) for w in works], []
  dsnet = isinstance(system, DSNet) and system.variant == 'dsnet'
  wavlm = isinstance(system, EmoSphere) and system.encoder == 'wavlm'
  if not dsnet and not wavlm:
    raise BenchmarkError(
      '--compare=torch has DSNet (--config=configs/dsnet.py) and EmoSphere-SER '
      'on WavLM (--config=configs/emosphere.py:encoder=wavlm), not this '
      f'{type(system).__name__}.'
    )
  try:
    from jaxser.benchmark import peers_torch
  except ModuleNotFoundError as error:
    raise BenchmarkError(
      f"The comparison needs PyTorch ({error}): pip install -e '.[parity]', "
      'or leave out --compare=torch.'
    ) from error
  return peers_torch.steps(experiment, dtypes, works)


def epochs(compare: str, experiment: Experiment) -> list[Program]:
  """Returns epochs of one fold in Keras, by `Model.fit` with validation data.

  Those of one turn are one call of `fit`, so what `fit` does once is not counted
  for every epoch.
  """
  if compare == 'none':
    return []
  if compare != 'keras':
    raise BenchmarkError(
      f'--scale=folds has no --compare={compare}: give --compare=keras, or leave '
      'out --scale to compare single steps.'
    )
  model = keras_timnet(experiment.system, experiment.source.max_length)
  fold = programs.fold_of(experiment)
  train = _coefficients(experiment, len(fold.train))
  test = _coefficients(experiment, len(fold.test))

  def run(count):
    model.fit(
      *train,
      batch_size=experiment.config.batch_size,
      epochs=count,
      validation_data=test,
      verbose=0,
    )

  utterances = len(fold.train) + len(fold.test)
  return [lazy('Keras', 'training', utterances, run)]


def _coefficients(
  experiment: Experiment, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ready-made ones, which our own step computes, and one-hot labels."""
  system, rng = experiment.system, np.random.default_rng(0)
  shape = count, experiment.source.max_length, system.num_coefficients
  labels = np.eye(system.num_classes, dtype=np.float32)
  x = rng.standard_normal(shape, np.float32)
  return x, labels[np.arange(count) % system.num_classes]


def keras_timnet(system: TimNet, frames: int) -> Any:
  """Builds TIM-Net over coefficients [batch, frames, coefficients] in Keras.

  Written from the network's formulas as a Keras user would, compiled, its layers
  in the order of the published checkpoints.
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
      "pip install -e '.[test]', or leave out --compare=keras."
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
  smoothing = system.label_smoothing
  model.compile(
    keras.optimizers.Adam(1e-3, 0.93, 0.98, 1e-8),
    keras.losses.CategoricalCrossentropy(label_smoothing=smoothing),
  )
  return model
