"""EmoSphere-SER: valence, arousal, dominance, guided by regions of a sphere.

Source: Cho, Oh, Kim, Lee, "EmoSphere-SER: Enhancing Speech Emotion Recognition
Through Spherical Representation with Auxiliary Classification", Interspeech
2025, 4653-4657 (arXiv 2505.19693).
"""

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxser.core import tensors
from jaxser.nn import hf_wavlm, layers
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import WavLMConfig
from jaxser.ops import spherical
from jaxser.ops.collectives import axis_size
from jaxser.ops.concordance import concordance
from jaxser.ops.losses import weighted_cross_entropy_share
from jaxser.systems import emosphere_network as network
from jaxser.systems.base import Array, Batch, System, Tree, require

DIMENSIONS = ('arousal', 'dominance', 'valence')
"""Order of the network's outputs, that of the authors' checkpoints."""

_CHOICES = {
  'encoder': ('logmel', 'wavlm', 'frames'),
  'pooling': ('style', 'attentive_statistics'),
  'auxiliary': ('regions', 'categories'),
  'region_weight': ('decay', 'constant', 'off'),
  'padding': ('exact', 'published'),
  'freeze': ('none', 'conv', 'encoder'),
  'dtype': ('float32', 'bfloat16'),
}


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
    decay_epochs: epochs in which the region loss decays; 5 in the paper.
    weighted: weight the second loss by total / (N count) of the training split,
      which `prepare` counts.
    class_weights: with `weighted`, these instead.
    centre: origin of the sphere, VAD on the corpus' scale; None is its middle.
    centre_label: emotion label whose mean in the training split is the origin;
      -1: `centre` is.
    dropout: of pooling and the log-mel encoder.
    head_dropout: of the heads.
    output_scale: factor on the first predictions' spread; at 1, as published,
      they leave the scale on both sides.
    output_centre: of the first predictions, 0 and 1 being the ends of the
      scale; 0 as published.
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

  task: ClassVar[str] = 'regression'

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
  output_scale: float = 1.0
  output_centre: float = 0.0
  padding: str = 'exact'
  freeze: str = 'conv'
  dtype: str = 'float32'
  remat: bool = False
  unroll: int = 1

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    """Returns the system of config.model for a corpus with a VAD scale.

    A folder `weights` with a Hugging Face checkpoint says which WavLM the
    encoder is; `centre` 'neutral' is the mean of the training split's neutral
    utterances.
    """
    if corpus.vad_range is None:
      raise ValueError(
        f'corpus {corpus.name!r} has no valence, arousal and dominance; choose '
        'one that has, such as demo, emotale, iemocap or msp_podcast'
      )
    settings = dict(model)
    weights = settings.pop('weights', '')
    if settings.get('encoder') == 'wavlm' and weights not in ('', 'random'):
      settings['wavlm'] = hf_wavlm.read_config(weights).to_text()
    if (centre := settings.get('centre')) in ('neutral', 'middle'):
      settings['centre'] = None
    if centre == 'neutral':
      if 'neutral' not in corpus.classes:
        raise ValueError(
          "centre is 'neutral', but the corpus has no class of that name; use"
          " 'middle', the middle of the scale"
        )
      settings['centre_label'] = list(corpus.classes).index('neutral')
    scale, categories = tuple(corpus.vad_range), len(corpus.classes)
    return cls(vad_range=scale, categories=categories, **settings)

  def validate(self) -> None:
    lo, hi = self.vad_range
    for name, possible in _CHOICES.items():
      known = getattr(self, name) in possible
      require(self, (name, known, f'one of {possible}'))
    enough = self.auxiliary != 'categories' or self.categories >= 2
    given, number = len(self.class_weights) in (0, self.classes), self.classes
    even = self.pooling != 'style' or self.width % 2 == 0
    require(
      self,
      ('vad_range', lo < hi, 'two numbers, the lower one first'),
      ('categories', enough, 'at least 2 for auxiliary categories'),
      ('decay_epochs', self.decay_epochs >= 1, 'at least 1'),
      ('class_weights', given, f'one number for each of {number} classes'),
      ('width', even, 'even: style pooling has two heads'),
    )
    if self.encoder == 'wavlm':
      WavLMConfig.from_text(self.wavlm)

  def check(self, corpus, lengths) -> None:
    waveforms = len(corpus.feature_shape) == 1
    if (self.encoder == 'wavlm') != waveforms:
      kinds = ('frames (kaldi16k, wavlm)', 'waveforms (wave16k)')
      found = f'frames of {corpus.feature_shape[-1]} numbers'
      raise ValueError(
        f'encoder {self.encoder!r} needs {kinds[not waveforms]}, the features '
        f'are {"waveforms" if waveforms else found}'
      )
    vad, lengths = corpus.table.vad, np.asarray(lengths)
    missing = np.isnan(vad)
    if missing.all():
      raise ValueError(
        f'none of {len(vad)} utterances has valence, arousal and dominance'
      )
    lo, hi = self.vad_range
    for wrong, why in (
      (
        lengths < self.min_length,
        'has {length} samples or frames, fewer than the receptive field of '
        f'{self.min_length}; leave it out',
      ),
      (
        missing.any(-1) & ~missing.all(-1),
        'lacks {lacking}; give all three dimensions or none',
      ),
      (
        ((vad < lo) | (vad > hi)).any(-1),
        f'has VAD {{vad}} outside of the scale {self.vad_range}',
      ),
    ):
      if wrong.any():
        row, more = int(np.argmax(wrong)), int(wrong.sum()) - 1
        lacking = ', '.join(np.array(spherical.VAD)[missing[row]])
        values = {'length': lengths[row], 'vad': vad[row].tolist()}
        reason = why.format(lacking=lacking, **values)
        more = f' (and {more} more like it)' if more else ''
        raise ValueError(f'{corpus.table.ids[row]} {reason}{more}')

  def pretrained(self, model):
    """Returns what puts the WavLM of `weights` into fresh parameters, if any."""
    weights = model.get('weights', '')
    if self.encoder != 'wavlm' or weights == 'random':
      return None
    if not weights:
      raise ValueError(
        'encoder=wavlm starts from pretrained weights: give weights=DIR, a '
        'folder with config.json and model.safetensors of a Hugging Face WavLM,'
        ' or --config.init_from=DIR with the files of a finished training, or,'
        ' to see that everything runs, weights=random,size=tiny'
      )
    encoder = hf_wavlm.load(weights)[1]
    return lambda params: with_encoder(params, encoder)

  @property
  def encoders(self) -> tuple[str, ...]:
    return () if self.encoder == 'frames' else ('encoder',)

  @property
  def classes(self) -> int:
    """Outputs of the second head; 0 without one."""
    if self.region_weight == 'off':
      return 0
    regions = self.auxiliary == 'regions'
    return spherical.region_count(self.regions) if regions else self.categories

  @property
  def mixup(self) -> bool:
    return not self.classes or self.auxiliary == 'regions'

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
    regions = self.classes and self.auxiliary == 'regions'
    return 'region_logits' if regions else None

  @property
  def wavlm_config(self) -> WavLMConfig:
    return WavLMConfig.from_text(self.wavlm)

  @property
  def min_length(self) -> int:
    waves = self.encoder == 'wavlm'
    return self.wavlm_config.receptive_field if waves else 1

  @nn.compact
  def __call__(self, batch: Batch, *, train: bool, auxiliary: bool = True):
    """Runs the network, the second head only with `auxiliary`.

    Returns:
      'unit_vad' [batch, 3] over `DIMENSIONS`, 0 and 1 being the ends of the
      scale; 'embedding' [batch, d]; 'frame_count' int32 [batch]; 'logits'
      [batch, classes].
    """
    rows = batch['row']
    length = jnp.where(batch['mask'] > 0, batch['length'], 0)
    frames, count = self._encode(batch['features'], length, rows, train)
    valid = layers.frame_mask(count, frames.shape[1])
    if self.pooling == 'style':
      pooled = network.StylePooling(
        width=self.width,
        dropout=self.dropout,
        mask_before_conv=self.padding == 'exact',
        dtype=jnp.dtype(self.dtype),
        name='pool',
      )(frames, valid, rows, train=train)
    else:
      pooled = network.AttentiveStatistics(name='pool')(frames, valid)

    def head(name, outputs, *start):
      module = network.Head(
        self.width, outputs, self.head_dropout, *start, name=name
      )
      return module(pooled, rows, train=train)

    start = self.output_scale, self.output_centre
    vad = head('vad_head', len(DIMENSIONS), *start)
    out = {'unit_vad': vad, 'embedding': pooled, 'frame_count': count}
    if auxiliary and self.classes:
      out['logits'] = head('auxiliary_head', self.classes)
    return out

  def _encode(self, features, length, rows, train) -> tuple[Array, Array]:
    """Returns frames [batch, time, d] and how many of them are valid."""
    dtype = jnp.dtype(self.dtype)
    if self.encoder == 'frames':
      return features, length
    if self.encoder == 'logmel':
      encoder = network.LogMelEncoder(
        self.width, self.stride, self.dropout, dtype, name='encoder'
      )
      return encoder(features, length, rows, train=train)
    frozen, published = self.freeze == 'encoder', self.padding == 'published'
    frames, count, _ = WavLM(
      self.wavlm_config,
      dtype=dtype,
      remat=self.remat,
      freeze_conv=self.freeze != 'none',
      norm_over_padding=published,
      unroll=self.unroll,
      name='encoder',
    )(features, length, rows, train=train and not frozen)
    if frozen:
      frames = jax.lax.stop_gradient(frames)
    if published:
      count = jnp.maximum(network.published_frames(length, frames.shape[1]), 0)
    return frames, count

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    params, state = super().init(rng, batch)
    return params, {**state, **self.initial_state()}

  def initial_state(self) -> Tree:
    """Returns what the state holds besides statistics, before `prepare`."""
    split = {}
    if self.classes and not self._counted:
      weights = self.class_weights if self.weighted else (1.0,) * self.classes
      split['class_weights'] = jnp.asarray(weights, jnp.float32)
    return {'split': split}

  @property
  def _counted(self) -> bool:
    """Whether `prepare` counts the weights of the second loss."""
    return self.weighted and not self.class_weights and self.classes > 0

  def prepare(self, state: Tree, vad: Array, label: Array) -> Tree:
    """Puts class weights and the centre of the training split into the state."""
    vad, label = np.asarray(vad, np.float32), np.asarray(label)
    known = np.isfinite(vad).all(-1)
    split = dict(state['split'])
    centre = self.centre
    if self.centre_label >= 0:
      neutral = vad[known & (label == self.centre_label)]
      if not len(neutral):
        raise ValueError(
          f'centre_label is {self.centre_label}, but no training utterance with'
          ' that label has valence, arousal and dominance'
        )
      split['centre'] = centre = jnp.asarray(neutral.mean(0), jnp.float32)
    if self._counted:
      index = label[label >= 0]
      if self.auxiliary == 'regions':
        index = self._region(jnp.asarray(vad[known]), centre)
      if not len(index):
        raise ValueError(
          f'no training utterance has what the auxiliary task {self.auxiliary!r}'
          ' is to learn'
        )
      split['class_weights'] = spherical.region_weights(index, self.classes)
    return {**state, 'split': split}

  def _region(self, vad, centre) -> Array:
    cube = spherical.to_cube(vad, *self.vad_range, centre)
    return spherical.region_index(cube, self.regions)

  def region_of(self, state: Tree, vad: Array) -> Array:
    """Returns the region, int32 [...], of points [..., 3] on the scale."""
    return self._region(vad, state['split'].get('centre', self.centre))

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    """Returns the sum over dimensions of 1 - CCC, plus lambda times the second loss.

    Utterances whose VAD is unknown (NaN) enter neither CCC nor regions;
    those without a label do not enter the loss over categories.
    """
    second = phase == 'regions'
    statistics = {k: v for k, v in state.items() if k != 'split'}
    out, changed = self.apply(
      {'params': params, **statistics},
      batch,
      train=True,
      auxiliary=second,
      rngs={'dropout': rng},
      mutable=list(statistics),
    )
    devices = axis_size()
    lo, hi = self.vad_range
    real = batch['mask'] > 0
    known = real & jnp.all(jnp.isfinite(batch['vad']), axis=-1)
    vad = jnp.where(known[:, None], batch['vad'], lo)
    target = spherical.reorder(vad, spherical.VAD, DIMENSIONS)
    ccc = concordance(out['unit_vad'], (target - lo) / (hi - lo), known)
    loss = jnp.sum(1 - ccc) / devices
    names = enumerate(DIMENSIONS)
    metrics = {f'ccc_{name}': ccc[i] / devices for i, name in names}
    if second:
      index, counts = batch['label'], real & (batch['label'] >= 0)
      if self.auxiliary == 'regions':
        index, counts = self.region_of(state, vad), known
      weights = state['split']['class_weights']
      entropy = weighted_cross_entropy_share(
        out['logits'], index, weights, counts
      )
      scale = self.auxiliary_weight(progress.epoch)
      loss = loss + scale * entropy
      metrics[f'{self.auxiliary}_loss'] = entropy
      metrics[f'{self.auxiliary}_weight'] = scale / devices
    new = {**changed, 'split': state['split']}
    return loss, {'state': new, 'metrics': metrics}

  def auxiliary_weight(self, epoch: Array) -> Array:
    """Returns lambda(epoch), float32 []; see `region_weight`."""
    epoch = jnp.asarray(epoch, jnp.float32)
    if self.region_weight != 'decay':
      return jnp.full_like(epoch, self.region_weight == 'constant')
    decayed = 1 - 0.99 * epoch / self.decay_epochs
    return jnp.where(epoch < self.decay_epochs, decayed, 0.0)

  def phase(self, epoch: int) -> Hashable:
    """Returns 'regions' while the second head counts, then 'main'."""
    ends = {'off': 0, 'decay': self.decay_epochs}
    counts = epoch < ends.get(self.region_weight, epoch + 1)
    return 'regions' if counts else 'main'

  def predict(self, params, state, batch):
    """Returns predictions.

    'vad' [batch, 3] on the corpus' scale, clipped to it; 'embedding' [batch,
    width], the pooled vector; of a second head 'region_logits' or
    'category_logits' [batch, classes].
    """
    statistics = {k: v for k, v in state.items() if k != 'split'}
    out = self.apply({'params': params, **statistics}, batch, train=False)
    lo, hi = self.vad_range
    vad = spherical.reorder(out['unit_vad'], DIMENSIONS, spherical.VAD)
    vad = jnp.clip(vad * (hi - lo) + lo, lo, hi)
    predictions = {'vad': vad, 'embedding': out['embedding']}
    if self.classes:
      name = 'region' if self.auxiliary == 'regions' else 'category'
      predictions[f'{name}_logits'] = out['logits']
    return predictions

  def frozen(self, params: Tree, phase: Hashable) -> Tree | None:
    """Returns True for what `freeze` names of WavLM, and for an unused head.

    Without a gradient it would still move, by Adam's momentum and weight decay.
    """
    frozen = []
    if self.encoder == 'wavlm' and self.freeze != 'none':
      whole = self.freeze == 'encoder'
      frozen.append('encoder/' if whole else 'encoder/feature_extractor/')
    if self.classes and phase != 'regions':
      frozen.append('auxiliary_head/')
    if not frozen:
      return None

    def under(path, _):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      return name.startswith(tuple(frozen))

    return jax.tree_util.tree_map_with_path(under, params)


def with_encoder(params: Tree, encoder: Tree) -> Tree:
  """Returns params with a pretrained WavLM, whose names and shapes must fit."""
  given, ours = (
    {name: leaf.shape for name, leaf in tensors.leaves_of(tree).items()}
    for tree in (encoder, params['encoder'])
  )
  tensors.check('the pretrained encoder', given, ours, '')
  return {**params, 'encoder': encoder}
