"""From a config and a corpus to EmoSphere-SER, on the host.

What can be seen to be wrong is refused here, before anything is compiled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxser.ops import spherical
from jaxser.systems.base import Tree
from jaxser.systems.emosphere import EmoSphere

# Values of config.model.weights that are no folder.
FRESH = ('', 'random')


def create(model: Mapping[str, Any], corpus: Any) -> EmoSphere:
  """The system of config.model for a corpus with a VAD scale.

  `weights`, if it is a folder with a Hugging Face checkpoint, says which WavLM
  the encoder is; else the size `wavlm` does. `centre` 'neutral' is the mean of
  the training side's neutral utterances.

  Raises:
    ValueError: if the corpus has no VAD, or a setting is not possible.
    ConvertError: if `weights` is no folder with a WavLM.
  """
  if corpus.vad_range is None:
    raise ValueError(
      f'corpus {corpus.name!r} has no valence, arousal and dominance; choose one'
      ' that has, such as demo, emotale, iemocap or msp_podcast'
    )
  settings = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in model.items()
  }
  weights = settings.pop('weights', '')
  if settings.get('encoder') == 'wavlm' and weights not in FRESH:
    # Only here: reading foreign files is nothing that other encoders need.
    from jaxser.models.convert import hf_wavlm

    settings['wavlm'] = hf_wavlm.read_config(weights).to_text()
  if settings.get('centre') == 'neutral':
    if 'neutral' not in corpus.classes:
      raise ValueError(
        "centre is 'neutral', but the corpus has no class of that name; use"
        " 'middle', the middle of the scale"
      )
    settings['centre'] = None
    settings['centre_label'] = list(corpus.classes).index('neutral')
  elif settings.get('centre') == 'middle':
    settings['centre'] = None
  return EmoSphere(
    vad_range=tuple(corpus.vad_range),
    categories=len(corpus.classes),
    **settings,
  )


def pretrained(
  model: Mapping[str, Any], system: EmoSphere
) -> Callable[[Tree], Tree] | None:
  """What puts pretrained weights into fresh parameters, or None.

  Args:
    model: config.model.
    system: made of it.

  Raises:
    ValueError: if `weights` is empty, which only goes with init_from.
    ConvertError: if the checkpoint is damaged or does not fit its config.
  """
  weights = model.get('weights', '')
  if system.encoder != 'wavlm' or weights == 'random':
    return None
  if not weights:
    raise ValueError(
      'encoder=wavlm starts from pretrained weights: give weights=DIR, a folder'
      ' with config.json and model.safetensors of a Hugging Face WavLM, or'
      ' --config.init_from=DIR with the files of a finished training, or, to'
      ' see that everything runs, weights=random,size=tiny'
    )
  from jaxser.models.convert import hf_wavlm

  encoder = hf_wavlm.load(weights)[1]
  return lambda params: with_encoder(params, encoder)


def with_encoder(params: Tree, encoder: Tree) -> Tree:
  """Params whose WavLM is a pretrained one, see `jaxser.models.convert.hf_wavlm`.

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


def check(
  system: EmoSphere, corpus: Any, lengths: np.ndarray, bins: int | None
) -> None:
  """Raises ValueError on a corpus that the system cannot learn from.

  Args:
    system: what is to be trained.
    corpus: `jaxser.data.corpus.Corpus`.
    lengths: int [n], samples or frames of its utterances, as batches have them.
    bins: width of its features, None for waveforms.
  """
  waves = system.encoder == 'wavlm'
  if waves != (bins is None):
    has = 'waveforms' if bins is None else f'frames of {bins} numbers'
    needs = 'waveforms (wave16k)' if waves else 'frames (kaldi16k, wavlm)'
    raise ValueError(
      f'encoder {system.encoder!r} needs {needs}, the features are {has}'
    )
  table = corpus.table
  check_utterances(system, table.vad, lengths, table.ids)


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
