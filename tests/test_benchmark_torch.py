"""The networks in PyTorch that ours are compared with."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dsnet, emosphere
from jaxser.benchmark import comparison, speed
from jaxser.benchmark.timing import BenchmarkError
from jaxser.models.convert import torch_dsnet as convert
from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet
from tests.random_tree import params_like

SMALL = DSNet(
  num_classes=3,
  channels=(4, 6),
  embedding=8,
  max_frames=12,
  bins=8,
  encoder_dropout=0.0,
  classifier_dropout=0.0,
)


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='PyTorch is in jaxser[parity]')


def batch():
  rng = np.random.default_rng(0)
  made = {
    name: rng.normal(1, 3, (6, 12, 8)).astype(np.float32)
    for name in ('features', 'neutral_features')
  }
  full = np.full(6, 12, np.int32)
  return {
    **made,
    'length': full,
    'neutral_length': full,
    'label': np.arange(6, dtype=np.int32) % 3,
    'mask': np.ones(6, np.float32),
    'row': np.arange(6, dtype=np.int32),
  }


def test_same_dsnet_same_losses_and_gradients(torch):
  """In float64, where nothing hides behind rounding."""
  from jaxser.benchmark import torch_dsnet

  params, state = params_like(SMALL.init, jax.random.key(0), batch())
  state = jax.tree.map(np.abs, state)
  with jax.enable_x64(True):
    params, state, data = jax.tree.map(
      lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x,
      (params, state, batch()),
    )
    progress = Progress(jnp.int32(0), jnp.int32(0))
    grads, aux = jax.jit(jax.grad(SMALL.loss, has_aux=True))(
      params, state, data, jax.random.key(0), progress
    )
    scores = np.asarray(jax.jit(SMALL.predict)(params, state, data)['scores'])
    images, neutral = (
      torch.from_numpy(np.moveaxis(np.array(SMALL.images(data, p)), -1, 1))
      for p in ('', 'neutral_')
    )
  model = torch_dsnet.Network(SMALL).double()
  named = convert.to_torch(params, state, SMALL)
  found = model.load_state_dict(
    {name: torch.from_numpy(np.array(value)) for name, value in named.items()},
    strict=False,
  )
  assert not found.unexpected_keys
  assert all(k.endswith('num_batches_tracked') for k in found.missing_keys)
  model.eval()
  with torch.no_grad():
    theirs = model.scores(images).numpy()
  np.testing.assert_allclose(scores, theirs, rtol=1e-6)

  model.train()
  losses = model(images, neutral, torch.from_numpy(data['label']).long())
  sum(losses.values()).backward()
  for name, value in losses.items():
    np.testing.assert_allclose(
      aux['metrics'][name], value.item(), rtol=1e-6, err_msg=name
    )
  ours = convert.to_torch(grads, aux['state'], SMALL)
  for name, value in model.named_parameters():
    if value.grad is not None:
      np.testing.assert_allclose(
        ours[name], value.grad.numpy(), rtol=1e-5, atol=1e-7, err_msg=name
      )


def test_dsnet_takes_turns_with_pytorch(torch, monkeypatch):
  # torch.compile takes half a minute here; that it is left out is said.
  monkeypatch.setattr(comparison, '_no_compiler', lambda device: 'no g++.')
  threads = torch.get_num_threads()
  config = dsnet.get_config()
  config.model.update(channels=(4, 4), embedding=8, max_frames=16)
  config.data.max_length = 16
  report = speed.run(
    config,
    batch_size=8,
    rounds=2,
    seconds=0,
    compare='torch',
    with_ceilings=False,
    with_latency=False,
  )
  assert [(r['maker'], r['work']) for r in report['ratios']] == [
    ('PyTorch eager', 'training'),
    ('PyTorch eager', 'prediction'),
  ]
  assert report['notes'][1] == 'torch.compile is left out: no g++.'
  assert torch.get_num_threads() == threads


def test_missing_pytorch_is_explained(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(BenchmarkError, match=r"pip install 'jaxser\[parity\]'"):
    speed.run(dsnet.get_config(), batch_size=2, compare='torch')


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (64, 4)])
def test_pytorch_cuts_batches_as_ours_does(torch, monkeypatch, size, parts):
  from jaxser.benchmark import torch_training

  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  weight = torch.nn.Linear(1, 1)
  seen = []

  def losses(part, parts):
    seen.append((part, parts))
    return weight(torch.ones(1)).sum()

  monkeypatch.setattr(
    torch_training, '_wavlm', lambda *about: (weight, losses, None)
  )
  train, _ = torch_training.build(
    config, None, (192_000,), size, 'float32', 'cpu', compiled=False
  )
  train()
  assert seen == [(part, parts) for part in range(parts)]


def test_wavlm_of_transformers_trains(torch):
  pytest.importorskip('transformers', reason='transformers: jaxser[parity]')
  from jaxser.benchmark import torch_training
  from jaxser.systems.emosphere import EmoSphere

  config = emosphere.get_config('encoder=wavlm,weights=random,size=tiny')
  config.update(batch_size=4, accumulate=2)
  system = EmoSphere(encoder='wavlm', wavlm='tiny', width=8, remat=True)
  train, predict = torch_training.build(
    config, system, (16_000,), 4, 'float32', 'cpu', compiled=False
  )
  before = predict().numpy().copy()
  for _ in range(3):
    train()
  after = predict().numpy()
  assert before.shape == (4, 3)
  assert np.all(np.isfinite(after))
  assert np.abs(after - before).max() > 1e-6
