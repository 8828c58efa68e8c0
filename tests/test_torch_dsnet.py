"""The authors' checkpoints of DSNet, and three steps against PyTorch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.core import tensors
from jaxser.models import convert
from jaxser.models.convert import ConvertError, torch_dsnet
from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet
from tests import shared
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
START = Progress(jnp.int32(0), jnp.int32(0))


def _batch(rows=6):
  rng = np.random.default_rng(0)
  return {
    'features': rng.normal(1, 3, (rows, 12, 8)).astype(np.float32),
    'length': np.full(rows, 12, np.int32),
    'neutral_features': rng.normal(2, 3, (rows, 12, 8)).astype(np.float32),
    'neutral_length': np.full(rows, 12, np.int32),
    'label': np.arange(rows, dtype=np.int32) % 3,
    'mask': np.ones(rows, np.float32),
    'row': np.arange(rows, dtype=np.int32),
  }


def _variables():
  params, state = params_like(SMALL.init, jax.random.key(0), _batch())
  return params, jax.tree.map(np.abs, state)


def _arrays(params, state):
  return convert.to_named(torch_dsnet.NAMING, params, state)


def test_table_names_every_tensor_of_a_published_checkpoint():
  shapes = json.loads(shared.require('goldens/dsnet_tensors.json').read_text())
  found = tensors.expected(torch_dsnet.NAMING, torch_dsnet.shapes(DSNet(4)))
  assert {name: list(shape) for name, shape in found.items()} == shapes
  plain = dataclasses.replace(SMALL, variant='encoder')
  with pytest.raises(ConvertError, match="does not fit variant 'encoder'"):
    torch_dsnet.shapes(plain)


def test_a_whole_checkpoint_is_read(tmp_path):
  torch = pytest.importorskip('torch', reason='PyTorch is in jaxser[parity]')
  parts = {part: {} for part in torch_dsnet.PARTS}  # As the authors save it.
  for name, value in _arrays(*_variables()).items():
    part, rest = name.split('.', 1)
    parts[part][rest] = torch.from_numpy(np.array(value))
  parts['C']['bn.num_batches_tracked'] = torch.tensor(3)
  torch.save(parts, tmp_path / 'best.pt')
  [found] = torch_dsnet.load(tmp_path / 'best.pt', SMALL)
  jax.tree.map(np.testing.assert_array_equal, found, _variables())


def test_three_adam_steps_equal_pytorch_in_float64():
  """The network that our speed is compared with is the same one, too."""
  torch = pytest.importorskip('torch', reason='PyTorch is in jaxser[parity]')
  from jaxser.benchmark import peers_torch

  batch = _batch()
  with jax.enable_x64(True):
    wide = {
      name: np.asarray(x, np.float64) if x.dtype == np.float32 else x
      for name, x in batch.items()
    }
    params, state = jax.tree.map(
      lambda x: np.asarray(x, np.float64), _variables()
    )
    images = [
      torch.from_numpy(np.moveaxis(np.array(SMALL.images(wide, p)), -1, 1))
      for p in ('', 'neutral_')
    ]
    named = {
      name: torch.from_numpy(np.array(value))
      for name, value in _arrays(params, state).items()
    }
    trained = [
      x.requires_grad_() for n, x in named.items() if 'running' not in n
    ]
    # A larger epsilon than usual: entries whose gradient is zero but for rounding
    # (1e-17, a bias before a softmax) would else move by their random sign.
    theirs = torch.optim.Adam(trained, lr=1e-3, eps=1e-4)
    ours = optax.adam(1e-3, eps=1e-4)

    @jax.jit
    def step(params, state, opt_state):
      (_, aux), grads = jax.value_and_grad(SMALL.loss, has_aux=True)(
        params, state, wide, jax.random.key(0), START
      )
      updates, opt_state = ours.update(grads, opt_state)
      return optax.apply_updates(params, updates), aux, opt_state

    opt_state = ours.init(params)
    losses_of, scores_of = peers_torch.dsnet(SMALL, named)
    for _ in range(3):
      losses = losses_of(*images, torch.from_numpy(batch['label']).long())
      theirs.zero_grad()
      sum(losses.values()).backward()
      theirs.step()
      params, aux, opt_state = step(params, state, opt_state)
      state = aux['state']
      for name, value in losses.items():
        np.testing.assert_allclose(
          aux['metrics'][name], value.item(), rtol=1e-9, err_msg=name
        )
    for name, value in _arrays(params, state).items():
      np.testing.assert_allclose(
        value, named[name].detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=name
      )
    scores = SMALL.predict(params, state, wide)['scores']
    found = scores_of(images[0]).detach().numpy()
    np.testing.assert_allclose(scores, found, rtol=1e-9)
