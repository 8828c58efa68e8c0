"""Weighted cross-entropy: a weighted mean over the rows that count."""

import jax.numpy as jnp
import numpy as np

from jaxser.ops.cross_entropy import weighted_cross_entropy


def test_weighted_cross_entropy_is_the_weighted_mean():
  logits = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
  index = jnp.array([0, 2, 1, 2, -1])
  weights = jnp.array([0.5, 2.0, 1.0])
  mask = jnp.array([True, True, True, True, False])
  entropy = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
  w = np.array([0.5, 1.0, 2.0, 1.0])
  wanted = (w * entropy[np.arange(4), [0, 2, 1, 2]]).sum() / w.sum()
  got = weighted_cross_entropy(logits, index, weights, mask)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  none = weighted_cross_entropy(logits, index, weights, jnp.zeros(5, bool))
  np.testing.assert_array_equal(none, 0)
