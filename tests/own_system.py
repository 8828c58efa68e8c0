"""A system outside of the package: linear regression on mean and deviation.

This is all that a system of one's own needs. Put such a file anywhere on
PYTHONPATH and train it with a recipe whose config names its class:

    config.system = 'my_package.my_module:MySystem'
    config.model = {'dropout': 0.2}
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn import layers
from jaxser.ops.collectives import mean_share
from jaxser.ops.losses import cross_entropy
from jaxser.systems.base import System


class MySystem(System):
  """Classifies utterances by moments of their valid frames.

  Attributes:
    num_classes: of the corpus; `System.create` fills it in.
    dropout: probability.
  """

  num_classes: int
  dropout: float = 0.1

  @nn.compact
  def __call__(self, batch, *, train):
    """Returns the embedding [batch, 2 bins] and logits [batch, classes]."""
    x = batch['features']
    valid = layers.frame_mask(batch['length'], x.shape[1])[:, :, None]
    count = jnp.maximum(jnp.sum(valid, axis=1), 1)
    mean = jnp.sum(jnp.where(valid, x, 0), axis=1) / count
    centred = jnp.where(valid, x - mean[:, None], 0)
    std = jnp.sqrt(jnp.sum(centred**2, axis=1) / count + 1e-5)
    moments = jnp.concatenate([mean, std], axis=-1)
    norm = layers.BatchNorm(momentum=0.9)
    x = norm(moments, train=train, mask=batch['mask'])
    x = layers.Dropout(self.dropout)(x, batch['row'], train=train)
    return x, layers.dense(self.num_classes, 'head')(x)

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    """Returns the mean cross-entropy, the new statistics and metrics."""
    (_, logits), new = self.apply(
      {'params': params, **state},
      batch,
      train=True,
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    loss = mean_share(cross_entropy(logits, batch['label']), batch['mask'])
    return loss, {'state': dict(new), 'metrics': {'loss': loss}}

  def predict(self, params, state, batch):
    """Returns scores [batch, classes] and the embedding."""
    embedding, logits = self.apply(
      {'params': params, **state}, batch, train=False
    )
    return {'scores': jax.nn.softmax(logits), 'embedding': embedding}
