"""WavLM against Hugging Face's, on two tiny random checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm import WavLM
from tests import shared
from tests.random_tree import quick_jit

# float32 on a CPU; values are of order one, the largest about four.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}


@pytest.fixture(scope='module', params=['large', 'base'])
def case(request):
  """Outputs for the golden input, masked and not, and the golden figures."""
  folder = shared.require(f'goldens/wavlm_{request.param}_style')
  golden = np.load(shared.require(f'goldens/wavlm_{request.param}_style.npz'))
  config, params = hf_wavlm.load(folder)
  model = WavLM(config, norm_over_padding=True)

  @quick_jit
  def run(samples, length):
    return model.apply({'params': params}, samples, length, keep_hidden=True)

  length = jnp.asarray(golden['mask'].sum(1), jnp.int32)
  masked, plain = run(golden['x'], length), run(golden['x'], None)
  return golden, config, params, masked, plain


def test_config_is_that_of_the_file_and_every_parameter_is_filled(case):
  _, config, params, *_ = case
  assert config.num_hidden_layers == 3
  layer_norm = config.feat_extract_norm == 'layer'
  assert config.do_stable_layer_norm == layer_norm
  assert not config.has_mask_vector
  init, x = WavLM(config).init, jnp.zeros((1, 400))
  wanted = jax.eval_shape(init, jax.random.key(0), x)['params']
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (wanted, params))
  assert shapes[0] == shapes[1]


def test_every_hidden_state(case):
  golden, _, _, masked, plain = case
  for _, _, states in (masked, plain):
    features = np.swapaxes(states['conv_features'], 1, 2)
    np.testing.assert_allclose(features, golden['conv_features'], **CLOSE)
  for layer, hidden in enumerate(masked[2]['hidden']):
    np.testing.assert_allclose(hidden, golden[f'hidden{layer}'], **CLOSE)
  for (frames, count, _), name, valid in (
    (masked, 'last_hidden', [49, 27]),
    (plain, 'last_hidden_unmasked', [49, 49]),
  ):
    np.testing.assert_allclose(frames, golden[name], **CLOSE)
    np.testing.assert_array_equal(count, valid)
