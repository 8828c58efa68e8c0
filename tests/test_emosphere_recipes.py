"""EmoSphere-SER from its recipe: the paper's rows, pretrained WavLM, buckets."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from configs import emosphere
from jaxser import train
from jaxser.data import pipeline
from jaxser.engine import stack, step
from jaxser.engine.sharding import Sharding
from jaxser.models import predictor
from jaxser.models import saved as models
from jaxser.models.convert import hf_wavlm, torch_emosphere
from jaxser.nn.wavlm_config import SIZES
from jaxser.systems import emosphere_setup
from jaxser.systems.emosphere import EmoSphere
from tests import fakes, shared
from tests.random_tree import params_like
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


def _start(config, system, batch):
  """A state with made-up parameters: initialising compiles for long."""
  params, model_state = params_like(system.init, jax.random.key(0), batch)
  model_state |= system.initial_state()
  optimizer = step.make_optimizer(config, system)
  return optimizer, step.TrainState(
    step=np.int32(0),
    params=params,
    model_state=system.prepare(model_state, batch['vad'], batch['label']),
    opt_state=optimizer.init(params),
    rng=jax.random.key_data(jax.random.key(1)),
    lr_scale=np.float32(1),
  )


@pytest.mark.parametrize('arg', ROWS)
def test_every_row_of_the_tables_trains_a_step(arg, corpus):
  config = emosphere.get_config(arg)
  config.model.width = 8
  system = emosphere_setup.create(dict(config.model), corpus)
  outputs, first, last = ROWS[arg]
  assert system.classes == outputs
  assert (system.phase(0), system.phase(19)) == (first, last)
  batch = pipeline.Source(corpus).batch(pipeline.Slot(np.arange(8), 40))
  optimizer, state = _start(config, system, batch)
  function = functools.partial(
    step.train_step, system, optimizer, epoch=np.int32(0), phase=first
  )
  if arg not in RUN:
    new, _ = jax.eval_shape(function, state, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    return
  new, metrics = jax.jit(function)(state, batch)
  assert np.isfinite(metrics['loss'])
  for before, after in zip(
    jax.tree.leaves(state.params['vad_head']['out']),
    jax.tree.leaves(new.params['vad_head']['out']),
    strict=True,
  ):
    assert np.isfinite(after).all()
    assert (np.asarray(before) != np.asarray(after)).any()


def test_compilations_are_bounded_by_buckets_times_phases(corpus):
  traced = []

  class Counted(EmoSphere):
    def loss(self, params, state, batch, *args, **settings):
      traced.append((settings['phase'], batch['features'].shape[1]))
      return super().loss(params, state, batch, *args, **settings)

  config = emosphere.get_config()
  system = Counted(width=8, vad_range=(1.0, 7.0), stride=2)
  source = pipeline.Source(corpus, num_buckets=3)
  samplers = [
    pipeline.Sampler(
      rows=np.arange(rows),
      lengths=source.lengths[:rows],
      batch_size=8,
      padded_size=8,
      buckets=source.buckets,
      seed=(0,),
    )
    # Folds of different sizes.
    for rows in (len(corpus.table), len(corpus.table) - 9)
  ]
  assert len({sampler.steps_per_epoch for sampler in samplers}) == 2
  first = source.batch(samplers[0].epoch(0)[0])
  optimizer, state = _start(config, system, first)
  programs = stack.Programs(
    system, optimizer, Sharding(devices=jax.devices()[:1])
  )
  state = stack.stacked([state], 1)
  steps = {phase: programs.train(phase) for phase in ('regions', 'main')}
  for sampler in samplers:
    for epoch in (0, 1, 4, 5, 6, 7):
      for slot in sampler.epoch(epoch):
        batch = jax.tree.map(lambda x: x[None, None], source.batch(slot))
        step_of_phase = steps[system.phase(epoch)]
        jax.eval_shape(step_of_phase, state, {}, batch, None, np.int32(epoch))
  assert len(source.buckets) == 3
  assert len(traced) == len(set(traced)) == 2 * 3


def _wavlm(arg, **changes):
  """The recipe, so small that the checks are about its parts."""
  config = emosphere.get_config(f'{arg},runlocal')
  config.update_from_flattened_dict(
    {
      'epochs': 1,
      'tensorboard': False,
      'embeddings': False,
      'data.max_length': 6000,
      'data.num_buckets': 1,
      'batch_size': 16,
      'accumulate': 2,
      'model.width': 8,
      **changes,
    }
  )
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
  assert set(found['selections']['last']['pooled']['regions']) == {
    'accuracy',
    'macro_f1',
    'confusion',
  }
  params, _ = models.load(tmp_path / 'run', 0, 0, 'last')
  given = hf_wavlm.load(folder)[1]
  for leaf, wanted in zip(
    jax.tree.leaves(params['encoder']['feature_extractor']),
    jax.tree.leaves(given['feature_extractor']),
    strict=True,
  ):
    np.testing.assert_array_equal(leaf, wanted)
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
  vad = predictor.load(tmp_path / 'run').predict(path).overall.vad
  np.testing.assert_allclose(vad, first['prediction'], rtol=1e-4)
  assert set(torch_emosphere.FILES.values()) <= {
    path.name for path in tmp_path.iterdir()
  }
