"""Checkpoints: the only file that imports Orbax.

A checkpoint is complete: arrays, and a position in training. Orbax writes it
under a temporary name and renames it, so the last good one survives. With
several processes every one calls the same methods, and the folder must be
shared.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging
from orbax import checkpoint as ocp

from jaxser.core.errors import UserError
from jaxser.core.files import Path
from jaxser.engine import distributed

Tree = Any


class CheckpointError(UserError):
  """A checkpoint cannot be written or read; says which, why, what to do."""


class Checkpoints:
  """The checkpoints of a folder, of which the newest is kept."""

  def __init__(self, directory: Path):
    """Opens (and creates) a folder; removes what a killed process left."""
    self._directory = pathlib.Path(directory).absolute()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=1,
      create=True,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=False,
    )
    self._manager = ocp.CheckpointManager(self._directory, options=options)
    number = -1 if self.latest is None else self.latest
    first = int(distributed.from_main(np.array(number)))
    if number != first:
      raise CheckpointError(
        f'process {jax.process_index()} sees checkpoint {number} in '
        f'{self._directory}, process 0 sees {first} (-1: none). --workdir must '
        'be a folder that all processes share.'
      )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused: object) -> None:
    self._manager.close()

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, number: int, arrays: Tree, position: dict[str, Any]) -> None:
    """Writes host arrays and a position that JSON holds.

    The number is greater than the one before. Saving the newest one again does
    nothing: the same position has the same content.
    """
    if number == self.latest:
      return
    named = _named(arrays)
    shapes = {name: list(value.shape) for name, value in named.items()}
    content = {'position': position, 'shapes': shapes}
    items = ocp.args.Composite(
      arrays=ocp.args.StandardSave(named), position=ocp.args.JsonSave(content)
    )
    verbosity = logging.get_verbosity()
    # Orbax logs a traceback of every error that it then raises.
    logging.set_verbosity(logging.FATAL)
    try:
      self._manager.save(number, args=items)
      self._manager.wait_until_finished()
    except (OSError, ValueError) as error:
      kept = self.latest
      there = f'Checkpoint {kept} is intact; '
      there = there if kept is not None else 'There is none before it; '
      raise CheckpointError(
        f'checkpoint {number} could not be written to {self._directory} '
        f'({type(error).__name__}: {str(error).strip()[:300]}). {there}free disk '
        'space and run the same command again to continue.'
      ) from error
    finally:
      logging.set_verbosity(verbosity)

  def restore_position(self) -> dict[str, Any]:
    return self._restore('position', ocp.args.JsonRestore())['position']

  def restore(self, template: Tree) -> Tree:
    """Returns host arrays in the structure, shapes and dtypes of a template."""
    named = _named(template)
    blank = {name: np.zeros(x.shape, x.dtype) for name, x in named.items()}
    wanted = {name: list(value.shape) for name, value in blank.items()}
    saved = self._restore('position', ocp.args.JsonRestore())['shapes']
    wrong = [
      f'{name}: here {wanted.get(name, "absent")}, checkpoint '
      f'{saved.get(name, "absent")}'
      for name in sorted(wanted.keys() | saved.keys())
      if wanted.get(name) != saved.get(name)
    ]
    if wrong:
      more = f'; and {len(wrong) - 5} more' if len(wrong) > 5 else ''
      raise CheckpointError(
        f'the checkpoint in {self._directory} was written by another '
        f'configuration: {"; ".join(wrong[:5])}{more}. Use the configuration '
        'that wrote it, or another --workdir.'
      )
    named = self._restore('arrays', ocp.args.StandardRestore(blank))
    leaves = [np.asarray(named[name]) for name in blank]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)

  def _restore(self, item: str, args: Any) -> Any:
    if self.latest is None:
      raise CheckpointError(
        f'{self._directory} holds no complete checkpoint; train first, or '
        'check the path.'
      )
    items = ocp.args.Composite(**{item: args})
    try:
      return self._manager.restore(self.latest, args=items)[item]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise CheckpointError(
        f'checkpoint {self.latest} in {self._directory} is damaged '
        f'({type(error).__name__}: {str(error).strip()[:300]}). Remove its '
        'folder and run the command again.'
      ) from error


def _named(tree: Tree) -> dict[str, Any]:
  """Returns the leaves of a tree by their paths, in the order of the tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
