"""The authors' EmoSphere-SER checkpoints -> parameters of `EmoSphere`.

Four state dicts: a Hugging Face WavLM, the pooling, the VAD head and the region
head. They are read with `weights_only`.
"""

import pathlib

import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError
from jaxser.core.files import Path
from jaxser.models import convert
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
    ('^params/', ''),
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


def shapes(system: EmoSphere, inputs: int = 0) -> Tree:
  """Returns our parameters with shapes for leaves."""
  row = [] if system.encoder == 'wavlm' else [inputs]
  tree = convert.shapes_of(system, system.min_length + 8, *row)
  return {'params': tree['params']}


def load(directory: Path, system: EmoSphere) -> list[tuple[Tree, Tree]]:
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
  if absent := [path.name for path in files.values() if not path.is_file()]:
    raise ConvertError(
      f'{directory} lacks {", ".join(absent)}; it must hold the '
      f'{len(files)} files {", ".join(path.name for path in files.values())}.'
    )
  opened = {part: tensors_lib.open_torch(path) for part, path in files.items()}
  opened['ssl'] = hf_wavlm.canonical(opened['ssl'])
  sizes = {
    f'{part}.{name}': shape
    for part, tensors in opened.items()
    for name, shape in tensors.shapes.items()
  }

  def read(name: str) -> np.ndarray:
    part, _, rest = name.partition('.')
    return opened[part].read(rest)

  together = tensors_lib.Tensors(str(directory), sizes, read)
  params, _ = convert.from_named(together, NAMING, shapes(system))
  return [(params, system.initial_state())]
