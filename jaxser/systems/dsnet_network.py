"""The networks of DSNet (Chen and Zhang, arXiv 2312.15593) and its baselines.

Images are channels-last, `[batch, frames, bins, 3]`, the layout in which XLA and
cuDNN convolve fastest; the paper's `[batch, 3, frames, bins]` with the last axes
moved. Each module is usable by itself.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxser.nn.layers import BatchNorm, Dropout
from jaxser.ops.convolution import convolve
from jaxser.ops.max_pooling import max_pool
from jaxser.ops.reversal import reverse_gradient

Array = jax.Array

HIGHEST = jax.lax.Precision.HIGHEST
CLIP = 10.0
"""Attention scores are cut to +-10 before the softmax."""


def batch_norm(name: str) -> BatchNorm:
  """BatchNorm with the published constants (PyTorch's defaults)."""
  return BatchNorm(epsilon=1e-5, momentum=0.9, unbiased=True, name=name)


class Linear(nn.Module):
  """x W + b, initialised as PyTorch does: uniform in +-1 / sqrt(inputs)."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., inputs] -> [..., width]."""
    bound = x.shape[-1] ** -0.5

    def uniform(rng, shape):
      return jax.random.uniform(rng, shape, minval=-bound, maxval=bound)

    kernel = self.param('kernel', uniform, (x.shape[-1], self.width))
    bias = self.param('bias', uniform, (self.width,))
    product = jnp.matmul(x, kernel, precision=HIGHEST)
    return product + jnp.expand_dims(bias, range(x.ndim - 1))


class Stage(nn.Module):
  """5 x 5 convolution, BatchNorm, ReLU, 2 x 2 max pooling, dropout.

  Attributes:
    channels: filters.
    dropout: rate.
    dtype: of the convolution, None for that of x; statistics are never below
      float32.
    precision: of the convolution, see `jaxser.ops.convolution.convolve`.
  """

  channels: int
  dropout: float = 0.2
  dtype: jnp.dtype | None = None
  precision: str | None = None

  @nn.compact
  def __call__(
    self, x: Array, rows: Array | None, mask: Array | None, *, train: bool
  ) -> Array:
    """[batch, height, width, c] -> [batch, height // 2, width // 2, channels].

    Args:
      x: images.
      rows: int32 [batch], global rows for dropout; unused in evaluation.
      mask: [batch], rows that count in the statistics, or None for all.
      train: batch statistics and dropout, or running statistics.
    """
    kernel = self.param(
      'conv',
      nn.initializers.xavier_uniform(),
      (5, 5, x.shape[-1], self.channels),
    )
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if self.dtype is not None:
      x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    x = convolve(x, kernel, self.precision).astype(wide)
    x = batch_norm('bn')(x, train=train, mask=mask)
    # The maximum commutes with ReLU; this order rectifies a quarter as much.
    x = nn.relu(max_pool(x))
    return Dropout(self.dropout)(x, rows, train=train)


class Unused(nn.Module):
  """A BatchNorm that the authors' network holds and never calls.

  It has parameters and statistics only so that checkpoints round-trip and the
  parameter count is the published one. No gradient reaches it.
  """

  width: int

  @nn.compact
  def __call__(self) -> None:
    """Creates its parameters and statistics."""
    shape = (self.width,)
    self.param('scale', nn.initializers.ones, shape)
    self.param('bias', nn.initializers.zeros, shape)
    self.variable('batch_stats', 'mean', jnp.zeros, shape)
    self.variable('batch_stats', 'var', jnp.ones, shape)


class AttentionPool(nn.Module):
  """Weighted mean over time of sigmoid(cla(x)), weights softmax(att(x))."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, time, channels] -> [batch, width], each channel weighted apart."""

    def dense(name):
      return nn.Dense(
        self.width,
        kernel_init=nn.initializers.xavier_uniform(),
        precision=HIGHEST,
        name=name,
      )

    Unused(self.width, name='bn_att')()
    weight = jax.nn.softmax(jnp.clip(dense('att')(x), -CLIP, CLIP), axis=1)
    return jnp.sum(weight * jax.nn.sigmoid(dense('cla')(x)), axis=1)


class Encoder(nn.Module):
  """Convolutional encoder of both branches.

  Attributes:
    channels: filters of the stages; each halves frames and bins.
    embedding: width of the embedding.
    dropout: rate after each stage.
    dtype: of the convolutions, see `Stage`.
    precision: of the convolutions.
  """

  channels: Sequence[int] = (64, 128, 256, 512)
  embedding: int = 256
  dropout: float = 0.2
  dtype: jnp.dtype | None = None
  precision: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    rows: Array | None = None,
    mask: Array | None = None,
    *,
    train: bool,
  ) -> tuple[Array, Array]:
    """Encodes images of static, delta and delta-delta features.

    Args:
      x: [batch, frames, bins, 3].
      rows: int32 [batch], see `Stage`.
      mask: [batch], see `Stage`.
      train: see `Stage`.

    Returns:
      Embedding [batch, embedding] and features before the attention [batch,
      frames // 16, channels[-1]] (of four stages).
    """
    # Statistics per mel bin, over batch, time and the three channels.
    x = jnp.swapaxes(x, 2, 3)
    x = batch_norm('bn0')(x, train=train, mask=mask)
    x = jnp.swapaxes(x, 2, 3)
    for i, channels in enumerate(self.channels):
      x = Stage(
        channels,
        self.dropout,
        self.dtype,
        self.precision,
        name=f'stage{i + 1}',
      )(x, rows, mask, train=train)
    x = jnp.mean(x, axis=2)
    return AttentionPool(self.embedding, name='attention')(x), x


