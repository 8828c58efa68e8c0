"""DSNet: siamese, calibrated on neutral speech, disentangled; and baselines.

Every utterance is seen together with a neutral utterance of the same speaker.
One projection of its embedding keeps what the two share (speaker, phonetics:
emotion-irrelevant), the other what is left and is classified
(emotion-relevant). Four losses, each with its weight:

    task            cross-entropy of the classes
    calibration     Jensen-Shannon divergence between softmax(irrelevant(x)) and
                    softmax(embedding(neutral reference of x))
    orthogonality   of irrelevant and relevant, `losses.orthogonality_penalty`
    reconstruction  mean squared error of the embedding decoded from both

Source: Chen and Zhang, "DSNet: Disentangled Siamese Network with Neutral
Calibration for Speech Emotion Recognition", J. Shanghai Jiaotong Univ. (Sci.)
31(2), 2026 (arXiv 2312.15593), as the authors' code behaves. 5,132,133
parameters for four classes, counted as PyTorch counts them: without the 3,104
running statistics, with the 165,504 that get no gradient, namely the gates of
the projections (164,992) and one BatchNorm (512) that is never called.

Baselines on the same encoder and classifier are `variant`s:

    encoder  The encoder and the classifier alone.
    dat      Domain-adversarial training: a speaker classifier behind a gradient
             reversal, on training speakers only (Ganin and Lempitsky, ICML
             2015; for emotion: Tu et al., arXiv 1903.09606).
    isnet    Individual standardisation (Fan et al., "ISNet", IEEE/ACM TASLP 30,
             2022): a benchmark, which stands for the speaker's neutral speech,
             is generated from the utterance and taken off its representation.
             Only the paper's summary could be had, so the following is this
             project's reading of it: generator linear-ReLU-linear on the
             embedding; target the embedding of the neutral reference, held
             constant; mean squared error; classified is embedding - benchmark.

DSNet without one of its losses is that loss' weight at 0; everything else, the
second branch and the loss as a curve too, stays.
"""

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.ops.collectives import axis_size, mean_share
from jaxser.ops.frames import tile_to, with_deltas
from jaxser.ops.losses import (
  cross_entropy,
  jensen_shannon,
  orthogonality_penalty,
  reverse_gradient,
)
from jaxser.systems.base import (
  Array,
  Batch,
  Progress,
  System,
  Tree,
  label_loss,
  num_classes,
  require,
)
from jaxser.systems.dsnet_network import (
  Classifier,
  Encoder,
  Projection,
  TwoLayers,
)

VARIANTS = ('dsnet', 'encoder', 'dat', 'isnet')
DTYPES = ('float32', 'bfloat16')
PRECISIONS = ('default', 'high', 'highest')


def front_end(features: Array, length: Array, max_frames: int) -> Array:
  """Log filterbanks to the images that the encoder sees.

  Tiled (or cut) to max_frames first, deltas after that. The paper's [batch, 3,
  max_frames, bins] is this with the last axis moved to the second place.

  Args:
    features: [batch, frames, bins], zero padded.
    length: int32 [batch], valid frames.
    max_frames: frames of the result.

  Returns:
    [batch, max_frames, bins, 3]: static, delta, delta-delta.
  """
  return with_deltas(tile_to(features, length, max_frames))


