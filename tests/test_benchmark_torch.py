"""The networks in PyTorch that ours are compared with."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dsnet, emosphere
from jaxser.benchmark import measurements, peers
from jaxser.benchmark.timing import BenchmarkError, Settings
from jaxser.benchmark.workload import Workload
from jaxser.models import convert
from jaxser.models.convert import torch_dsnet
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
  full, rows = np.full(6, 12, np.int32), np.arange(6, dtype=np.int32)
  return {
    **made,
    'length': full,
    'neutral_length': full,
    'label': rows % 3,
    'mask': np.ones(6, np.float32),
    'row': rows,
  }


def test_same_dsnet_same_losses_and_gradients(torch):
  """In float64, where nothing hides behind rounding."""
  from jaxser.benchmark import peers_torch

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
  model = peers_torch.Network(SMALL).double()
  named = convert.to_named(torch_dsnet.NAMING, params, state)
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
  ours = convert.to_named(torch_dsnet.NAMING, grads, aux['state'])
  for name, value in model.named_parameters():
    if value.grad is not None:
      np.testing.assert_allclose(
        ours[name], value.grad.numpy(), rtol=1e-5, atol=1e-7, err_msg=name
      )


@pytest.mark.slow
def test_dsnet_takes_turns_with_pytorch(torch, monkeypatch):
  # torch.compile takes half a minute here; that it is left out is said.
  monkeypatch.setattr(peers, '_no_compiler', lambda device: 'no g++.')
  config = dsnet.get_config()
  config.model.update(channels=(4, 4), embedding=8, max_frames=16)
  config.data.max_length = 16
  report = measurements.speed(
    Workload.create(config, 8),
    Settings(2, 0, False),
    compare='torch',
    with_latency=False,
  )
  assert [n for n, row in report['programs'].items() if 'ratio' in row] == [
    'PyTorch eager training float32',
    'PyTorch eager prediction float32',
  ]
  assert report['notes'][1] == 'torch.compile is left out: no g++.'


def test_missing_pytorch_is_explained(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  workload = Workload.create(dsnet.get_config(), 2)
  with pytest.raises(BenchmarkError, match=r"pip install 'jaxser\[parity\]'"):
    peers.steps('torch', workload, ['float32'], ['training'])


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (64, 4)])
def test_pytorch_cuts_batches_as_ours_does(torch, monkeypatch, size, parts):
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  weight, seen = torch.nn.Linear(1, 1), []

  def loss_of(rows):
    seen.append(rows)
    return weight(torch.ones(1)).sum()

  made = weight, loss_of, None
  monkeypatch.setattr(peers_torch, '_wavlm', lambda *arguments: made)
  workload = Workload.create(config, size)
  calls = peers_torch.build(workload, 'float32', 'cpu', compiled=False)
  calls['training']()
  assert seen == [slice(part, None, parts) for part in range(parts)]


@pytest.mark.slow
def test_wavlm_of_transformers_trains(torch):
  pytest.importorskip('transformers', reason='transformers: jaxser[parity]')
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=tiny')
  config.update(batch_size=4, accumulate=2)
  config.data.max_length = 16_000
  workload = Workload.create(config, 4)
  system = dataclasses.replace(workload.system, remat=True)
  workload = dataclasses.replace(workload, system=system)
  calls = peers_torch.build(workload, 'float32', 'cpu', compiled=False)
  before = calls['prediction']().numpy().copy()
  for _ in range(3):
    calls['training']()
  after = calls['prediction']().numpy()
  assert before.shape == (4, 3)
  assert np.all(np.isfinite(after))
  assert np.abs(after - before).max() > 1e-6
