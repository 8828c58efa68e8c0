"""EmoSphere-SER from its recipe: the paper's rows, pretrained WavLM, buckets."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emosphere
from jaxser.data import pipeline
from jaxser.engine import train
from jaxser.models import predictor
from jaxser.models import saved as models
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm_config import SIZES
from jaxser.systems import registry
from jaxser.systems.base import Progress
from jaxser.systems.emosphere import EmoSphere
from tests import fakes, shared
from tests.random_tree import params_like, quick_jit
from tests.test_hf_wavlm import _authors_files

pytestmark = pytest.mark.slow

ATTENTIVE = 'pooling=attentive_statistics'
# Every row of the paper's three tables, and what it changes: outputs of the
# second head, phases of the first and the last epoch.
ROWS = {
  '': (8, 'regions', 'main'),
  ATTENTIVE: (8, 'regions', 'main'),
  f'{ATTENTIVE},region_weight=off': (0, 'main', 'main'),
  'region_weight=off': (0, 'main', 'main'),
  'region_weight=constant': (8, 'regions', 'regions'),
  'auxiliary=categories': (3, 'regions', 'main'),
  'weighted=false': (8, 'regions', 'main'),
  'regions=180': (2, 'regions', 'main'),
  'regions=90': (8, 'regions', 'main'),
  'regions=60': (18, 'regions', 'main'),
  'regions=45': (32, 'regions', 'main'),
  'regions=30': (72, 'regions', 'main'),
}
# The others are these programs with other numbers in them.
RUN = ('', f'{ATTENTIVE},region_weight=off', 'auxiliary=categories')


@pytest.fixture(scope='module')
def corpus():
  return fakes.corpus(bins=6, repeats=4, frames=40, vary=True)


@pytest.mark.parametrize('arg', ROWS)
def test_every_row_of_the_tables_has_a_loss_and_gradients(arg, corpus):
  config = emosphere.get_config(arg)
  config.model.width = 8
  system = registry.create(config, corpus)
  outputs, first, last = ROWS[arg]
  assert system.classes == outputs
  assert (system.phase(0), system.phase(19)) == (first, last)
  batch = pipeline.Source(corpus).batch(pipeline.Slot(np.arange(8), 40))
  params, state = params_like(system.init, jax.random.key(0), batch)
  state = {**state, **system.initial_state()}
  state = system.prepare(state, batch['vad'], batch['label'])
  rest = {'rng': jax.random.key(1), 'phase': first}
  progress = Progress(jnp.int32(0), jnp.int32(0))
  loss = functools.partial(system.loss, progress=progress, **rest)
  function = jax.value_and_grad(loss, has_aux=True)
  if arg not in RUN:
    _, grads = jax.eval_shape(function, params, state, batch)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    return
  (value, _), grads = quick_jit(function)(params, state, batch)
  assert np.isfinite(value)
  for leaf in jax.tree.leaves(grads['vad_head']['out']):
    assert np.isfinite(leaf).all()
    assert np.any(leaf)


def _wavlm(arg, **changes):
  """The recipe, so small that the checks are about its parts."""
  config = emosphere.get_config(f'{arg},runlocal')
  small = {'epochs': 1, 'batch_size': 16, 'accumulate': 2, 'model.width': 8}
  small |= {'data.max_length': 6000, 'data.num_buckets': 1}
  small |= {'tensorboard': False, 'embeddings': False}
  config.update_from_flattened_dict({**small, **changes})
  return config


def test_fine_tuning_starts_from_the_folder_and_keeps_its_convolutions(
  tmp_path,
):
  folder = shared.require('goldens/wavlm_large_style')
  config = _wavlm(f'encoder=wavlm,weights={folder}')
  assert config.model.remat
  assert config.model.dtype == 'bfloat16'
  config.data_dir = str(tmp_path)
  found = train.run(config, tmp_path / 'run')
  assert found['sphere']['regions'] == 'octants'
  pooled = found['selections']['last']['pooled']['regions']
  assert set(pooled) == {'accuracy', 'macro_f1', 'confusion'}
  params, _ = models.load(tmp_path / 'run', 0, 0, 'last')
  given = hf_wavlm.load(folder)[1]
  jax.tree.map(
    np.testing.assert_array_equal,
    params['encoder']['feature_extractor'],
    given['feature_extractor'],
  )
  query = params['encoder']['encoder']['layers']['layer']['attention']['query']
  wanted = given['encoder']['layers']['layer']['attention']['query']
  moved = np.abs(query['kernel'] - wanted['kernel']).max()
  # Adam moves each weight by about the learning rate a step.
  assert 0 < moved < 20 * config.optimizer.learning_rate
  assert query['kernel'].dtype == np.float32


def test_the_authors_files_predict_through_the_recipe(tmp_path):
  torch = pytest.importorskip('torch')
  wavlm = dataclasses.replace(
    SIZES['tiny'], conv_dim=(16, 16), conv_kernel=(20, 20), conv_stride=(16, 20)
  ).to_text()
  system = EmoSphere(encoder='wavlm', wavlm=wavlm, width=8)
  _authors_files(tmp_path, system, torch)
  config = _wavlm('encoder=wavlm', **{'model.wavlm': wavlm})
  config.data_dir = str(tmp_path)
  config.init_from = str(tmp_path)
  config.trust_init_from = True
  found = train.run(config, tmp_path / 'run', 'evaluate')
  pooled = found['selections']['init_from']['pooled']
  assert pooled['utterances'] == 40
  assert found['caveats'] == [models.CAVEAT]
  lines = (tmp_path / 'run/predictions.jsonl').read_text().splitlines()
  first = json.loads(lines[0])
  path = next((tmp_path / 'demo').rglob(f'{first["id"]}.wav'))
  vad = predictor.load(tmp_path / 'run').predict(path).vad
  np.testing.assert_allclose([*vad.values()], first['prediction'], rtol=1e-4)
