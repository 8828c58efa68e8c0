"""Each system's folds in one program equal the same trained one by one.

Both start from the same bits and see the same batches, rows and dropout, so
after two epochs only the order of additions can tell them apart: 1e-5. Adam
divides by the root of small squares and so carries such differences on and
makes them larger; after all epochs a probability, or a value on the scale of 1
to 7, may differ by 1e-3, while a wrong batch, mask or key changes it by 1e-1.
"""

import jax
import numpy as np
import pytest

from configs import dsnet, emosphere, timnet
from jaxser.data import protocols
from jaxser.engine.folds import engine as engine_lib
from jaxser.systems import registry
from tests import fakes, recorder, toys

pytestmark = pytest.mark.slow

SHARED = {'epochs': 6, 'batch_size': 8, 'checkpoint_every': 3}
SYSTEMS = {
  # Twenty epochs; the epoch is chosen on the test side, too.
  'timnet': (
    timnet,
    {
      'epochs': 20,
      'checkpoint_every': 10,
      'model.num_blocks': 2,
      'model.filters': 8,
      'select_on_test': True,
    },
    {'classes': 3},
  ),
  # Partners; the learning rate drops; convolutions side by side.
  'dsnet': (
    dsnet,
    {
      'model.channels': (4, 4),
      'model.embedding': 8,
      'model.max_frames': 24,
      'schedule.patience': 1,
      'schedule.stop_patience': 3,
    },
    {'classes': 4, 'bins': 80},
  ),
  # Two phases; valence, arousal, dominance.
  'emosphere': (
    emosphere,
    {
      'model.width': 8,
      'model.decay_epochs': 3,
      'optimizer.learning_rate': 1e-4,
    },
    {'classes': 3, 'bins': 80},
  ),
}


@pytest.mark.parametrize('name', SYSTEMS)
def test_equals_the_other_engine(name, tmp_path):
  recipe, changes, about = SYSTEMS[name]
  config = recipe.get_config()
  config.update_from_flattened_dict({**SHARED, **changes, 'folds_at_once': 2})
  corpus = fakes.corpus(speakers=4, frames=24, vary=True, **about)
  shared = toys.context_of(config, registry.create(config, corpus), corpus)
  folds = protocols.make_folds(corpus, 'speaker_independent')[:2]
  trainings = [(1, fold) for fold in folds]
  theirs = recorder.stream(shared, trainings, tmp_path / 'stream')
  engine = engine_lib.Engine(
    shared, trainings, devices=jax.devices()[:1], side_by_side=name == 'dsnet'
  )
  ours = recorder.folds(
    engine, shared, trainings, recorder.Recorder(tmp_path / 'folds')
  )
  recorder.check_equal(ours, theirs, 1e-3)
  losses = [
    (mine['loss'], other['loss'])
    for mine, other in zip(ours.rows, theirs.rows, strict=True)
    if other['epoch'] <= 2 and other['split'] == 'train'
  ]
  assert len(losses) == 4
  np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-5)
  spread = np.ptp([other['loss'] for other in theirs.rows if 'loss' in other])
  assert spread > 0.1, 'nothing was learned, so nothing was compared'