class DSNet(System):
  """DSNet and the baselines it is compared with.

  Attributes:
    num_classes: classes.
    variant: see the top of this module.
    channels: filters of the encoder's stages.
    embedding: width of the embedding and of both subspaces.
    max_frames: frames that the encoder sees; 600 are 6 s.
    bins: mel bins.
    alpha: share of the irrelevant subspace in what is classified.
    gated_projection: whether the projections' gates are used; the authors' code
      computes and discards them.
    task_weight: of the cross-entropy.
    calibration_weight: of the Jensen-Shannon divergence (dsnet).
    orthogonality_weight: of the orthogonality penalty (dsnet).
    reconstruction_weight: of the reconstruction error (dsnet).
    adversary_weight: of the speaker's cross-entropy (dat).
    standardization_weight: of the benchmark's error (isnet).
    num_speakers: speakers of the corpus (dat). The adversary has an output for
      each of them; it learns from training rows alone.
    reversal_epochs: epochs over which the reversal rises as in Ganin and
      Lempitsky, 2 / (1 + exp(-10 epoch / reversal_epochs)) - 1; 0 keeps it at 1.
    encoder_dropout: after each stage.
    classifier_dropout: in the classifier.
    compute_dtype: of the convolutions, 'float32' or 'bfloat16'; parameters,
      statistics and losses are float32 always.
    precision: of the convolutions: 'default' is the platform's (TF32 on NVIDIA
      GPUs, as in PyTorch), 'highest' is float32 everywhere, 'high' in between.
  """

  num_classes: int
  variant: str = 'dsnet'
  channels: Sequence[int] = (64, 128, 256, 512)
  embedding: int = 256
  max_frames: int = 600
  bins: int = 80
  alpha: float = 0.0
  gated_projection: bool = False
  task_weight: float = 1.0
  calibration_weight: float = 1.0
  orthogonality_weight: float = 1.0
  reconstruction_weight: float = 1.0
  adversary_weight: float = 1.0
  standardization_weight: float = 1.0
  num_speakers: int = 0
  reversal_epochs: int = 80
  encoder_dropout: float = 0.2
  classifier_dropout: float = 0.5
  compute_dtype: str = 'float32'
  precision: str = 'default'

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    """Returns the system of config.model for a corpus with classes.

    Raises:
      ValueError: if the corpus has no classes.
    """
    return cls(
      num_classes=num_classes(corpus),
      num_speakers=len(set(corpus.table.speakers.tolist())),
      **model,
    )

  def validate(self) -> None:
    """Raises ValueError for settings that no network can have."""
    stages = len(self.channels)
    enough = f'at least {2**stages}: {stages} stages halve it'
    speakers = 'the number of speakers, at least 2, for variant "dat"'
    require(
      self,
      ('num_classes', self.num_classes >= 2, 'at least 2'),
      ('variant', self.variant in VARIANTS, f'one of {VARIANTS}'),
      ('channels', stages > 0, 'at least one stage'),
      ('embedding', self.embedding >= 4, 'at least 4'),
      ('max_frames', self.max_frames >= 2**stages, enough),
      ('bins', self.bins >= 2**stages, enough),
      (
        'num_speakers',
        self.variant != 'dat' or self.num_speakers >= 2,
        speakers,
      ),
      ('compute_dtype', self.compute_dtype in DTYPES, f'one of {DTYPES}'),
      ('precision', self.precision in PRECISIONS, f'one of {PRECISIONS}'),
      ('reversal_epochs', self.reversal_epochs >= 0, 'at least 0'),
    )

  def check(self, corpus: Any, lengths: np.ndarray) -> None:
    """Raises ValueError on features that are not log filterbanks of `bins`."""
    del lengths
    if corpus.feature_shape[1:] != (self.bins,):
      raise ValueError(
        f'DSNet needs frames of {self.bins} numbers, its features are '
        f'{corpus.feature_shape}; prepare it with --features=kaldi16k'
      )

  @property
  def needs_neutral(self) -> bool:
    """Whether training batches must hold a neutral reference."""
    return self.variant in ('dsnet', 'isnet')

  @property
  def mixup(self) -> bool:
    """Whether the loss needs neither neutral references nor speakers."""
    return self.variant == 'encoder'

  @property
  def embeddings(self) -> tuple[str, ...]:
    """The subspaces of this variant, and the embedding that they are made of."""
    return {
      'dsnet': ('relevant', 'irrelevant', 'encoding'),
      'isnet': ('embedding', 'benchmark', 'encoding'),
    }.get(self.variant, ('encoding',))

  def setup(self) -> None:
    """Creates the parts that this variant has."""
    self.encoder = Encoder(
      self.channels,
      self.embedding,
      self.encoder_dropout,
      None if self.compute_dtype == 'float32' else jnp.bfloat16,
      # None leaves it to jax.default_matmul_precision.
      None if self.precision == 'default' else self.precision,
    )
    width = self.embedding
    self.classifier = Classifier(
      self.num_classes, width, self.classifier_dropout
    )
    if self.variant == 'dsnet':
      self.irrelevant = Projection(width, self.gated_projection)
      self.relevant = Projection(width, self.gated_projection)
      self.decoder = TwoLayers(width, width)
    elif self.variant == 'isnet':
      self.benchmark = TwoLayers(width // 2, width)
    elif self.variant == 'dat':
      self.adversary = TwoLayers(width, self.num_speakers)

  def __call__(
    self, batch: Batch, *, train: bool, strength: Array | float = 1.0
  ) -> dict[str, Array]:
    """Returns logits and intermediates of a batch, see `predict`.

    In training also 'neutral', the embedding of the neutral reference, whose
    statistics update the running ones second, and 'speaker_logits' where the
    variant has them; `strength` is that of the gradient reversal.
    """
    rows, mask = batch.get('row'), batch.get('mask')
    encoding, frames = self.encoder(self.images(batch), rows, mask, train=train)
    out = {'encoding': encoding, 'frames': frames, 'embedding': encoding}
    if self.variant == 'dsnet':
      out['irrelevant'] = self.irrelevant(encoding)
      out['relevant'] = self.relevant(encoding)
      both = [out['irrelevant'], out['relevant']]
      out['reconstruction'] = self.decoder(jnp.concatenate(both, axis=-1))
      out['embedding'] = self.alpha * out['irrelevant'] + out['relevant']
    elif self.variant == 'isnet':
      out['benchmark'] = self.benchmark(encoding)
      out['embedding'] = encoding - out['benchmark']
    out['logits'], out['hidden'] = self.classifier(
      out['embedding'], rows, mask, train=train
    )
    if train and self.needs_neutral:
      out['neutral'], _ = self.encoder(
        self.images(batch, 'neutral_'), rows, mask, train=True
      )
    if self.variant == 'dat' and (train or self.is_initializing()):
      reversed_ = reverse_gradient(encoding, jnp.float32(strength))
      out['speaker_logits'] = self.adversary(reversed_)
    return out

  def images(self, batch: Batch, prefix: str = '') -> Array:
    """Returns the images [batch, max_frames, bins, 3] of a batch."""
    features, length = batch[f'{prefix}features'], batch[f'{prefix}length']
    return front_end(features, length, self.max_frames)

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
    """Returns the weighted sum of the losses, and each of them as a metric."""
    del phase
    out, new = self.apply(
      {'params': params, **state},
      batch,
      train=True,
      strength=self._strength(progress),
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    share = functools.partial(mean_share, mask=batch['mask'])

    def mean_square(error):
      return share(jnp.mean(jnp.square(error), axis=-1))

    losses = {'task': share(label_loss(out['logits'], batch))}
    if self.variant == 'dsnet':
      divergence = jensen_shannon(out['irrelevant'], out['neutral'])
      penalty = orthogonality_penalty(
        out['irrelevant'], out['relevant'], batch['mask']
      )
      losses |= {
        'calibration': share(divergence),
        'orthogonality': penalty / axis_size(),
        'reconstruction': mean_square(out['encoding'] - out['reconstruction']),
      }
    elif self.variant == 'isnet':
      target = jax.lax.stop_gradient(out['neutral'])
      losses['standardization'] = mean_square(out['benchmark'] - target)
    elif self.variant == 'dat':
      rows = cross_entropy(out['speaker_logits'], batch['speaker'])
      losses['adversary'] = share(rows)
    total = sum(
      getattr(self, f'{name}_weight') * value for name, value in losses.items()
    )
    correct = jnp.argmax(out['logits'], axis=-1) == batch['label']
    metrics = {'loss': total, 'accuracy': share(correct), **losses}
    return total, {'state': dict(new), 'metrics': metrics}

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Returns scores and intermediates; no neutral reference is needed.

    Returns:
      scores [batch, classes], logits [batch, classes], embedding [batch,
      embedding]: what is classified, hidden [batch, embedding]: the
      classifier's layer, encoding [batch, embedding]: the encoder's embedding,
      frames [batch, max_frames // 16, channels[-1]]: before the attention. For
      'dsnet' also irrelevant, relevant and reconstruction, for 'isnet'
      benchmark, each [batch, embedding].
    """
    out = self.apply({'params': params, **state}, batch, train=False)
    return {**out, 'scores': jax.nn.softmax(out['logits'])}

  def _strength(self, progress: Progress) -> Array:
    if not self.reversal_epochs:
      return jnp.float32(1)
    done = jnp.minimum(progress.epoch / self.reversal_epochs, 1)
    return 2 / (1 + jnp.exp(-10 * done)) - 1
