"""The Keras model that speed is compared with is the authors' network too."""

import numpy as np
import pytest

from jaxser.benchmark import peers
from jaxser.benchmark.timing import BenchmarkError
from jaxser.models import convert
from jaxser.models.convert import keras_timnet
from jaxser.systems.timnet import TimNet
from tests.parity import test_timnet_parity as ours

keras = pytest.importorskip('keras', reason='needs Keras (the extra `test`)')
pytest.importorskip('tensorflow', reason='needs TensorFlow')


def test_keras_model_with_the_golden_weights():
  values, params, state = ours.golden()
  model = peers.keras_timnet(TimNet(num_classes=7), 188)
  assert model.count_params() == 106_992
  named = convert.to_named(keras_timnet.NAMING, params, state)
  # In the order in which Keras makes the layers.
  blocks = [
    f'block{block}.{direction}.{{}}{number}'
    for block in range(8)
    for direction in ('forward', 'backward')
    for number in (1, 2)
  ]
  stems = ['stem.forward', 'stem.backward']
  conv = [*stems, *(block.format('conv') for block in blocks)]
  norm = [block.format('norm') for block in blocks]
  _set_weights(model, named, keras.layers.Conv1D, conv, ('kernel', 'bias'))
  statistics = ('gamma', 'beta', 'moving_mean', 'moving_variance')
  _set_weights(model, named, keras.layers.BatchNormalization, norm, statistics)
  fusion, head = _layers(model, keras.layers.Dense)
  fusion.set_weights([named['fusion.kernel']])
  head.set_weights([named['head.kernel'], named['head.bias']])
  x, _, _ = ours.inputs()
  found = model.predict_on_batch(np.asarray(x))
  np.testing.assert_allclose(found, values['probs'], rtol=1e-4, atol=1e-5)


def _set_weights(model, named, kind, places, leaves):
  for layer, place in zip(_layers(model, kind), places, strict=True):
    layer.set_weights([named[f'{place}.{leaf}'] for leaf in leaves])


def _layers(model, kind):
  """Keras lists layers by depth, not by creation: their names tell the order."""

  def number(layer):
    last = layer.name.rpartition('_')[2]
    return int(last) if last.isdigit() else 0

  return sorted((x for x in model.layers if isinstance(x, kind)), key=number)


def test_ablations_have_no_keras_model():
  with pytest.raises(BenchmarkError, match="ablation='tcn' has no Keras model"):
    peers.keras_timnet(TimNet(num_classes=7, ablation='tcn'), 188)
