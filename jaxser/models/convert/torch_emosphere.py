"""The authors' EmoSphere-SER checkpoints -> parameters of `EmoSphere`.

Four state dicts: `best_ssl.pt` (a Hugging Face WavLM), `best_pool.pt`,
`best_dim_ser.pt` and `best_sev_ser.pt` (the region head). They are read with
`weights_only`; `params_from_tensors` takes arrays and needs no PyTorch.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxser.core.errors import ConvertError
from jaxser.models.convert import hf_wavlm
from jaxser.models.convert import tensors as tensors_lib
from jaxser.systems.emosphere import EmoSphere

Params = dict[str, Any]

FILES = {
  'ssl': 'best_ssl.pt',
  'pool': 'best_pool.pt',
  'dim_head': 'best_dim_ser.pt',
  'region_head': 'best_sev_ser.pt',
}
"""Part -> file; the authors' names begin with the part here, not in files."""


class _Entry(NamedTuple):
  path: tuple[str, ...]
  name: str
  shape: tuple[int, ...]


def _linear(path, name, inputs, outputs) -> list[_Entry]:
  return [
    _Entry((*path, 'kernel'), f'{name}.weight', (outputs, inputs)),
    _Entry((*path, 'bias'), f'{name}.bias', (outputs,)),
  ]


def _style(width: int, inputs: int) -> list[_Entry]:
  entries = []
  for ours, theirs, size in (
    ('spectral_0', 'spectral.0.fc', inputs),
    ('spectral_1', 'spectral.3.fc', width),
    ('out', 'fc.fc', width),
  ):
    entries += _linear(('pool', ours), f'pool.{theirs}', size, width)
  for ours, theirs in (
    ('query', 'w_qs'),
    ('key', 'w_ks'),
    ('value', 'w_vs'),
    ('out', 'fc'),
  ):
    entries += _linear(
      ('pool', 'attention', ours), f'pool.slf_attn.{theirs}', width, width
    )
  for i in range(2):
    path, name = ('pool', f'temporal_{i}', 'conv'), f'pool.temporal.{i}.conv1'
    entries += [
      _Entry((*path, 'kernel'), f'{name}.conv.weight', (2 * width, width, 5)),
      _Entry((*path, 'bias'), f'{name}.conv.bias', (2 * width,)),
    ]
  return entries


def _statistics(inputs: int) -> list[_Entry]:
  return [
    *_linear(('pool', 'linear'), 'pool.sap_linear', inputs, inputs),
    _Entry(('pool', 'attention'), 'pool.attention', (inputs, 1)),
  ]


def _head(path: str, name: str, inputs: int, width: int, outputs: int):
  return [
    *_linear((path, 'hidden'), f'{name}.fc.0.0', inputs, width),
    _Entry((path, 'norm', 'scale'), f'{name}.fc.0.1.weight', (width,)),
    _Entry((path, 'norm', 'bias'), f'{name}.fc.0.1.bias', (width,)),
    *_linear((path, 'out'), f'{name}.out.0', width, outputs),
  ]


def _entries(system: EmoSphere, inputs: int) -> list[_Entry]:
  """Every parameter behind the encoder, whose frames have `inputs` channels."""
  if system.pooling == 'style':
    entries, pooled = _style(system.width, inputs), system.width
  else:
    entries, pooled = _statistics(inputs), 2 * inputs
  entries += _head('vad_head', 'dim_head', pooled, system.width, 3)
  if system.classes:
    entries += _head(
      'auxiliary_head', 'region_head', pooled, system.width, system.classes
    )
  return entries


def expected_shapes(
  system: EmoSphere, inputs: int
) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor behind the encoder, in PyTorch's layout."""
  return {entry.name: entry.shape for entry in _entries(system, inputs)}


def _arrange(entry: _Entry, value: np.ndarray) -> np.ndarray:
  """PyTorch's layout -> Flax's; the attention vector is the same in both."""
  if entry.path[-1] == 'kernel':
    value = value.transpose()
  return np.ascontiguousarray(value)


def params_from_tensors(
  system: EmoSphere, tensors: tensors_lib.Tensors, inputs: int
) -> Params:
  """Parameters behind the encoder from tensors with the authors' names.

  Args:
    system: pooling, width and number of regions of the checkpoint.
    tensors: names begin with 'pool.', 'dim_head.' or 'region_head.'.
    inputs: channels of the frames that are pooled, 1024 for WavLM large.

  Returns:
    {'pool', 'vad_head', 'auxiliary_head'} of the network, float32.

  Raises:
    ConvertError: listing every name and shape that differs, on both sides.
  """
  tensors_lib.check(tensors, expected_shapes(system, inputs))
  params: Params = {}
  for entry in _entries(system, inputs):
    value = _arrange(entry, tensors[entry.name])
    hf_wavlm.place(params, entry.path, value)
  return params


def names_of(
  system: EmoSphere, params: Params, inputs: int
) -> dict[str, np.ndarray]:
  """Leaves of a tree like `params_from_tensors`' under the authors' names.

  Layouts stay Flax's: for norms, counts and tables of names.
  """
  leaves = {}
  for entry in _entries(system, inputs):
    value = params
    for part in entry.path:
      value = value[part]
    leaves[entry.name] = np.asarray(value)
  return leaves


def read_parts(
  directory: os.PathLike[str] | str, parts: list[str]
) -> tensors_lib.Tensors:
  """The files of these parts as one mapping, names prefixed by the part.

  Raises:
    ConvertError: if a file is missing or not a state dict.
  """
  directory = pathlib.Path(directory)
  absent = [
    FILES[part] for part in parts if not (directory / FILES[part]).is_file()
  ]
  if absent:
    raise ConvertError(
      f'{directory} lacks {", ".join(absent)}; it must hold the'
      f' {len(parts)} files {", ".join(FILES[part] for part in parts)}.'
    )
  opened = {
    part: tensors_lib.open_torch(directory / FILES[part]) for part in parts
  }
  shapes = {
    f'{part}.{name}': shape
    for part, tensors in opened.items()
    for name, shape in tensors.shapes.items()
  }

  def read(name):
    part, _, rest = name.partition('.')
    return opened[part][rest]

  return tensors_lib.Tensors(str(directory), shapes, read)


def load(
  directory: os.PathLike[str] | str, system: EmoSphere
) -> list[tuple[Params, Params]]:
  """Reads the authors' four files.

  Args:
    directory: holds the files of `FILES`; that of the region head is not
      needed without one.
    system: encoder 'wavlm', its `wavlm` being the checkpoint's config.

  Returns:
    One (params, state), for `system.predict`. The authors' padding is that of
    `padding='published'`.

  Raises:
    ConvertError: if a file is missing, holds more than tensors, or does not
      fit the system; names and shapes are listed on both sides.
  """
  if system.encoder != 'wavlm':
    raise ConvertError(
      f"{directory} holds a WavLM; the system's encoder is {system.encoder!r}."
      " Set it to 'wavlm'."
    )
  heads = ['pool', 'dim_head', *(['region_head'] if system.classes else [])]
  opened = read_parts(directory, ['ssl', *heads])
  config = system.wavlm_config

  def part(names):
    return opened.renamed({n: n for n in opened if n.split('.')[0] in names})

  ssl = opened.renamed(
    {n.removeprefix('ssl.'): n for n in opened if n.startswith('ssl.')}
  )
  params = {
    'encoder': hf_wavlm.params_from_tensors(config, ssl),
    **params_from_tensors(system, part(heads), config.hidden_size),
  }
  return [(params, system.initial_state())]
