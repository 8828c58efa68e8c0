"""The authors' EmoSphere-SER checkpoints -> parameters of `EmoSphere`.

Four state dicts: a Hugging Face WavLM, the pooling, the VAD head and the region
head. They are read with `weights_only`.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.nn import hf_wavlm
from jaxser.systems.base import Tree
from jaxser.systems.emosphere import EmoSphere

FILES = {
  'ssl': 'best_ssl.pt',
  'pool': 'best_pool.pt',
  'dim_head': 'best_dim_ser.pt',
  'region_head': 'best_sev_ser.pt',
}
"""Part -> file; names begin with the part here, not in the files."""

NAMING = tensors_lib.Naming(
  rules=(
    ('^pool/spectral_0/', 'pool.spectral.0.fc/'),
    ('^pool/spectral_1/', 'pool.spectral.3.fc/'),
    ('^pool/out/', 'pool.fc.fc/'),
    ('^pool/attention/query/', 'pool.slf_attn.w_qs/'),
    ('^pool/attention/key/', 'pool.slf_attn.w_ks/'),
    ('^pool/attention/value/', 'pool.slf_attn.w_vs/'),
    ('^pool/attention/out/', 'pool.slf_attn.fc/'),
    (r'^pool/temporal_(\d)/conv/', r'pool.temporal.\1.conv1.conv/'),
    ('^pool/linear/', 'pool.sap_linear/'),
    ('^vad_head/', 'dim_head/'),
    ('^auxiliary_head/', 'region_head/'),
    ('_head/hidden/', '_head.fc.0.0/'),
    ('_head/norm/', '_head.fc.0.1/'),
    ('_head/out/', '_head.out.0/'),
    ('^encoder/', 'ssl/'),
    *hf_wavlm.RULES,
  ),
  axes=hf_wavlm.AXES,
  ignored=r'^ssl\.masked_spec_embed$',
)


def _shapes(system: EmoSphere, inputs: int) -> Tree:
  """Returns our parameters as shapes, for features of so many channels."""
  wavlm = system.encoder == 'wavlm'
  shape = (1, system.min_length + 8, *([] if wavlm else [inputs]))
  batch = {
    'features': jnp.zeros(shape),
    'length': jnp.full(1, shape[1]),
    'mask': jnp.ones(1),
    'row': jnp.zeros(1, jnp.int32),
  }
  params, _ = jax.eval_shape(system.init, jax.random.key(0), batch)
  return params


def expected_shapes(
  system: EmoSphere, inputs: int = 0
) -> dict[str, tuple[int, ...]]:
  """Returns name -> shape of every tensor, in PyTorch's layout."""
  return tensors_lib.expected(NAMING, _shapes(system, inputs))


def params_from_tensors(
  system: EmoSphere, tensors: tensors_lib.Tensors, inputs: int = 0
) -> Tree:
  """Returns float32 parameters from tensors with the authors' names.

  Args:
    system: encoder, pooling, width and number of regions of the checkpoint.
    tensors: names begin with a part of `FILES`.
    inputs: channels of the frames, where the encoder is not a WavLM.

  Raises:
    ConvertError: listing every name and shape that differs, on both sides.
  """
  return tensors_lib.convert(tensors, NAMING, _shapes(system, inputs))


def names_of(
  system: EmoSphere, params: Tree, inputs: int = 0
) -> dict[str, np.ndarray]:
  """Returns leaves under the authors' names, for norms and counts.

  Layouts stay Flax's.
  """
  del system, inputs
  leaves = tensors_lib.leaves_of(params)
  return {NAMING.name(path): np.asarray(leaf) for path, leaf in leaves.items()}


def load(
  directory: os.PathLike[str] | str, system: EmoSphere
) -> list[tuple[Tree, Tree]]:
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
  files = {
    part: pathlib.Path(directory) / name
    for part, name in FILES.items()
    if part != 'region_head' or system.classes
  }
  absent = [path.name for path in files.values() if not path.is_file()]
  if absent:
    raise ConvertError(
      f'{directory} lacks {", ".join(absent)}; it must hold the '
      f'{len(files)} files {", ".join(path.name for path in files.values())}.'
    )
  opened = {part: tensors_lib.open_torch(path) for part, path in files.items()}
  opened['ssl'] = hf_wavlm.canonical(opened['ssl'])
  named = {
    f'{part}.{name}': (tensors, name)
    for part, tensors in opened.items()
    for name in tensors.shapes
  }

  def read(new: str) -> np.ndarray:
    tensors, name = named[new]
    return tensors.read(name)

  shapes = {new: there.shapes[name] for new, (there, name) in named.items()}
  together = tensors_lib.Tensors(str(directory), shapes, read)
  return [(params_from_tensors(system, together), system.initial_state())]
