"""EmoSphere-SER behind its encoder against the authors' outputs."""

import json
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxser.models import convert
from jaxser.models.convert import torch_emosphere
from jaxser.nn.layers import frame_mask
from jaxser.ops.concordance import concordance
from jaxser.ops.losses import weighted_cross_entropy_share
from jaxser.systems import emosphere_network as network
from jaxser.systems.base import Progress
from jaxser.systems.emosphere import EmoSphere
from tests import shared
from tests.random_tree import quick_jit


def _draw(name, shape):
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  return rng.standard_normal(shape)


def _tensor(name, shape):
  if name.endswith('fc.0.1.weight'):
    value = 1 + 0.1 * _draw(name, shape)
  elif name.endswith('bias'):
    value = 0.1 * _draw(name, shape)
  else:
    value = _draw(name, shape) / np.sqrt(np.prod(shape[1:]))
  return value.astype(np.float32)


@pytest.fixture(scope='module')
def case():
  golden = np.load(shared.require('goldens/emosphere.npz'))
  path = shared.require('goldens/emosphere_tensors.json')
  shapes = json.loads(path.read_text())
  arrays = {name: _tensor(name, shape) for name, shape in shapes.items()}
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
    'features': _draw('emosphere.frames', (4, 61, 1024)).astype(np.float32),
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


def test_losses(case):
  golden = {name: jnp.asarray(x) for name, x in case.golden.items()}
  ccc = concordance(golden['vad'], golden['targets'])
  np.testing.assert_allclose(ccc, golden['ccc'], rtol=1e-5)
  named = (golden[n] for n in ('region_logits', 'regions', 'class_weights'))
  entropy = weighted_cross_entropy_share(*named, jnp.ones(4, bool))
  np.testing.assert_allclose(entropy, golden['weighted_ce'], rtol=1e-6)


def test_gradients_of_the_second_epoch(case):
  step = jax.value_and_grad(case.system.loss, has_aux=True)
  (value, aux), grads = quick_jit(step, static_argnames='phase')(
    case.params,
    case.state,
    case.batch,
    jax.random.key(0),
    Progress(jnp.int32(7), jnp.int32(1)),
    phase='regions',
  )
  golden, weight = case.golden, aux['metrics']['categories_weight']
  np.testing.assert_allclose(value, golden['loss_epoch1'], rtol=1e-6)
  np.testing.assert_allclose(weight, 1 - 0.99 / 5, rtol=1e-6)
  norms = convert.to_named(torch_emosphere.NAMING, grads)
  wanted = {
    key.removeprefix('grad_norm.'): float(golden[key])
    for key in golden.files
    if key.startswith('grad_norm.')
  }
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
