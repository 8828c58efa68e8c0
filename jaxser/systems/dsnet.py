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
parameters for four classes as PyTorch counts them: without the 3,104 running
statistics, with the 165,504 that get no gradient, namely the gates of the
projections (164,992) and one BatchNorm (512) that is never called.

The authors' baselines, as their code behaves, are `variant`s; all have the same
encoder E and classifier C, and L is the cross-entropy of the classes:

    encoder  E and C by L alone.
    dat      Domain-adversarial training. A speaker classifier S sees E through a
             gradient reversal of strength 1: L + cross-entropy of the speakers.
             `dat_speakers='all'` is the published one: S also learns from a
             batch of development and one of test speech, without emotions.
    isnet    Individual standardisation: a second encoder E2 and classifier C2, a
             translator T. Each batch makes four updates, each by its own
             optimizer: E and C by L; E2 by the mean absolute differences between
             its embeddings of three neutral utterances of the speaker, summed
             over the pairs; T by that between T(E(x)) and the mean of these
             embeddings; C2 by L on E(x) - T(E(x)), which predicts.
    dsc      C sees E(x) and E(neutral reference), in prediction too.
    menan    Passes over the training split by turns: S alone, on E; then E and C
             by L + the cross-entropy of S, through a reversal of strength 0.5,
             with equal probabilities of all training speakers. By the reversal
             E moves away from them: so it was described.

