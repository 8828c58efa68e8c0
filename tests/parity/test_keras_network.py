"""The Keras model that speed is compared with is the authors' network too."""

import numpy as np
import pytest

from jaxser.benchmark import keras_network
from jaxser.models.convert import keras_timnet
from jaxser.systems.timnet import TimNet
from tests.parity import test_timnet_parity as ours

pytest.importorskip('keras', reason='needs Keras (the extra `test`)')
pytest.importorskip('tensorflow', reason='needs TensorFlow')


def test_keras_model_with_the_golden_weights():
  values, params, state = ours.golden()
  system = TimNet(num_classes=7)
  model = keras_network.build(system, 188)
  assert model.count_params() == 106_992
  keras_network.set_weights(model, system, keras_timnet.to_named(params, state))
  x, _, _ = ours.inputs()
  found = model.predict_on_batch(np.asarray(x))
  np.testing.assert_allclose(found, values['probs'], rtol=1e-4, atol=1e-5)


def test_ablations_have_no_keras_model():
  with pytest.raises(ValueError, match="ablation='tcn' has no Keras model"):
    keras_network.build(TimNet(num_classes=7, ablation='tcn'), 188)
