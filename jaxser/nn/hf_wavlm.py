"""Hugging Face WavLM checkpoints -> parameters of `jaxser.nn.wavlm.WavLM`."""

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import WavLMConfig

Params = dict[str, Any]

RULES = (
  (r'/conv_(\d+)/', r'/conv_layers.\1.conv/'),
  (r'/norm_(\d+)/', r'/conv_layers.\1.layer_norm/'),
  (r'/magnitude$', '/parametrizations.weight.original0'),
  (r'/direction$', '/parametrizations.weight.original1'),
  ('/position/', '/pos_conv_embed.conv/'),
  ('/relative_bias$', '/layers.0.attention.rel_attn_embed.weight'),
  ('/layers/layer/', '/layers.{}/'),
  ('/gate/', '/gru_rel_pos_linear/'),
  ('/gate_constant$', '/gru_rel_pos_const'),
  ('/attention/query/', '/attention.q_proj/'),
  ('/attention/key/', '/attention.k_proj/'),
  ('/attention/value/', '/attention.v_proj/'),
  ('/attention/out/', '/attention.out_proj/'),
  ('/intermediate/', '/feed_forward.intermediate_dense/'),
  ('/output/', '/feed_forward.output_dense/'),
  ('/(kernel|scale)$', '/weight'),
)
AXES = {
  'gru_rel_pos_const$': np.s_[None, :, None, None],
  'original0$': np.s_[None, None],
}
# Checkpoints keep the mask vector even where a config masks nothing.
NAMING = tensors_lib.Naming(RULES, AXES, ignored='^masked_spec_embed$')
# The same two tensors under the names of older PyTorch versions.
_OLD_NAMES = {
  'conv.weight_g': 'conv.parametrizations.weight.original0',
  'conv.weight_v': 'conv.parametrizations.weight.original1',
}


def _shapes(config: WavLMConfig) -> Params:
  samples = jnp.zeros((1, config.receptive_field))
  # Without a parent: it may be called from a method of another module.
  model = WavLM(config, parent=None)
  return jax.eval_shape(model.init, jax.random.key(0), samples)['params']


def expected_shapes(config: WavLMConfig) -> dict[str, tuple[int, ...]]:
  """Returns name -> shape of every tensor in a checkpoint of this config."""
  return tensors_lib.expected(NAMING, _shapes(config))


def canonical(tensors: tensors_lib.Tensors) -> tensors_lib.Tensors:
  """Removes the prefix of task models, with their heads, and old names."""
  inside = [name for name in tensors.shapes if name.startswith('wavlm.')]
  names = {name.removeprefix('wavlm.'): name for name in inside}
  names = names or {name: name for name in tensors.shapes}
  for old, new in _OLD_NAMES.items():
    names = {name.replace(old, new): there for name, there in names.items()}
  return tensors.renamed(names)


def read_config(directory: os.PathLike[str] | str) -> WavLMConfig:
  """Reads DIRECTORY/config.json; raises ConvertError where that fails."""
  path = pathlib.Path(directory).expanduser() / 'config.json'
  if not path.is_file():
    raise ConvertError(
      f'{path} does not exist. Give the directory of a WavLM checkpoint, with'
      ' config.json and model.safetensors or pytorch_model.bin.'
    )
  try:
    return WavLMConfig.from_dict(json.loads(path.read_text('utf-8')))
  except (ValueError, TypeError, AttributeError) as error:
    raise ConvertError(f'{path}: {error}.') from error


def load(directory: os.PathLike[str] | str) -> tuple[WavLMConfig, Params]:
  """Returns the config and float32 NumPy parameters of a WavLM in a directory.

  It holds config.json and model.safetensors, or pytorch_model.bin, which needs
  PyTorch and runs no code. Raises ConvertError if a file is missing or damaged,
  or does not fit the config.
  """
  directory = pathlib.Path(directory).expanduser()
  config = read_config(directory)
  safe, torch = directory / 'model.safetensors', directory / 'pytorch_model.bin'
  if safe.is_file():
    opened = tensors_lib.open_safetensors(safe)
  elif torch.is_file():
    opened = tensors_lib.open_torch(torch)
  else:
    found = ', '.join(sorted(p.name for p in directory.iterdir()))
    raise ConvertError(
      f'{directory} has neither model.safetensors nor pytorch_model.bin; it has'
      f' {found}.'
    )
  return config, tensors_lib.convert(canonical(opened), NAMING, _shapes(config))