class ProjectionLayer(nn.Module):
  """ReLU of a linear map, of the input or of the gated input.

  The gate is sigmoid(W2 relu(W1 x)) x + x. The authors' layer computes it and
  then maps x itself; `gated=False` is that behaviour. The gate's parameters
  exist either way, so that checkpoints fit both.
  """

  width: int
  gated: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, inputs] -> [batch, width]."""
    inputs = x.shape[-1]
    gate = nn.relu(Linear(inputs // 2, name='gate1')(x))
    gate = jax.nn.sigmoid(Linear(inputs, name='gate2')(gate))
    if self.gated:
      x = gate * x + x
    return nn.relu(Linear(self.width, name='fc')(x))


class Projection(nn.Module):
  """Two layers from the embedding to one of its subspaces."""

  width: int = 256
  gated: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, width] -> [batch, width]."""
    x = ProjectionLayer(self.width // 2, self.gated, name='layer1')(x)
    return ProjectionLayer(self.width, self.gated, name='layer2')(x)


class TwoLayers(nn.Module):
  """Linear, ReLU, linear: decoder, benchmark generator, speaker adversary."""

  hidden: int
  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[batch, inputs] -> [batch, width]."""
    x = nn.relu(Linear(self.hidden, name='linear1')(x))
    return Linear(self.width, name='linear2')(x)


class Classifier(nn.Module):
  """Linear, PReLU with one slope, dropout, BatchNorm, linear."""

  classes: int
  hidden: int = 256
  dropout: float = 0.5

  @nn.compact
  def __call__(
    self,
    x: Array,
    rows: Array | None = None,
    mask: Array | None = None,
    *,
    train: bool,
  ) -> tuple[Array, Array]:
    """[batch, width] -> logits [batch, classes], hidden [batch, hidden]."""
    x = Linear(self.hidden, name='fc1')(x)
    slope = self.param('prelu', nn.initializers.constant(0.25), (1,))
    hidden = jnp.where(x > 0, x, slope[None] * x)
    x = Dropout(self.dropout)(hidden, rows, train=train)
    x = batch_norm('bn')(x, train=train, mask=mask)
    return Linear(self.classes, name='fc2')(x), hidden


class Network(nn.Module):
  """Encoder, subspaces and classifier of DSNet or of one of its baselines.

  Attributes: the fields of `jaxser.systems.dsnet.DSNet` of the same names.
  """

  variant: str
  num_classes: int
  num_speakers: int
  channels: Sequence[int]
  embedding: int
  alpha: float
  gated_projection: bool
  encoder_dropout: float
  classifier_dropout: float
  compute_dtype: str
  precision: str | None

  def setup(self):
    """Creates the parts that this variant has."""
    self.encoder = Encoder(
      self.channels,
      self.embedding,
      self.encoder_dropout,
      None if self.compute_dtype == 'float32' else jnp.bfloat16,
      self.precision,
    )
    self.classifier = Classifier(
      self.num_classes,
      self.embedding,
      self.classifier_dropout,
    )
    width = self.embedding
    if self.variant == 'dsnet':
      self.irrelevant = Projection(width, self.gated_projection)
      self.relevant = Projection(width, self.gated_projection)
      self.decoder = TwoLayers(width, width)
    elif self.variant == 'isnet':
      self.benchmark = TwoLayers(width // 2, width)
    elif self.variant == 'dat':
      self.adversary = TwoLayers(width, self.num_speakers)

  def answer(
    self,
    images: Array,
    rows: Array | None = None,
    mask: Array | None = None,
    *,
    train: bool,
  ) -> dict[str, Array]:
    """What one utterance needs; see `DSNet.predict` for the names."""
    encoding, frames = self.encoder(images, rows, mask, train=train)
    out = {'encoding': encoding, 'frames': frames}
    if self.variant == 'dsnet':
      out['irrelevant'] = self.irrelevant(encoding)
      out['relevant'] = self.relevant(encoding)
      both = [out['irrelevant'], out['relevant']]
      out['reconstruction'] = self.decoder(jnp.concatenate(both, axis=-1))
      embedding = self.alpha * out['irrelevant'] + out['relevant']
    elif self.variant == 'isnet':
      out['benchmark'] = self.benchmark(encoding)
      embedding = encoding - out['benchmark']
    else:
      embedding = encoding
    out['embedding'] = embedding
    out['logits'], out['hidden'] = self.classifier(
      embedding, rows, mask, train=train
    )
    return out

  def train_pass(
    self,
    images: Array,
    neutral: Array | None,
    rows: Array,
    mask: Array,
    strength: Array,
  ) -> dict[str, Array]:
    """`answer` in training mode, then what only the loss needs.

    Args:
      images: [batch, frames, bins, 3].
      neutral: the same of the neutral partners, or None where the variant has
        no second branch. Its statistics update the running ones second.
      rows: int32 [batch].
      mask: [batch].
      strength: float [], of the gradient reversal.
    """
    out = self.answer(images, rows, mask, train=True)
    if neutral is not None:
      out['neutral'], _ = self.encoder(neutral, rows, mask, train=True)
    if self.variant == 'dat':
      reversed_ = reverse_gradient(out['encoding'], strength)
      out['speaker_logits'] = self.adversary(reversed_)
    return out

  def create(self, images: Array) -> None:
    """Calls every part once, for its parameters."""
    out = self.answer(images, train=False)
    if self.variant == 'dat':
      self.adversary(out['encoding'])
