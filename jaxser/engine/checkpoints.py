"""Checkpoints: the only file that imports Orbax.

A checkpoint is complete: arrays (parameters, statistics, optimiser, RNG, best
epochs) and a JSON part (position in the data, curves so far). Orbax writes it
under a temporary name and renames it, so the last good one survives whatever
happens meanwhile.

With several processes every one of them calls the same methods, and the folder
must be shared. All write: the parts of an array that lives on all their devices
are written by the processes that hold them. Arrays come back to where those of
the template live, on whatever number of devices that is.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from orbax import checkpoint as ocp

from jaxser.core.errors import UserError
from jaxser.engine import distributed

Tree = Any


class CheckpointError(UserError):
  """A checkpoint cannot be written or read; says which, why, what to do."""


class Checkpoints:
  """The checkpoints of one training, of which the newest is kept."""

  def __init__(self, directory: os.PathLike[str] | str):
    """Opens (and creates) a folder; removes what a killed process left.

    Raises:
      CheckpointError: if the processes see different checkpoints there.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=True,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
      ),
    )
    mine = -1 if self.latest is None else self.latest
    first = int(distributed.from_main(np.int64(mine)))
    if mine != first:
      raise CheckpointError(
        f'process {jax.process_index()} sees checkpoint {mine} in '
        f'{self._directory}, process 0 sees {first} (-1: none). --workdir must '
        'be a folder that all processes share.'
      )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused: object) -> None:
    self._manager.close()

  @property
  def latest(self) -> int | None:
    """Number of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, number: int, arrays: Tree, about: Mapping[str, Any]) -> None:
    """Writes a checkpoint; PRNG keys are written as their raw words.

    Args:
      number: position; greater than that of the one before. Saving the newest
        number again does nothing: the same position has the same content.
      arrays: tree of arrays.
      about: anything that JSON holds.

    Raises:
      CheckpointError: if it cannot be written (a full disk, say). The one
        before is untouched.
    """
    if number == self.latest:
      return
    packed = _pack(arrays)
    try:
      self._manager.save(
        number,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(packed),
          about=ocp.args.JsonSave(
            {'about': dict(about), 'shapes': _shapes(packed)}
          ),
        ),
      )
      self._manager.wait_until_finished()
    except (OSError, ValueError) as error:
      kept = self.latest
      raise CheckpointError(
        f'checkpoint {number} could not be written to {self._directory} '
        f'({type(error).__name__}: {str(error).strip()[:300]}). '
        + (
          f'Checkpoint {kept} is intact; '
          if kept is not None
          else 'There is none before it; '
        )
        + 'free disk space and run the same command again to continue.'
      ) from error

  def restore_about(self) -> dict[str, Any]:
    """The JSON part of the newest checkpoint."""
    return self._restore(about=ocp.args.JsonRestore())['about']['about']

  def restore(self, template: Tree) -> Tree:
    """The arrays of the newest checkpoint.

    They are on the host, those excepted which in the template are spread over
    several processes: they come back in the template's way.

    Args:
      template: a tree of the same structure and shapes.

    Raises:
      CheckpointError: if there is none, or it does not fit the template.
    """
    packed = jax.tree.map(_blank, _pack(template))
    here = _shapes(packed)
    there = self._restore(about=ocp.args.JsonRestore())['about']['shapes']
    wrong = [
      f'{name}: here {here.get(name, "absent")}, checkpoint '
      f'{there.get(name, "absent")}'
      for name in sorted(here.keys() | there.keys())
      if here.get(name) != there.get(name)
    ]
    if wrong:
      more = f'; and {len(wrong) - 5} more' if len(wrong) > 5 else ''
      raise CheckpointError(
        f'the checkpoint in {self._directory} was written by another '
        f'configuration: {"; ".join(wrong[:5])}{more}. Use the configuration '
        'that wrote it, or another --workdir.'
      )
    restored = self._restore(arrays=ocp.args.StandardRestore(packed))
    return _unpack(restored['arrays'], template)

  def _restore(self, **items: Any) -> Any:
    """Items of the newest checkpoint."""
    if self.latest is None:
      raise CheckpointError(
        f'{self._directory} holds no complete checkpoint; train first, or '
        'check the path.'
      )
    try:
      return self._manager.restore(
        self.latest, args=ocp.args.Composite(**items)
      )
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise CheckpointError(
        f'checkpoint {self.latest} in {self._directory} is damaged '
        f'({type(error).__name__}: {str(error).strip()[:300]}). Remove its '
        'folder and run the command again.'
      ) from error


def _shapes(tree: Tree) -> dict[str, list[int]]:
  """Name of every array, as a path, with its shape."""
  return {
    jax.tree_util.keystr(path): list(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _is_key(x: Any) -> bool:
  return jax.dtypes.issubdtype(
    getattr(x, 'dtype', np.float32), jax.dtypes.prng_key
  )


def _local(x: Any) -> Any:
  """On the host, unless other processes hold parts of it."""
  shared = isinstance(x, jax.Array) and not x.is_fully_addressable
  return x if shared else np.asarray(x)


def _pack(tree: Tree) -> Tree:
  """What Orbax can write; keys as words."""
  return jax.tree.map(
    lambda x: _local(jax.random.key_data(x) if _is_key(x) else x), tree
  )


def _blank(x: Any) -> Any:
  """An array's shape and type, and its place if it is not the host."""
  if isinstance(x, jax.Array):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  return np.zeros_like(x)


def _unpack(tree: Tree, template: Tree) -> Tree:
  return jax.tree.map(
    lambda t, x: jax.random.wrap_key_data(x) if _is_key(t) else _local(x),
    template,
    tree,
  )
