"""A system that compiles in a moment and uses everything an engine offers."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from configs import common
from jaxser.data import pipeline
from jaxser.engine import augmentation
from jaxser.engine.experiment import Experiment
from jaxser.nn import layers
from jaxser.ops.collectives import axis_size, mean_share, psum
from jaxser.systems.base import System, label_loss, row_weights
from tests import fakes


class Toy(System):
  """A linear map of the mean over time, and all that engines must handle."""

  task: str = 'classification'
  references: tuple[str, ...] = ()
  predicts_with_neutral: bool = False
  outputs: int = 3
  early_epochs: int = 0
  mixup: ClassVar[bool] = True
  weighs_classes: ClassVar[bool] = True

  def init(self, rng: Any, batch: Any) -> tuple[Any, Any]:
    bins = batch['features'].shape[-1]
    weight = 0.1 * jax.random.normal(rng, (bins, self.outputs))
    return {'weight': weight}, {'batch_stats': {'mean': jnp.zeros(bins)}}

  def prepare(self, state: Any, vad: Any, label: Any) -> Any:
    del vad
    return {**state, 'split': {'rows': jnp.float32(len(label))}}

  def _answer(self, params, centre, features):
    return (jnp.mean(features, 1) / 10 - centre[None]) @ params['weight']

  def loss(
    self, params, state, batch, rng, progress, *, phase='main'
  ) -> tuple[Any, dict[str, Any]]:
    """Cross-entropy or squared error, and a term for each feature."""
    mean = state['batch_stats']['mean']
    kept = layers.row_bernoulli(
      rng, batch['row'], 0.8, batch['features'].shape[-1:]
    )
    features = batch['features'] * kept[:, None]
    answer = self._answer(params, mean, features)
    if self.task == 'classification':
      errors = label_loss(answer, batch)
    else:
      errors = jnp.sum((answer - batch['vad'] / 7) ** 2, -1)
    for name in self.references:
      other = self._answer(params, mean, batch[f'{name}_features'])
      other *= 1 + batch[f'{name}_speaker'][:, None]
      errors += 0.1 * jnp.sum((answer - other) ** 2, -1)
    errors *= 1 / (1 + progress.epoch) + 1 / state['split']['rows']
    loss = mean_share(errors, row_weights(batch))
    if phase == 'early':
      loss += 0.1 * jnp.sum(params['weight'] ** 2) / axis_size()
    weight = batch['mask'][:, None]
    count = jnp.maximum(psum(jnp.sum(weight)), 1)
    seen = jnp.sum(jnp.mean(batch['features'], 1) / 10 * weight, 0)
    seen = psum(seen) / count
    new = {**state, 'batch_stats': {'mean': 0.9 * mean + 0.1 * seen}}
    return loss, {'state': new, 'metrics': {'loss': loss}}

  def predict(self, params, state, batch) -> dict[str, Any]:
    mean = state['batch_stats']['mean']
    answer = self._answer(params, mean, batch['features'])
    if self.predicts_with_neutral:
      answer += 0.1 * self._answer(params, mean, batch['neutral_features'])
    return {
      'scores': jax.nn.softmax(answer),
      'vad': 7 * answer,
      'embedding': answer,
    }

  def phase(self, epoch: int) -> str:
    return 'early' if epoch < self.early_epochs else 'main'


def make_experiment(
  system: System, changes: dict[str, Any], **about: Any
) -> Experiment:
  """What runs of a config with changes share; `about` is of `fakes.corpus`."""
  config = common.base_config('timnet', dict(common.ARGUMENTS))
  config.update_from_flattened_dict(changes)
  return experiment_of(config, system, fakes.corpus(**about))


def experiment_of(
  config: ml_collections.ConfigDict, system: System, corpus: Any
) -> Experiment:
  """The same from a resolved config."""
  data = config.data.to_dict()
  options = {n: data[n] for n in ('max_length', 'cache_gib', 'buckets')}
  source = pipeline.Source(corpus, **options)
  augment = augmentation.create(config, system, source)
  return Experiment(config, system, source, augment=augment)
