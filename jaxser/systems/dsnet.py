"""DSNet: siamese, calibrated on neutral speech, disentangled; and baselines.

Every utterance is seen together with a neutral utterance of the same speaker.
One projection of its embedding keeps what the two share (speaker, phonetics:
emotion-irrelevant), the other what is left and is classified
(emotion-relevant). Four losses, each with its weight:

    task            cross-entropy of the classes
    calibration     Jensen-Shannon divergence between softmax(irrelevant(x)) and
                    softmax(embedding(neutral partner of x))
    orthogonality   of irrelevant and relevant, `jaxser.ops.orthogonality`
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
             embedding; target the embedding of the neutral partner, held
             constant; mean squared error; classified is embedding - benchmark.

DSNet without one of its losses is that loss' weight at 0; everything else, the
second branch and the loss as a curve too, stays.
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxser.ops.collectives import axis_size, mean_share
from jaxser.ops.deltas import with_deltas
from jaxser.ops.divergence import jensen_shannon_rows
from jaxser.ops.orthogonality import orthogonality_penalty
from jaxser.ops.padding import tile_to
from jaxser.systems.base import Array, Batch, Progress, System, Tree
from jaxser.systems.dsnet_network import Network

VARIANTS = ('dsnet', 'encoder', 'dat', 'isnet')
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


@dataclasses.dataclass(frozen=True)
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

  def __post_init__(self):
    """Raises ValueError for settings that no network can have."""
    object.__setattr__(self, 'channels', tuple(self.channels))
    smallest = 2 ** len(self.channels)
    rules = [
      ('num_classes', self.num_classes >= 2, 'at least 2'),
      ('variant', self.variant in VARIANTS, f'one of {", ".join(VARIANTS)}'),
      ('channels', len(self.channels) > 0, 'at least one stage'),
      ('embedding', self.embedding >= 4, 'at least 4'),
      (
        'max_frames',
        self.max_frames >= smallest,
        f'at least {smallest}: {len(self.channels)} stages halve it',
      ),
      (
        'bins',
        self.bins >= smallest,
        f'at least {smallest}: {len(self.channels)} stages halve it',
      ),
      (
        'num_speakers',
        self.variant != 'dat' or self.num_speakers >= 2,
        'the number of speakers, at least 2, for variant "dat"',
      ),
      (
        'compute_dtype',
        self.compute_dtype in ('float32', 'bfloat16'),
        'float32 or bfloat16',
      ),
      (
        'precision',
        self.precision in PRECISIONS,
        f'one of {", ".join(PRECISIONS)}',
      ),
      ('reversal_epochs', self.reversal_epochs >= 0, 'at least 0'),
    ]
    for name, holds, wanted in rules:
      if not holds:
        raise ValueError(
          f'DSNet: {name}={getattr(self, name)!r}; it must be {wanted}.'
        )

  @property
  def needs_neutral(self) -> bool:
    """Whether training batches must hold a neutral partner."""
    return self.variant in ('dsnet', 'isnet')

  @property
  def embeddings(self) -> tuple[str, ...]:
    """The subspaces of this variant, and the embedding that they are made of."""
    return {
      'dsnet': ('relevant', 'irrelevant', 'encoding'),
      'isnet': ('embedding', 'benchmark', 'encoding'),
    }.get(self.variant, ('encoding',))

  def network(self) -> Network:
    """The network; 'params' and 'batch_stats' are those of `init`."""
    return Network(
      variant=self.variant,
      num_classes=self.num_classes,
      num_speakers=self.num_speakers,
      channels=self.channels,
      embedding=self.embedding,
      alpha=self.alpha,
      gated_projection=self.gated_projection,
      encoder_dropout=self.encoder_dropout,
      classifier_dropout=self.classifier_dropout,
      compute_dtype=self.compute_dtype,
      # None leaves it to jax.default_matmul_precision.
      precision=None if self.precision == 'default' else self.precision,
    )

  def images(self, batch: Batch, prefix: str = '') -> Array:
    """Images [batch, max_frames, bins, 3] of the batch or its partners.

    Raises:
      ValueError: the batch lacks the features or has another number of bins.
    """
    name = f'{prefix}features'
    if name not in batch:
      raise ValueError(
        f'DSNet ({self.variant}) needs {name!r} in its training batches; this '
        f'one holds {", ".join(sorted(batch))}.'
      )
    if batch[name].ndim != 3 or batch[name].shape[-1] != self.bins:
      raise ValueError(
        f'DSNet needs {name!r} [batch, frames, {self.bins}], not '
        f'{batch[name].shape}; prepare the corpus with --features=kaldi16k.'
      )
    return front_end(batch[name], batch[f'{prefix}length'], self.max_frames)

  def init(self, rng: Array, batch: Batch) -> tuple[Tree, Tree]:
    """Fresh (params, state): Xavier-uniform convolutions, PyTorch's linear."""
    self.images(batch)  # Only for its checks: no parameter depends on frames.
    smallest = 2 ** len(self.channels)
    create = functools.partial(self.network().init, method='create')
    # Compiled as one: hundreds of small operations would be compiled apart.
    variables = jax.jit(create)(rng, jnp.zeros((1, smallest, self.bins, 3)))
    return variables['params'], {'batch_stats': variables['batch_stats']}

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
    """Share of the weighted sum of the losses, and each of them as a metric."""
    del phase
    out, new = self.network().apply(
      {'params': params, **state},
      self.images(batch),
      self.images(batch, 'neutral_') if self.needs_neutral else None,
      batch['row'],
      batch['mask'],
      self._strength(progress),
      method='train_pass',
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    mask = batch['mask']
    share = functools.partial(mean_share, mask=mask)

    losses = {
      'task': (
        self.task_weight,
        share(_cross_entropy(out['logits'], batch['label'])),
      )
    }
    if self.variant == 'dsnet':
      penalty = orthogonality_penalty(out['irrelevant'], out['relevant'], mask)
      error = jnp.square(out['encoding'] - out['reconstruction'])
      rows = jensen_shannon_rows(out['irrelevant'], out['neutral'])
      losses |= {
        'calibration': (self.calibration_weight, share(rows)),
        'orthogonality': (self.orthogonality_weight, penalty / axis_size()),
        'reconstruction': (
          self.reconstruction_weight,
          share(jnp.mean(error, axis=-1)),
        ),
      }
    elif self.variant == 'isnet':
      target = jax.lax.stop_gradient(out['neutral'])
      error = jnp.square(out['benchmark'] - target)
      losses['standardization'] = (
        self.standardization_weight,
        share(jnp.mean(error, axis=-1)),
      )
    elif self.variant == 'dat':
      rows = _cross_entropy(out['speaker_logits'], batch['speaker'])
      losses['adversary'] = (self.adversary_weight, share(rows))
    total = sum(weight * value for weight, value in losses.values())
    right = jnp.argmax(out['logits'], axis=-1) == batch['label']
    metrics = {
      'loss': total,
      'accuracy': share(right),
      **{name: value for name, (_, value) in losses.items()},
    }
    return total, {'state': dict(new), 'metrics': metrics}

  def predict(
    self, params: Tree, state: Tree, batch: Batch
  ) -> dict[str, Array]:
    """Scores and every intermediate; no neutral partner is needed.

    Returns:
      scores [batch, classes], logits [batch, classes], embedding [batch,
      embedding]: what is classified, hidden [batch, embedding]: the
      classifier's layer, encoding [batch, embedding]: the encoder's embedding,
      frames [batch, max_frames // 16, channels[-1]]: before the attention. For
      'dsnet' also irrelevant, relevant and reconstruction, for 'isnet'
      benchmark, each [batch, embedding].
    """
    out = self.network().apply(
      {'params': params, **state},
      self.images(batch),
      train=False,
      method='answer',
    )
    return {**out, 'scores': jax.nn.softmax(out['logits'])}

  def _strength(self, progress: Progress) -> Array:
    if not self.reversal_epochs:
      return jnp.float32(1)
    done = jnp.minimum(progress.epoch / self.reversal_epochs, 1)
    return 2 / (1 + jnp.exp(-10 * done)) - 1


def _cross_entropy(logits: Array, label: Array) -> Array:
  """Negative log probability [batch] of int32 [batch]; 0 for a label of -1."""
  wanted = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
  return -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)


def create(model: Mapping[str, Any], corpus: Any) -> DSNet:
  """The system of config.model for a corpus with classes.

  Raises:
    ValueError: if the corpus has no classes, or a setting is not possible.
  """
  if not corpus.classes:
    raise ValueError(
      f'corpus {corpus.name!r} has no classes, only valence, arousal and '
      'dominance; choose one that has, such as demo, emodb or iemocap'
    )
  return DSNet(
    num_classes=len(corpus.classes),
    num_speakers=len(set(corpus.table.speakers.tolist())),
    **model,
  )
