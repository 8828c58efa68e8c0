"""The networks in PyTorch that ours are compared with."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest

from configs import dsnet, emosphere
from jaxser.benchmark import measurements, peers, programs
from jaxser.benchmark.timing import BenchmarkError, Settings


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='PyTorch is in jaxser[parity]')


@pytest.mark.slow
def test_dsnet_takes_turns_with_pytorch(torch, monkeypatch):
  # torch.compile takes half a minute here; that it is left out is said.
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  config = dsnet.get_config()
  config.model.update(channels=(4, 4), embedding=8, max_frames=16)
  config.data.max_length = 16
  report = measurements.speed(
    programs.create(config, 8),
    Settings(2, 0, False),
    compare='torch',
    with_latency=False,
  )
  compared = [r['program'] for r in report['rows'] if 'jaxser is' in r]
  assert compared == [
    'PyTorch eager training float32',
    'PyTorch eager prediction float32',
  ]
  assert report['notes'][1].startswith(
    'torch.compile is left out: it needs g++'
  )


def test_missing_pytorch_is_explained(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  monkeypatch.delitem(sys.modules, 'jaxser.benchmark.peers_torch', False)
  monkeypatch.delattr('jaxser.benchmark.peers_torch', raising=False)
  experiment = programs.create(dsnet.get_config(), 2)
  with pytest.raises(BenchmarkError, match=r"pip install -e '\.\[parity\]'"):
    peers.steps('torch', experiment, ['float32'], ['training'])


@pytest.mark.parametrize(('size', 'parts'), [(16, 1), (64, 4)])
def test_pytorch_cuts_batches_as_ours_does(torch, monkeypatch, size, parts):
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=large')
  weight, seen = torch.nn.Linear(1, 1), []

  def loss_of(rows):
    seen.append(rows)
    return weight(torch.ones(1)).sum()

  made = weight.parameters(), loss_of, None, weight.train
  monkeypatch.setattr(peers_torch, '_wavlm', lambda *arguments: made)
  experiment = programs.create(config, size)
  calls = peers_torch.build(experiment, 'float32', 'cpu', compiled=False)
  calls['training']()
  assert seen == [slice(part, None, parts) for part in range(parts)]


@pytest.mark.slow
def test_wavlm_of_transformers_trains(torch):
  pytest.importorskip('transformers', reason='transformers: jaxser[parity]')
  from jaxser.benchmark import peers_torch

  config = emosphere.get_config('encoder=wavlm,weights=random,size=tiny')
  config.update(batch_size=4, accumulate=2)
  config.data.max_length = 16_000
  experiment = programs.create(config, 4)
  system = dataclasses.replace(experiment.system, remat=True)
  experiment = dataclasses.replace(experiment, system=system)
  calls = peers_torch.build(experiment, 'float32', 'cpu', compiled=False)
  before = calls['prediction']().numpy().copy()
  for _ in range(3):
    calls['training']()
  after = calls['prediction']().numpy()
  assert before.shape == (4, 3)
  assert np.all(np.isfinite(after))
  assert np.abs(after - before).max() > 1e-6
