"""Hugging Face WavLM checkpoints -> parameters of `jaxser.nn.wavlm.WavLM`.

A local directory with `config.json` and `model.safetensors`, or with
`pytorch_model.bin` where PyTorch is installed. Tensors are read one at a time
into their final place: the peak is one copy of the model and one tensor.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxser.core.errors import ConvertError
from jaxser.models.convert import tensors as tensors_lib
from jaxser.nn.wavlm_config import WavLMConfig

Params = dict[str, Any]

_MASK = 'masked_spec_embed'
_POSITION = 'encoder.pos_conv_embed.conv.'
# The same two tensors under the names of older PyTorch versions.
_OLD_NAMES = {
  _POSITION + 'weight_g': _POSITION + 'parametrizations.weight.original0',
  _POSITION + 'weight_v': _POSITION + 'parametrizations.weight.original1',
}


class _Entry(NamedTuple):
  """One parameter: where it goes, what it is called there, and its layout."""

  path: tuple[str, ...]
  name: str  # With {} in the place of the layer, if it belongs to a layer.
  shape: tuple[int, ...]
  kind: str = 'same'  # 'same', 'linear', 'conv' or 'flat'.


def _norm(path: tuple[str, ...], name: str, width: int) -> list[_Entry]:
  return [
    _Entry((*path, 'scale'), f'{name}.weight', (width,)),
    _Entry((*path, 'bias'), f'{name}.bias', (width,)),
  ]


def _linear(
  path: tuple[str, ...], name: str, inputs: int, outputs: int
) -> list[_Entry]:
  return [
    _Entry((*path, 'kernel'), f'{name}.weight', (outputs, inputs), 'linear'),
    _Entry((*path, 'bias'), f'{name}.bias', (outputs,)),
  ]


def _front(config: WavLMConfig) -> list[_Entry]:
  """Convolutions, projection, mask vector and position embedding."""
  entries, inputs = [], 1
  for i, (width, kernel) in enumerate(
    zip(config.conv_dim, config.conv_kernel, strict=True)
  ):
    ours, name = ('feature_extractor',), f'feature_extractor.conv_layers.{i}'
    entries.append(
      _Entry(
        (*ours, f'conv_{i}', 'kernel'),
        f'{name}.conv.weight',
        (width, inputs, kernel),
        'conv',
      )
    )
    if config.conv_bias:
      entries.append(
        _Entry((*ours, f'conv_{i}', 'bias'), f'{name}.conv.bias', (width,))
      )
    if config.feat_extract_norm == 'layer' or i == 0:
      entries += _norm((*ours, f'norm_{i}'), f'{name}.layer_norm', width)
    inputs = width
  hidden, taps = config.hidden_size, config.num_conv_pos_embeddings
  ours, name = ('feature_projection',), 'feature_projection'
  entries += _norm((*ours, 'layer_norm'), f'{name}.layer_norm', inputs)
  entries += _linear(
    (*ours, 'projection'), f'{name}.projection', inputs, hidden
  )
  if config.has_mask_vector:
    entries.append(_Entry((_MASK,), _MASK, (hidden,)))
  ours = ('encoder', 'position')
  weight = _POSITION + 'parametrizations.weight.original'
  return [
    *entries,
    _Entry((*ours, 'magnitude'), f'{weight}0', (1, 1, taps), 'flat'),
    _Entry(
      (*ours, 'direction'),
      f'{weight}1',
      (hidden, hidden // config.num_conv_pos_embedding_groups, taps),
      'conv',
    ),
    _Entry((*ours, 'bias'), f'{_POSITION}bias', (hidden,)),
    *_norm(('encoder', 'layer_norm'), 'encoder.layer_norm', hidden),
  ]


def _layer(config: WavLMConfig) -> list[_Entry]:
  """One transformer layer; the layer is a placeholder in the names."""
  hidden, inner = config.hidden_size, config.intermediate_size
  heads = config.num_attention_heads
  ours, name = ('encoder', 'layers', 'layer'), 'encoder.layers.{}'
  attention = (*ours, 'attention')
  entries = []
  for mine, theirs in (
    ('query', 'q_proj'),
    ('key', 'k_proj'),
    ('value', 'v_proj'),
    ('out', 'out_proj'),
  ):
    entries += _linear(
      (*attention, mine), f'{name}.attention.{theirs}', hidden, hidden
    )
  return [
    *entries,
    *_linear(
      (*attention, 'gate'),
      f'{name}.attention.gru_rel_pos_linear',
      hidden // heads,
      8,
    ),
    _Entry(
      (*attention, 'gate_constant'),
      f'{name}.attention.gru_rel_pos_const',
      (1, heads, 1, 1),
      'flat',
    ),
    *_norm((*ours, 'layer_norm'), f'{name}.layer_norm', hidden),
    *_norm((*ours, 'final_layer_norm'), f'{name}.final_layer_norm', hidden),
    *_linear(
      (*ours, 'intermediate'),
      f'{name}.feed_forward.intermediate_dense',
      hidden,
      inner,
    ),
    *_linear(
      (*ours, 'output'), f'{name}.feed_forward.output_dense', inner, hidden
    ),
  ]


def _table(config: WavLMConfig) -> _Entry:
  return _Entry(
    ('encoder', 'relative_bias'),
    'encoder.layers.0.attention.rel_attn_embed.weight',
    (config.num_buckets, config.num_attention_heads),
  )


def expected_shapes(config: WavLMConfig) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor in a checkpoint of this config."""
  whole = [*_front(config), _table(config)]
  shapes = {entry.name: entry.shape for entry in whole}
  for i in range(config.num_hidden_layers):
    shapes |= {e.name.format(i): e.shape for e in _layer(config)}
  return shapes