Parts that an update does not train work as in training, but their parameters
and running statistics stay. That and the hidden widths of S and T are our choice.
"""

import functools
import itertools
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from jaxser.ops import losses as losses_lib
from jaxser.ops.collectives import axis_size, mean_share, psum
from jaxser.ops.frames import tile_to, with_deltas
from jaxser.systems import base
from jaxser.systems import dsnet_network as network
from jaxser.systems.base import Array, Batch, System, Tree, require

VARIANTS = ('dsnet', 'encoder', 'dat', 'isnet', 'dsc', 'menan')
# Variant -> phase -> parts that it trains; all parts where nothing is said.
TRAINED = {
  'isnet': {
    'task': ('encoder', 'classifier'),
    'neutral': ('neutral_encoder',),
    'translation': ('translator',),
    'standardized': ('standardized_classifier',),
  },
  'menan': {'speakers': ('adversary',), 'emotions': ('encoder', 'classifier')},
}
REVERSAL = {'dat': 1.0, 'menan': 0.5}
TRANSDUCTIVE = (
  'Transductive: the speech of the development and test speakers was trained on, '
  'with their names and without their emotions.'
)
NEUTRAL_KNOWN = (
  'Every utterance was predicted beside a neutral one of its speaker, whose label '
  'was thereby given; the first neutral utterance stood beside itself.'
)


def front_end(features: Array, length: Array, max_frames: int) -> Array:
  """Returns the images [batch, max_frames, bins, 3] that the encoder sees.

  Static, delta, delta-delta of log filterbanks [batch, frames, bins], of which
  length, int32 [batch], are valid: tiled or cut before the deltas. The paper has
  [batch, 3, max_frames, bins].
  """
  return with_deltas(tile_to(features, length, max_frames))


class DSNet(System):
  """DSNet and the baselines it is compared with.

  Attributes:
    variant: see the top of this module.
    channels: filters of the encoder's stages.
    embedding: width of the embedding and of both subspaces.
    max_frames: frames that the encoder sees; 600 are 6 s.
    alpha: share of the irrelevant subspace in what is classified.
    gated_projection: whether the projections' gates are used; the authors' code
      computes and discards them.
    task_weight, calibration_weight, orthogonality_weight,
      reconstruction_weight: of the losses of 'dsnet'.
    dat_speakers: whose speech the adversary of 'dat' sees, 'train' or 'all'.
    num_speakers: speakers of the corpus, for 'dat' and 'menan'.
    encoder_dropout: after each stage.
    classifier_dropout: in the classifier.
    compute_dtype: of the convolutions, 'float32' or 'bfloat16'; parameters,
      statistics and losses are float32 always.
    precision: of the convolutions: 'default' is the platform's (TF32 on NVIDIA
      GPUs, as in PyTorch), 'highest' is float32 everywhere, 'high' in between.
  """

  num_classes: int
  variant: str = 'dsnet'
  channels: tuple[int, ...] = (64, 128, 256, 512)
  embedding: int = 256
  max_frames: int = 600
  bins: int = 80
  alpha: float = 0.0
  gated_projection: bool = False
  task_weight: float = 1.0
  calibration_weight: float = 1.0
  orthogonality_weight: float = 1.0
  reconstruction_weight: float = 1.0
  dat_speakers: str = 'train'
  num_speakers: int = 0
  encoder_dropout: float = 0.2
  classifier_dropout: float = 0.5
  compute_dtype: str = 'float32'
  precision: str = 'default'

  weighs_classes: ClassVar[bool] = True

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    classes = base.num_classes(corpus)
    speakers = len(set(corpus.table.speakers.tolist()))
    return cls(classes, num_speakers=speakers, **model)

  def validate(self) -> None:
    least = f'at least {2 ** len(self.channels)}: {len(self.channels)} stages '
    speakers = self.variant not in REVERSAL or self.num_speakers >= 2
    for name, valid in (
      ('variant', VARIANTS),
      ('dat_speakers', ('train', 'all')),
      ('compute_dtype', ('float32', 'bfloat16')),
      ('precision', ('default', 'high', 'highest')),
    ):
      require(self, (name, getattr(self, name) in valid, f'one of {valid}'))
    for name in ('max_frames', 'bins'):
      enough = getattr(self, name) >= 2 ** len(self.channels)
      require(self, (name, enough, f'{least}halve it'))
    require(
      self,
      ('num_classes', self.num_classes >= 2, 'at least 2'),
      ('channels', len(self.channels) > 0, 'at least one stage'),
      ('embedding', self.embedding >= 4, 'at least 4'),
      ('num_speakers', speakers, f'at least 2 for variant {self.variant!r}'),
    )

  def check(self, corpus, lengths) -> None:
    if corpus.feature_shape[1:] != (self.bins,):
      raise ValueError(
        f'DSNet needs frames of {self.bins} numbers, its features are '
        f'{corpus.feature_shape}; prepare it with --features=kaldi16k'
      )

  def check_recording(self) -> None:
    if self.predicts_with_neutral:
      raise ValueError(
        "variant 'dsc' classifies an utterance beside a neutral one of its "
        'speaker, which a recording alone does not have; train another variant'
      )

  @property
  def references(self) -> tuple[str, ...]:
    return {
      'dsnet': ('neutral',),
      'dsc': ('neutral',),
      'isnet': ('neutral1', 'neutral2', 'neutral3'),
      'dat': ('dev', 'test') if self.dat_speakers == 'all' else (),
    }.get(self.variant, ())

  @property
  def predicts_with_neutral(self) -> bool:
    return self.variant == 'dsc'

  @property
  def notes(self) -> tuple[str, ...]:
    every = self.variant == 'dat' and self.dat_speakers == 'all'
    notes = {TRANSDUCTIVE: every, NEUTRAL_KNOWN: self.predicts_with_neutral}
    return tuple(note for note, holds in notes.items() if holds)

  @property
  def mixup(self) -> bool:
    return self.variant == 'encoder'  # Its loss is that of the classes alone.

  @property
  def embeddings(self) -> tuple[str, ...]:
    return {
      'dsnet': ('relevant', 'irrelevant', 'encoding'),
      'isnet': ('embedding', 'benchmark', 'encoding'),
    }.get(self.variant, ('encoding',))

  def phase(self, epoch: int) -> str:
    """Returns 'main', or for 'menan' what this pass trains."""
    passes = ('speakers', 'emotions')
    return passes[epoch % 2] if self.variant == 'menan' else 'main'

  def updates(self, phase: Hashable) -> tuple[Hashable, ...]:
    return tuple(TRAINED['isnet']) if self.variant == 'isnet' else (phase,)

  def frozen(self, params: Tree, phase: Hashable) -> Tree | None:
    trained = TRAINED.get(self.variant, {}).get(phase)
    return trained and {
      name: jax.tree.map(lambda _, rests=name not in trained: rests, part)
      for name, part in params.items()
    }

  def setup(self) -> None:
    width = self.embedding
    encoder = functools.partial(
      network.Encoder,
      self.channels,
      width,
      self.encoder_dropout,
      None if self.compute_dtype == 'float32' else jnp.bfloat16,
      # None leaves it to jax.default_matmul_precision.
      None if self.precision == 'default' else self.precision,
    )
    classifier = functools.partial(
      network.Classifier, self.num_classes, width, self.classifier_dropout
    )
    self.encoder, self.classifier = encoder(), classifier()
    if self.variant == 'dsnet':
      self.irrelevant = network.Projection(width, self.gated_projection)
      self.relevant = network.Projection(width, self.gated_projection)
      self.decoder = network.TwoLayers(width, width)
    elif self.variant == 'isnet':
      self.neutral_encoder = encoder()
      self.translator = network.TwoLayers(width // 2, width)
      self.standardized_classifier = classifier()
    elif self.variant in REVERSAL:
      self.adversary = network.TwoLayers(width, self.num_speakers)
    if self.variant == 'menan':
      # 1 for the speakers of the training split, counted in the first pass.
      self.variable('speakers', 'known', jnp.zeros, (self.num_speakers,))

  def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
    """Returns logits and intermediates of a batch, see `predict`.

    In training also the embedding of each reference by its name; 'task_logits'
    of the first classifier of 'isnet'; the adversary's 'speaker_logits', by
    reference NAME_speaker_logits.
    """
    rows, mask = batch.get('row'), batch.get('mask')
    # Creates all parts, from any batch: initial values hang on no input.
    starting = self.is_initializing()

    def encode(prefix, encoder):
      images = self.images(batch, '' if starting else prefix)
      return encoder(images, rows, mask, train=train)

    def classify(x, classifier):
      return classifier(x, rows, mask, train=train)

    encoding, frames = encode('', self.encoder)
    out = {'encoding': encoding, 'frames': frames, 'embedding': encoding}
    classifier = self.classifier
    if self.variant == 'dsnet':
      out['irrelevant'] = self.irrelevant(encoding)
      out['relevant'] = self.relevant(encoding)
      both = [out['irrelevant'], out['relevant']]
      out['reconstruction'] = self.decoder(jnp.concatenate(both, axis=-1))
      out['embedding'] = self.alpha * out['irrelevant'] + out['relevant']
    elif self.variant == 'isnet':
      out['benchmark'] = self.translator(encoding)
      out['embedding'] = encoding - out['benchmark']
      classifier = self.standardized_classifier
    elif self.variant == 'dsc':
      both = [encoding, encode('neutral_', self.encoder)[0]]
      out['embedding'] = jnp.concatenate(both, axis=-1)
    out['logits'], out['hidden'] = classify(out['embedding'], classifier)
    if not (train or starting):
      return out
    if self.variant == 'dsnet':
      out['neutral'], _ = encode('neutral_', self.encoder)
    elif self.variant == 'isnet':
      out['task_logits'], _ = classify(encoding, self.classifier)
      for name in self.references:
        out[name], _ = encode(f'{name}_', self.neutral_encoder)
    elif self.variant in REVERSAL:
      strength = jnp.float32(REVERSAL[self.variant])
      for prefix in ('', *(f'{name}_' for name in self.references)):
        x = encode(prefix, self.encoder)[0] if prefix else encoding
        logits = self.adversary(losses_lib.reverse_gradient(x, strength))
        out[f'{prefix}speaker_logits'] = logits
    return out

  def images(self, batch: Batch, prefix: str = '') -> Array:
    """Returns the images [batch, max_frames, bins, 3] of a batch."""
    features, length = batch[f'{prefix}features'], batch[f'{prefix}length']
    return front_end(features, length, self.max_frames)

  def loss(self, params, state, batch, rng, progress, *, phase='main'):
    """Returns the weighted sum of the losses, and each of them as a metric."""
    variables, rngs = {'params': params, **state}, {'dropout': rng}
    out, new = self.apply(
      variables, batch, train=True, rngs=rngs, mutable=['batch_stats']
    )
    losses = self._losses(out, state, batch, phase)
    total = sum(
      getattr(self, f'{name}_weight', 1.0) * x for name, x in losses.items()
    )
    correct = jnp.argmax(out['logits'], axis=-1) == batch['label']
    accuracy = mean_share(correct, batch['mask'])
    trained = TRAINED.get(self.variant, {}).get(phase, new['batch_stats'])
    moved = {n: x for n, x in new['batch_stats'].items() if n in trained}
    new = {**state, 'batch_stats': {**state['batch_stats'], **moved}}
    if phase == 'speakers':
      present = jax.nn.one_hot(batch['speaker'], self.num_speakers)
      known = state['speakers']['known'] + psum(jnp.sum(present, axis=0))
      new['speakers'] = {'known': jnp.minimum(known, 1)}
    metrics = {'loss': total, 'accuracy': accuracy, **losses}
    return total, {'state': new, 'metrics': metrics}

  def _losses(self, out, state, batch, phase) -> dict[str, Array]:
    """Returns this device's part of each loss of an update."""
    share = functools.partial(mean_share, mask=batch['mask'])

    def difference(of, a, b):
      return share(jnp.mean(of(a - b), axis=-1))

    def entropy(logits, label):
      counts = base.row_weights(batch) if label == 'label' else batch['mask']
      errors = losses_lib.cross_entropy(out[logits], batch[label])
      return mean_share(errors, counts)

    if self.variant == 'isnet':
      neutral = [out[name] for name in self.references]
      pairs = itertools.combinations(neutral, 2)
      losses = {
        'task': entropy('task_logits', 'label'),
        'neutral': sum(difference(jnp.abs, *pair) for pair in pairs),
        'translation': difference(jnp.abs, out['benchmark'], sum(neutral) / 3),
        'standardized': entropy('logits', 'label'),
      }
      return {phase: losses[phase]}
    if phase == 'speakers':
      return {'adversary': entropy('speaker_logits', 'speaker')}
    errors = base.label_loss(out['logits'], batch)
    losses = {'task': mean_share(errors, base.row_weights(batch))}
    if self.variant == 'dsnet':
      irrelevant, relevant = out['irrelevant'], out['relevant']
      penalty = losses_lib.orthogonality_penalty(
        irrelevant, relevant, batch['mask']
      )
      divergence = losses_lib.jensen_shannon(irrelevant, out['neutral'])
      losses['calibration'] = share(divergence)
      losses['orthogonality'] = penalty / axis_size()
      losses['reconstruction'] = difference(
        jnp.square, out['encoding'], out['reconstruction']
      )
    elif self.variant == 'dat':
      names = [name for name in out if name.endswith('speaker_logits')]
      parts = [entropy(name, name.removesuffix('_logits')) for name in names]
      losses['adversary'] = sum(parts) / len(parts)
    elif self.variant == 'menan':
      known = state['speakers']['known']
      equal = known / jnp.maximum(jnp.sum(known), 1)
      log_p = jax.nn.log_softmax(out['speaker_logits'])
      losses['confusion'] = share(-jnp.sum(log_p * equal[None], axis=-1))
    return losses

  def predict(self, params, state, batch):
    """Returns scores and intermediates.

    Returns:
      scores and logits [batch, classes]; embedding [batch, embedding], what is
      classified ('dsc': [batch, 2 embedding]); hidden [batch, embedding], the
      classifier's layer; encoding [batch, embedding] of the encoder; frames
      [batch, max_frames // 16, channels[-1]], before the attention. For 'dsnet'
      also irrelevant, relevant and reconstruction, for 'isnet' benchmark.
    """
    out = self.apply({'params': params, **state}, batch, train=False)
    return {**out, 'scores': jax.nn.softmax(out['logits'])}
