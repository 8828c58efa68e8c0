"""The same TIM-Net in plain Keras: what its speed is compared with.

Written from the network's formulas as a Keras user would: `Conv1D` with
`padding='causal'` and `dilation_rate`, `BatchNormalization`, `SpatialDropout1D`,
`model.compile`, `train_on_batch`. Needs Keras with TensorFlow (the extra
`test`), imported only when asked for.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxser.systems.timnet import TimNet


class NoKerasError(ImportError):
  """Keras is not installed."""


def import_keras() -> Any:
  """Imports Keras on TensorFlow, on the CPU only.

  Raises:
    NoKerasError: with the command that installs it.
  """
  os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
  try:
    import keras
    import tensorflow as tf
  except ImportError as error:
    raise NoKerasError(
      f'The comparison needs Keras and TensorFlow ({error}); install them with '
      "pip install 'jaxser[test]', or leave out --compare=keras."
    ) from error
  tf.config.set_visible_devices([], 'GPU')
  return keras


def build(system: TimNet, frames: int) -> Any:
  """The compiled Keras model over coefficients [batch, frames, coefficients].

  Layers are created in the order of the published checkpoints.

  Raises:
    ValueError: for an ablation, of which there is no Keras model here.
  """
  if system.ablation != 'none':
    raise ValueError(
      f'ablation={system.ablation!r} has no Keras model here; compare the whole '
      'network, ablation=none.'
    )
  keras = import_keras()
  layers, ops = keras.layers, keras.ops

  def block(hidden, dilation):
    u = hidden
    for _ in range(2):
      u = layers.Conv1D(
        system.filters,
        system.kernel_size,
        padding='causal',
        dilation_rate=dilation,
      )(u)
      u = layers.BatchNormalization()(u)
      u = layers.Activation('relu')(u)
      u = layers.SpatialDropout1D(system.dropout)(u)
    return layers.Multiply()([hidden, layers.Activation('sigmoid')(u)])

  inputs = layers.Input((frames, system.num_coefficients))
  forward = layers.Conv1D(system.filters, 1)(inputs)
  backward = layers.Conv1D(system.filters, 1)(ops.flip(inputs, axis=1))
  scales = []
  for number in range(system.num_blocks):
    forward = block(forward, 2**number)
    backward = block(backward, 2**number)
    both = layers.Add()([forward, backward])
    scales.append(layers.GlobalAveragePooling1D()(both))
  stacked = ops.stack(scales, axis=-1)
  weighted = layers.Dense(
    1,
    use_bias=False,
    kernel_initializer=keras.initializers.RandomUniform(-0.05, 0.05),
  )(stacked)
  fused = layers.Reshape((system.filters,))(weighted)
  outputs = layers.Dense(system.num_classes, activation='softmax')(fused)
  model = keras.Model(inputs, outputs)
  model.compile(
    keras.optimizers.Adam(1e-3, 0.93, 0.98, 1e-8),
    keras.losses.CategoricalCrossentropy(
      label_smoothing=system.label_smoothing
    ),
  )
  return model


def set_weights(
  model: Any, system: TimNet, tensors: Mapping[str, np.ndarray]
) -> None:
  """Puts tensors under the names of `convert.keras_timnet` into the model."""
  keras = import_keras()

  def of(kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]

  stems = ['stem.forward', 'stem.backward']
  pairs = [
    f'block{block}.{direction}.{{}}{number}'
    for block in range(system.num_blocks)
    for direction in ('forward', 'backward')
    for number in (1, 2)
  ]
  # Keras lists layers by depth, not by creation: their names tell the order.
  for kind, places, leaves in (
    (
      keras.layers.Conv1D,
      [*stems, *(pair.format('conv') for pair in pairs)],
      ('kernel', 'bias'),
    ),
    (
      keras.layers.BatchNormalization,
      [pair.format('norm') for pair in pairs],
      ('gamma', 'beta', 'moving_mean', 'moving_variance'),
    ),
  ):
    for layer, place in zip(sorted(of(kind), key=_number), places, strict=True):
      layer.set_weights([tensors[f'{place}.{leaf}'] for leaf in leaves])
  fusion, head = sorted(of(keras.layers.Dense), key=_number)
  fusion.set_weights([tensors['fusion.kernel']])
  head.set_weights([tensors['head.kernel'], tensors['head.bias']])


def _number(layer: Any) -> int:
  """conv1d_7 -> 7; conv1d, the first of a process, -> 0."""
  number = layer.name.rpartition('_')[2]
  return int(number) if number.isdigit() else 0
