"""Random parameters and compilation for tests: both without the waiting."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# XLA's own passes run as always; LLVM's take two thirds of the time and pay
# only in programs that run longer than a test.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def params_like(init: Callable[..., Any], *args: Any, seed: int = 0) -> Any:
  """A tree like `init(*args)`, of which only the shapes are computed.

  Kernels are normal with variance 1 / fan-in, scales and variances lie around
  1, all other leaves around 0: no bias is 0, so nothing hides behind zeros.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    value = rng.standard_normal(leaf.shape)
    if name in ('scale', 'var', 'magnitude', 'class_weights', 'gate_constant'):
      value = 1 + 0.1 * value
    elif name == 'count':
      value = 40 + value
    elif len(leaf.shape) > 1:
      value = value / np.sqrt(np.prod(leaf.shape[-2:-1]))
    else:
      value = 0.1 * value
    return np.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, *args))
