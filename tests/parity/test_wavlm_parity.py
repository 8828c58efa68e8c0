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
  golden = np.load(
    shared.require(f'goldens/wavlm_{request.param}_style.npz'),
    allow_pickle=False,
  )
  config, params = hf_wavlm.load(folder)
  model = WavLM(config, norm_over_padding=True)

  @quick_jit
  def run(samples, length):
    return model.apply({'params': params}, samples, length, keep_hidden=True)

  length = jnp.asarray(golden['mask'].sum(1), jnp.int32)
  return {
    'golden': golden,
    'config': config,
    'params': params,
    'masked': run(golden['x'], length),
    'plain': run(golden['x'], None),
  }


def test_config_is_that_of_the_file(case):
  assert case['config'].num_hidden_layers == 3
  assert case['config'].do_stable_layer_norm == (
    case['config'].feat_extract_norm == 'layer'
  )
  assert not case['config'].has_mask_vector


def test_every_parameter_is_filled(case):
  wanted = jax.eval_shape(
    WavLM(case['config']).init, jax.random.key(0), jnp.zeros((1, 400))
  )['params']
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), wanted)
  assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), case['params'])


def test_convolutional_features(case):
  for run in ('masked', 'plain'):
    features = np.swapaxes(case[run][2]['conv_features'], 1, 2)
    np.testing.assert_allclose(
      features, case['golden']['conv_features'], **CLOSE
    )


@pytest.mark.parametrize('layer', range(4))
def test_hidden_states(case, layer):
  np.testing.assert_allclose(
    case['masked'][2]['hidden'][layer],
    case['golden'][f'hidden{layer}'],
    **CLOSE,
  )


def test_last_state_with_mask(case):
  frames, valid, _ = case['masked']
  np.testing.assert_allclose(frames, case['golden']['last_hidden'], **CLOSE)
  np.testing.assert_array_equal(valid, [49, 27])


def test_last_state_without_mask(case):
  frames, valid, _ = case['plain']
  np.testing.assert_allclose(
    frames, case['golden']['last_hidden_unmasked'], **CLOSE
  )
  np.testing.assert_array_equal(valid, [49, 49])
