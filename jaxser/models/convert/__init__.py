"""Checkpoints of others, read without executing them.

`load` finds the reader by the system; readers themselves are importable on
their own and need only what their format needs (h5py, safetensors, PyTorch).
"""

import importlib
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core import tensors as tensors_lib
from jaxser.core.errors import ConvertError as ConvertError
from jaxser.core.files import Path
from jaxser.systems.base import System, Tree

# Module of the system -> module that reads its authors' files, and the names
# that those have in a folder.
_READERS = {
  'jaxser.systems.timnet': ('keras_timnet', ('**/*_*.hdf5', '**/*_*.h5')),
  'jaxser.systems.dsnet': ('torch_dsnet', ()),
  'jaxser.systems.emosphere': ('torch_emosphere', ('best_*.pt',)),
}


def is_authors_folder(system: System, path: Path) -> bool:
  """Returns whether a folder holds files that the authors' training leaves."""
  _, patterns = _READERS.get(type(system).__module__, ('', ()))
  folder = pathlib.Path(path).expanduser()
  return any(any(folder.glob(pattern)) for pattern in patterns)


def load(system: System, path: Path) -> list[tuple[Tree, Tree]]:
  """Returns (params, model_state) of every model in a file, in fold order.

  Raises:
    ConvertError: if the file is missing, of another format, or does not fit.
  """
  name, _ = _READERS.get(type(system).__module__, ('', ()))
  if not name:
    return system.load_foreign(path)
  reader = importlib.import_module(f'jaxser.models.convert.{name}')
  return reader.load(path, system)


def shapes_of(system: System, *row: int) -> Tree:
  """Returns {'params', collections of the state} of a system, as shapes."""
  batch = {
    'features': jnp.zeros((1, *row)),
    'length': jnp.full(1, row[0], jnp.int32),
    'mask': jnp.ones(1),
    'row': jnp.zeros(1, jnp.int32),
  }
  params, state = jax.eval_shape(system.init, jax.random.key(0), batch)
  return {'params': params, **state}


def from_named(
  tensors: tensors_lib.Tensors | Mapping[str, np.ndarray],
  naming: tensors_lib.Naming,
  shapes: Tree,
  hint: str = '',
) -> tuple[Tree, Tree]:
  """Returns (params, state) of tensors under the names of others.

  Arguments and errors are those of `jaxser.core.tensors.convert`.
  """
  if not isinstance(tensors, tensors_lib.Tensors):
    tensors = tensors_lib.from_arrays(tensors)
  tree = tensors_lib.convert(tensors, naming, shapes, hint)
  return tree.pop('params'), tree


def to_named(
  naming: tensors_lib.Naming, params: Tree, state: Tree | None = None
) -> dict[str, np.ndarray]:
  """The inverse of `from_named`; parameters only where there is no state."""
  leaves = tensors_lib.leaves_of({'params': params, **(state or {})})
  return {
    naming.name(path): np.ascontiguousarray(
      naming.to_theirs(path, np.asarray(leaf))
    )
    for path, leaf in leaves.items()
  }
