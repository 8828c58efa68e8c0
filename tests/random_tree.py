"""Random parameters and compilation for tests: both without the waiting."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm_config import SIZES, WavLMConfig

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


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-4) -> None:
  """Compares leaves, allowing a share of each one's largest entry.

  And a hundredth of it of the largest of all: some gradients are zero but for
  rounding, such as that of a bias before a softmax.
  """
  largest = max(np.abs(x).max(initial=0) for x in jax.tree.leaves(wanted))

  def check(path, a, b):
    atol = tolerance * (np.abs(b).max(initial=0) + 1e-2 * largest + 1e-6)
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)

  jax.tree_util.tree_map_with_path(check, got, wanted)


TINY_WAVLM = dataclasses.replace(SIZES['tiny'], num_hidden_layers=2)


def wavlm_arrays(
  config: WavLMConfig = TINY_WAVLM, dtype: Any = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
  """Random tensors under the names of a Hugging Face WavLM."""
  rng = np.random.default_rng(seed)
  return {
    name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(
      dtype
    )
    for name, shape in hf_wavlm.expected_shapes(config).items()
  }


def save_wavlm(
  folder: pathlib.Path,
  arrays: dict[str, np.ndarray],
  config: WavLMConfig = TINY_WAVLM,
) -> pathlib.Path:
  """Writes a folder as Hugging Face does."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(config.to_text())
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  return folder
