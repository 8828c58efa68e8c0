"""Scores inside a compiled program, from which epochs are chosen there.

The same numbers as `jaxser.evaluation.metrics` gives on the host, up to float32 rounding;
what the program hands out, counts and CCC, makes the rows of metrics.jsonl.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import psum
from jaxser.ops.concordance import concordance

Array = jax.Array


def classification(
  scores: Array, labels: Array, mask: Array
) -> dict[str, Array]:
  """What is counted on one side of a fold.

  Args:
    scores: [rows, classes], probabilities.
    labels: int32 [rows].
    mask: [rows], 1 for an utterance, 0 for padding.

  Returns:
    'confusion', int32 [classes, classes], rows are targets; 'loss', float32 [],
    the mean cross-entropy.
  """
  classes = scores.shape[-1]
  said = jax.nn.one_hot(labels, classes) * mask[:, None]
  heard = jax.nn.one_hot(jnp.argmax(scores, axis=-1), classes)
  # Products of zeros and ones, exact in any precision; sums below 2^24.
  confusion = jnp.einsum(
    'nt,np->tp', said, heard, precision=jax.lax.Precision.HIGHEST
  )
  likelihood = jnp.sum(said * scores, axis=-1)
  tiny = jnp.finfo(jnp.float32).tiny
  errors = -jnp.sum(jnp.log(likelihood + tiny) * mask)
  count = psum(jnp.sum(mask))
  return {
    'confusion': psum(confusion).astype(jnp.int32),
    'loss': psum(errors) / jnp.maximum(count, 1),
  }


def regression(answers: Array, vad: Array, mask: Array) -> dict[str, Array]:
  """'ccc', float32 [3], over the rows whose VAD is known.

  Args:
    answers: [rows, 3].
    vad: [rows, 3], NaN where unknown.
    mask: [rows], 1 for an utterance, 0 for padding.
  """
  known = (mask > 0) & jnp.all(jnp.isfinite(vad), axis=-1)
  return {'ccc': concordance(answers, vad, known)}


def value(counted: Mapping[str, Array], metric: str) -> Array:
  """One number, float32 [], of what `classification` or `regression` counted.

  Args:
    counted: their result.
    metric: 'uar', 'war' or 'f1', or 'ccc_mean'.
  """
  if metric == 'ccc_mean':
    return jnp.mean(counted['ccc'])
  confusion = counted['confusion'].astype(jnp.float32)
  said = jnp.sum(confusion, axis=1)
  right = jnp.diagonal(confusion)
  if metric == 'war':
    return jnp.sum(right) / jnp.maximum(jnp.sum(said), 1)
  if metric == 'uar':
    each = right / jnp.maximum(said, 1)
  elif metric == 'f1':
    heard = jnp.sum(confusion, axis=0)
    each = 2 * right / jnp.maximum(said + heard, 1)
  else:
    raise ValueError(f'metric {metric!r} is not one of uar, war, f1, ccc_mean')
  present = said > 0
  return jnp.sum(jnp.where(present, each, 0)) / jnp.maximum(jnp.sum(present), 1)
