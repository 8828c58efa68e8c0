"""Checks of EmoSphere-SER's inputs on the host, before anything is compiled."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxser.ops import spherical
from jaxser.systems.base import Tree
from jaxser.systems.emosphere import EmoSphere


def check_utterances(
  system: EmoSphere, vad: np.ndarray, length: np.ndarray, ids: Sequence[str]
) -> None:
  """Raises on data that cannot be learnt from.

  Args:
    system: knows the scale and the receptive field.
    vad: [n, 3] (valence, arousal, dominance), a row of NaN where unknown.
    length: int [n], samples or frames.
    ids: names for messages.

  Raises:
    ValueError: naming the first utterance that is too short for one frame,
      has some but not all of the three dimensions, or leaves the scale; or if
      the VAD of no utterance is known.
  """
  vad, length = np.asarray(vad), np.asarray(length)
  missing = np.isnan(vad)

  def short(i):
    return (
      f'has {length[i]} samples or frames, fewer than the receptive field of'
      f' {system.min_length}; leave it out'
    )

  def partial(i):
    names = [n for n, m in zip(spherical.VAD, missing[i], strict=True) if m]
    return f'lacks {", ".join(names)}; give all three dimensions or none'

  def outside(i):
    return f'has VAD {vad[i].tolist()} outside of the scale {system.vad_range}'

  lo, hi = system.vad_range
  for wrong, why in (
    (length < system.min_length, short),
    (missing.any(-1) & ~missing.all(-1), partial),
    (((vad < lo) | (vad > hi)).any(-1), outside),
  ):
    rows = np.flatnonzero(wrong)
    if len(rows):
      more = f' (and {len(rows) - 1} more like it)' if len(rows) > 1 else ''
      raise ValueError(f'{ids[rows[0]]} {why(rows[0])}{more}')
  if missing.all():
    raise ValueError(
      f'none of {len(vad)} utterances has valence, arousal and dominance'
    )


def with_encoder(params: Tree, encoder: Tree) -> Tree:
  """Params whose WavLM is a pretrained one, see `jaxser.convert.hf_wavlm`.

  Raises:
    ValueError: if its names or shapes are not those of the system's `wavlm`;
      both sides are listed.
  """

  def shapes(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

  ours, theirs = shapes(params['encoder']), shapes(encoder)
  if ours != theirs:
    differing = sorted(
      f'{name}: system {ours.get(name)}, given {theirs.get(name)}'
      for name in ours.keys() | theirs.keys()
      if ours.get(name) != theirs.get(name)
    )
    raise ValueError(
      'the pretrained encoder is not the one of the setting `wavlm`:\n  '
      + '\n  '.join(differing)
    )
  return {**params, 'encoder': encoder}