def _arrange(value: np.ndarray, kind: str) -> np.ndarray:
  """PyTorch's layout -> Flax's."""
  if kind in ('linear', 'conv'):
    return value.transpose()
  return value.reshape(-1) if kind == 'flat' else value


def _canonical(tensors: tensors_lib.Tensors) -> tensors_lib.Tensors:
  """Removes the prefix of task models, with their heads, and old names."""
  prefix = 'wavlm.'
  names = {name: name for name in tensors}
  if any(name.startswith(prefix) for name in names):
    names = {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
  return tensors.renamed({_OLD_NAMES.get(n, n): o for n, o in names.items()})


def place(params: Params, path: tuple[str, ...], value: np.ndarray) -> None:
  """Puts a value into nested dicts, making those on the way."""
  for part in path[:-1]:
    params = params.setdefault(part, {})
  params[path[-1]] = value


def _arrays(
  config: WavLMConfig, tensors: tensors_lib.Tensors
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
  for entry in [*_front(config), _table(config)]:
    yield (
      entry.path,
      np.ascontiguousarray(_arrange(tensors[entry.name], entry.kind)),
    )
  for entry in _layer(config):
    stacked = None
    for i in range(config.num_hidden_layers):
      value = _arrange(tensors[entry.name.format(i)], entry.kind)
      if stacked is None:
        stacked = np.empty((config.num_hidden_layers, *value.shape), np.float32)
      stacked[i] = value
    yield entry.path, stacked


def params_from_tensors(
  config: WavLMConfig, tensors: tensors_lib.Tensors
) -> Params:
  """Parameters of `WavLM(config)` from tensors with Hugging Face's names.

  Both spellings of the weight norm are read, and the names of models for a
  task ('wavlm.' before every name, heads beside them). All are cast to float32.

  Raises:
    ConvertError: if a name is missing, unknown, or has another shape; the
      message lists all of them, on both sides.
  """
  tensors = _canonical(tensors)
  # Checkpoints keep the mask vector even where a config masks nothing.
  tensors_lib.check(tensors, expected_shapes(config), frozenset({_MASK}))
  params: Params = {}
  for path, value in _arrays(config, tensors):
    place(params, path, value)
  return params


def read_config(directory: os.PathLike[str] | str) -> WavLMConfig:
  """Reads DIRECTORY/config.json.

  Raises:
    ConvertError: if it is missing, not JSON, or not a WavLM that can be read.
  """
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
  """Reads a WavLM from a local directory.

  Args:
    directory: has config.json and model.safetensors or pytorch_model.bin (the
      first is preferred; the second needs PyTorch and runs no code).

  Returns:
    The config, and float32 NumPy parameters of `jaxser.nn.wavlm.WavLM`.

  Raises:
    ConvertError: if a file is missing or damaged, or does not fit the config.
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
  return config, params_from_tensors(config, opened)
