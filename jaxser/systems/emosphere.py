"""EmoSphere-SER: valence, arousal, dominance, guided by regions of a sphere.

Source: Cho, Oh, Kim, Lee, "EmoSphere-SER: Enhancing Speech Emotion Recognition
Through Spherical Representation with Auxiliary Classification", Interspeech
2025, 4653-4657 (arXiv 2505.19693).
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.nn.wavlm_config import WavLMConfig
from jaxser.ops import spherical
from jaxser.ops.collectives import axis_size
from jaxser.ops.concordance import concordance
from jaxser.ops.cross_entropy import weighted_cross_entropy
from jaxser.systems.base import Array, Batch, Progress, System, Tree
from jaxser.systems.emosphere_network import DIMENSIONS, Network

_CHOICES = {
  'encoder': ('logmel', 'wavlm', 'frames'),
  'pooling': ('style', 'attentive_statistics'),
  'auxiliary': ('regions', 'categories'),
  'region_weight': ('decay', 'constant', 'off'),
  'padding': ('exact', 'published'),
  'freeze': ('none', 'conv', 'encoder'),
  'dtype': ('float32', 'bfloat16'),
}


@dataclasses.dataclass(frozen=True)
class EmoSphere(System):
  """The system and its ablations; the defaults are the light front end.

  Attributes:
    vad_range: lowest and highest value of the corpus' scale.
    encoder: 'logmel' over stored log-mel, 'wavlm' over waveforms, or 'frames'
      over stored hidden states [frames, width].
    wavlm: for 'wavlm': a size of `wavlm_config.SIZES`, or the text of a
      Hugging Face config.json.
    width: d of style pooling, of the heads and of the log-mel encoder; 1024 in
      the paper.
    stride: of the log-mel encoder: 2 for 10 ms frames, 1 for 23 ms.
    pooling: 'style' or the baseline 'attentive_statistics'.
    auxiliary: what the second head classifies: 'regions' or 'categories', the
      emotion labels.
    regions: 'octants', or an angle in degrees: 180, 90, 60, 45, 30.
    categories: number of emotion labels, for auxiliary 'categories'.
    region_weight: lambda of the second loss: 'decay' is 1 - 0.99 e /
      decay_epochs in epoch e < decay_epochs and 0 from then on, 'constant' is
      1, 'off' has no second head.
    decay_epochs: see above; 5 in the paper.
    weighted: weight the second loss by total / (N count) of the training split,
      which `prepare` counts.
    class_weights: with `weighted`, these instead.
    centre: origin of the sphere, (valence, arousal, dominance) on the corpus'
      scale; None is the middle of the scale.
    centre_label: emotion label whose mean in the training split, from
      `prepare`, is the origin; -1: `centre` is.
    dropout: of pooling and the log-mel encoder.
    head_dropout: of the heads.
    padding: 'exact' lets no padding into any number; 'published' repeats the
      authors' frame count, the leak of their convolutions, and the norm over
      padding of WavLM base, so that batches matter slightly.
    freeze: what of WavLM is not trained: 'none', 'conv' (the published way) or
      the whole 'encoder', which then runs without dropout.
    dtype: of WavLM's and the pooling's products; parameters, norms, heads and
      losses are float32.
    remat: recompute WavLM's layers in the backward pass to save memory.
    unroll: layers of WavLM per step of the scan over them.
  """

  task = 'regression'

  vad_range: tuple[float, float] = (1.0, 7.0)
  encoder: str = 'logmel'
  wavlm: str = 'tiny'
  width: int = 128
  stride: int = 1
  pooling: str = 'style'
  auxiliary: str = 'regions'
  regions: str | float = 'octants'
  categories: int = 0
  region_weight: str = 'decay'
  decay_epochs: int = 5
  weighted: bool = False
  class_weights: tuple[float, ...] = ()
  centre: tuple[float, float, float] | None = None
  centre_label: int = -1
  dropout: float = 0.1
  head_dropout: float = 0.5
  padding: str = 'exact'
  freeze: str = 'conv'
  dtype: str = 'float32'
  remat: bool = False
  unroll: int = 1

  def __post_init__(self) -> None:
    for name, possible in _CHOICES.items():
      value = getattr(self, name)
      if value not in possible:
        raise ValueError(f'{name} is {value!r}; it must be one of {possible}')
    lo, hi = self.vad_range
    if not lo < hi:
      raise ValueError(f'vad_range is {self.vad_range}; lo must be below hi')
    if self.auxiliary == 'categories' and self.categories < 2:
      raise ValueError(
        f'categories is {self.categories}; auxiliary categories need at least 2'
      )
    if self.decay_epochs < 1:
      raise ValueError(f'decay_epochs is {self.decay_epochs}; it must be >= 1')
    spherical.region_count(self.regions)
    if self.class_weights and len(self.class_weights) != self.classes:
      raise ValueError(
        f'{len(self.class_weights)} class_weights for {self.classes} classes'
      )
    if self.encoder == 'wavlm':
      WavLMConfig.from_text(self.wavlm)

  @property
  def classes(self) -> int:
    """Outputs of the second head; 0 without one."""
    if self.region_weight == 'off':
      return 0
    if self.auxiliary == 'categories':
      return self.categories
    return spherical.region_count(self.regions)

  @property
  def sphere(self) -> Mapping[str, Any]:
    """What the results count regions by; no fold's own centre is in it."""
    return {
      'regions': self.regions,
      'vad_range': list(self.vad_range),
      'centre': list(self.centre) if self.centre else None,
    }

  @property
  def region_output(self) -> str | None:
    """The second head's answer, where it classifies regions."""
    there = self.classes and self.auxiliary == 'regions'
    return 'region_logits' if there else None

  @property
  def wavlm_config(self) -> WavLMConfig:
    """The parsed `wavlm` setting."""
    return WavLMConfig.from_text(self.wavlm)

  @property
  def min_length(self) -> int:
    """Fewest samples or frames of an utterance that give one frame."""
    if self.encoder == 'wavlm':
      return self.wavlm_config.receptive_field
    return 1

  def network(self) -> Network:
    """The Flax module of these settings."""
    wavlm = self.encoder == 'wavlm'
    return Network(
      encoder=self.encoder,
      wavlm=self.wavlm_config if wavlm else None,
      width=self.width,
      stride=self.stride,
      pooling=self.pooling,
      classes=self.classes,
      dropout=self.dropout,
      head_dropout=self.head_dropout,
      published_padding=self.padding == 'published',
      freeze=self.freeze,
      dtype=jnp.dtype(self.dtype),
      remat=self.remat,
      unroll=self.unroll,
    )

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    """Returns fresh (params, state) for batches shaped like `batch`."""
    # One row, of a few frames: no parameter depends on either. Compiled as one,
    # so that no activation is computed.
    short = batch['features'][:1, : self.min_length + 8]
    if short.shape[1] < self.min_length:
      raise ValueError(
        f'batches are padded to {short.shape[1]} samples, fewer than the'
        f' receptive field of {self.min_length}; raise config.data.max_length'
      )
    create = functools.partial(
      self.network().init, train=False, auxiliary=self.classes > 0
    )
    one = jnp.ones(1, jnp.int32)
    variables = jax.jit(create)(rng, jnp.zeros_like(short), one, one)
    statistics = {k: v for k, v in variables.items() if k != 'params'}
    return variables['params'], {**statistics, **self.initial_state()}

  def initial_state(self) -> Tree:
    """What the state holds besides statistics, before `prepare`."""
    split = {}
    if self.classes and not self._counted:
      weights = self.class_weights if self.weighted else (1.0,) * self.classes
      split['class_weights'] = jnp.asarray(weights, jnp.float32)
    return {'split': split}

  @property
  def _counted(self) -> bool:
    return self.weighted and not self.class_weights and self.classes > 0

  def prepare(self, state: Tree, vad: Array, label: Array) -> Tree:
    """Puts into the state what is counted on the training split.

    Host side, once per fold, before training. Under vmap over folds each fold
    then has its own class weights and origin.

    Args:
      state: from `init`.
      vad: [n, 3] (valence, arousal, dominance) of the training utterances, NaN
        where unknown.
      label: int [n], their emotion labels, -1 where unknown.

    Returns:
      The state with the class weights of the second loss and, where asked for,
      the mean of the neutral utterances.

    Raises:
      ValueError: if no training utterance has what is to be counted.
    """
    vad, label = np.asarray(vad, np.float32), np.asarray(label)
    known = np.isfinite(vad).all(-1)
    split = dict(state['split'])
    centre = self.centre
    if self.centre_label >= 0:
      neutral = known & (label == self.centre_label)
      if not neutral.any():
        raise ValueError(
          f'centre_label is {self.centre_label}, but no training utterance with'
          ' that label has valence, arousal and dominance'
        )
      centre = tuple(float(x) for x in vad[neutral].mean(0))
      split['centre'] = jnp.asarray(centre, jnp.float32)
    if self._counted:
      if self.auxiliary == 'categories':
        index = label[label >= 0]
      else:
        index = self._region(jnp.asarray(vad[known]), centre)
      if not len(index):
        raise ValueError(
          f'no training utterance has what the auxiliary task {self.auxiliary!r}'
          ' is to learn'
        )
      split['class_weights'] = spherical.region_weights(index, self.classes)
    return {**state, 'split': split}

  def _region(
    self, vad: Array, centre: Array | Sequence[float] | None
  ) -> Array:
    cube = spherical.to_cube(vad, *self.vad_range, centre)
    return spherical.region_index(cube, self.regions)

  def region_of(self, state: Tree, vad: Array) -> Array:
    """Region int32 [...] of points [..., 3] on the corpus' scale."""
    return self._region(vad, state['split'].get('centre', self.centre))

  def loss(
    self,
    params: Tree,
    state: Tree,
    batch: Batch,
    rng: Array,
    progress: Progress,
    *,
    phase: Hashable = 'main',
  ) -> tuple[Array, dict[str, Any]]:
    """Sum over dimensions of 1 - CCC, plus lambda times the second loss.

    Utterances whose VAD is unknown (NaN) enter neither CCC nor regions;
    those without a label do not enter the loss over categories.

    Raises:
      ValueError: if the phase needs a second head that does not exist, or the
        state lacks what `prepare` counts.
    """
    second = phase == 'regions'
    if second and not self.classes:
      raise ValueError("phase 'regions' needs region_weight other than 'off'")
    needed = {'class_weights': self.classes, 'centre': self.centre_label >= 0}
    missing = {k for k, v in needed.items() if v} - set(state['split'])
    if missing:
      raise ValueError(
        f'the state lacks {sorted(missing)}: call prepare(state, vad, label)'
        ' with the training split first'
      )
    collections = {k: v for k, v in state.items() if k != 'split'}
    out, changed = self.network().apply(
      {'params': params, **collections},
      *_inputs(batch),
      train=True,
      auxiliary=second,
      rngs={'dropout': rng},
      mutable=list(collections),
    )
    devices = axis_size()
    lo, hi = self.vad_range
    real = batch['mask'] > 0
    known = real & jnp.all(jnp.isfinite(batch['vad']), axis=-1)
    vad = jnp.where(known[:, None], batch['vad'], lo)
    target = (spherical.reorder(vad, spherical.VAD, DIMENSIONS) - lo) / (
      hi - lo
    )
    ccc = concordance(out['unit_vad'], target, known)
    loss = jnp.sum(1 - ccc) / devices
    metrics = {
      f'ccc_{name}': ccc[i] / devices for i, name in enumerate(DIMENSIONS)
    }
    if second:
      if self.auxiliary == 'categories':
        index, counts = batch['label'], real & (batch['label'] >= 0)
      else:
        index, counts = self.region_of(state, vad), known
      entropy = weighted_cross_entropy(
        out['logits'],
        index,
        state['split']['class_weights'],
        counts,
      )
      scale = self.auxiliary_weight(progress.epoch)
      loss = loss + scale * entropy
      metrics[f'{self.auxiliary}_loss'] = entropy
      metrics[f'{self.auxiliary}_weight'] = scale / devices
    return loss, {
      'state': {**changed, 'split': state['split']},
      'metrics': metrics,
    }

  def auxiliary_weight(self, epoch: Array) -> Array:
    """lambda(epoch), float32 []; see `region_weight`."""
    epoch = jnp.asarray(epoch, jnp.float32)
    if self.region_weight == 'off':
      return jnp.zeros_like(epoch)
    if self.region_weight == 'constant':
      return jnp.ones_like(epoch)
    return jnp.where(
      epoch < self.decay_epochs, 1 - 0.99 * epoch / self.decay_epochs, 0.0
    )

  def phase(self, epoch: int) -> Hashable:
    """'regions' while the second head counts, then 'main', without it."""
    if self.region_weight == 'constant':
      return 'regions'
    early = self.region_weight == 'decay' and epoch < self.decay_epochs
    return 'regions' if early else 'main'

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Answers in evaluation mode.

    Returns:
      'vad' [batch, 3], valence, arousal, dominance on the corpus' scale,
      clipped to it; 'embedding' [batch, width], the pooled vector; and with a
      second head 'region_logits' or 'category_logits' [batch, classes].
    """
    collections = {k: v for k, v in state.items() if k != 'split'}
    out = self.network().apply(
      {'params': params, **collections},
      *_inputs(batch),
      train=False,
      auxiliary=self.classes > 0,
    )
    lo, hi = self.vad_range
    vad = spherical.reorder(out['unit_vad'], DIMENSIONS, spherical.VAD)
    answers = {
      'vad': jnp.clip(vad * (hi - lo) + lo, lo, hi),
      'embedding': out['embedding'],
    }
    if self.classes:
      name = 'region' if self.auxiliary == 'regions' else 'category'
      answers[f'{name}_logits'] = out['logits']
    return answers

  def frozen(self, params: Tree, phase: Hashable) -> Tree | None:
    """True for what `freeze` names of WavLM, and for a head that is not used.

    Without a gradient the second head would still move, by Adam's momentum and
    by weight decay.
    """
    still = []
    if self.encoder == 'wavlm' and self.freeze != 'none':
      whole = self.freeze == 'encoder'
      still.append(('encoder',) if whole else ('encoder', 'feature_extractor'))
    if self.classes and phase != 'regions':
      still.append(('auxiliary_head',))
    if not still:
      return None

    def under(path, _):
      names = tuple(part.key for part in path)
      return any(names[: len(prefix)] == prefix for prefix in still)

    return jax.tree_util.tree_map_with_path(under, params)


def _inputs(batch: Batch) -> tuple[Array, Array, Array]:
  """Features, length with padding rows at 0, and global rows of a batch."""
  length = jnp.where(batch['mask'] > 0, batch['length'], 0)
  return batch['features'], length, batch['row']
