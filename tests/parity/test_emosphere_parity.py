"""EmoSphere-SER behind its encoder against the authors' outputs."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.models import convert
from jaxser.models.convert import torch_emosphere
from jaxser.nn.layers import frame_mask
from jaxser.systems import emosphere_network as network
from jaxser.systems.base import Progress
from jaxser.systems.emosphere import DIMENSIONS, EmoSphere
from tests import shared
from tests.parity import goldens
from tests.random_tree import quick_jit


@pytest.fixture(scope='module')
def case():
  golden = np.load(shared.require('goldens/emosphere.npz'))
  path = shared.require('goldens/emosphere_tensors.json')
  shapes = json.loads(path.read_text())
  arrays = {name: goldens.tensor(name, shape) for name, shape in shapes.items()}
  system = EmoSphere(
    vad_range=(0.0, 1.0),
    encoder='frames',
    width=1024,
    padding='published',
    dropout=0.0,
    head_dropout=0.0,
    auxiliary='categories',  # The golden regions are drawn, not computed.
    categories=8,
    weighted=True,
    class_weights=tuple(golden['class_weights'].tolist()),
  )
  given = {k: v for k, v in arrays.items() if not k.startswith('asp.')}
  expected = torch_emosphere.shapes(system, 1024)
  params, _ = convert.from_named(given, torch_emosphere.NAMING, expected)
  arousal, dominance, valence = golden['targets'].T
  batch = {
    'features': goldens.data('emosphere.frames', (4, 61, 1024)),
    'length': jnp.asarray(golden['frame_lengths']),
    'vad': jnp.stack([valence, arousal, dominance], axis=-1),
    'label': jnp.asarray(golden['regions'], jnp.int32),
    'mask': jnp.ones(4),
    'row': jnp.arange(4),
  }
  return types.SimpleNamespace(
    golden=golden,
    arrays=arrays,
    system=system,
    params=params,
    state=system.initial_state(),
    batch=batch,
  )


def test_frame_lengths(case):
  got = network.published_frames(jnp.asarray(case.golden['lengths']), 61)
  np.testing.assert_array_equal(got, case.golden['frame_lengths'])


def test_pooling_and_heads(case):
  apply = quick_jit(case.system.apply, static_argnames='train')
  answers = apply({'params': case.params}, case.batch, train=False)
  arousal, dominance, valence = np.clip(case.golden['vad'], 0, 1).T
  predict = quick_jit(case.system.predict)
  found = predict(case.params, case.state, case.batch)['vad']
  for got, want in (
    (answers['embedding'], case.golden['pooled']),
    (answers['unit_vad'], case.golden['vad']),
    (answers['logits'], case.golden['region_logits']),
    # Named and clipped.
    (found, np.stack([valence, arousal, dominance], axis=-1)),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=5e-6)


def test_losses_and_gradients_of_the_second_epoch(case):
  step = jax.value_and_grad(case.system.loss, has_aux=True)
  (value, aux), grads = quick_jit(step, static_argnames='phase')(
    case.params,
    case.state,
    case.batch,
    jax.random.key(0),
    Progress(jnp.int32(7), jnp.int32(1)),
    phase='regions',
  )
  golden, metrics = case.golden, aux['metrics']
  for got, want in (
    (value, golden['loss_epoch1']),
    (metrics['categories_loss'], golden['weighted_ce']),
    (metrics['categories_weight'], 1 - 0.99 / 5),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-6)
  named = [metrics[f'ccc_{name}'] for name in DIMENSIONS]
  np.testing.assert_allclose(named, golden['ccc'], rtol=1e-5)
  norms = convert.to_named(torch_emosphere.NAMING, grads)
  wanted = {k[10:]: x for k, x in golden.items() if k.startswith('grad_norm.')}
  assert norms.keys() == wanted.keys()
  for name, gradient in norms.items():
    # Keys share a bias, so softmax cancels it: zero up to rounding.
    absolute = 1e-6 if name == 'pool.slf_attn.w_ks.bias' else 0
    norm, close = np.linalg.norm(np.float64(gradient)), {'rtol': 1e-4}
    np.testing.assert_allclose(
      norm, wanted[name], **close, atol=absolute, err_msg=name
    )


def test_attentive_statistics(case):
  given = {n: v for n, v in case.arrays.items() if n.startswith('asp.')}
  kernel, bias = given['asp.sap_linear.weight'].T, given['asp.sap_linear.bias']
  linear = {'kernel': kernel, 'bias': bias}
  params = {'linear': linear, 'attention': given['asp.attention']}
  pooled = network.AttentiveStatistics().apply(
    {'params': params},
    case.batch['features'],
    frame_mask(case.batch['length'], 61),
  )
  # These weights multiply the rounding of the first product by the root of
  # 1024 before the softmax: in float64 the formula is within 1.3e-5 of the
  # golden's largest entry, in float32 single entries agree to 5e-5.
  wanted = case.golden['asp']
  gap = np.linalg.norm(pooled - wanted, axis=-1)
  assert (gap < 2e-5 * np.linalg.norm(wanted, axis=-1)).all()
  np.testing.assert_allclose(pooled, wanted, rtol=0, atol=5e-5)
