"""The linear baseline: functionals of an utterance and one linear map.

    x = functionals over time of the stored frames, or a stored vector
    z = (x - mean) / scale
    scores = softmax(z kernel + bias), or VAD = clip(z kernel + bias)

scikit-learn fits it: a linear support vector machine with balanced class
weights, or ridge regression. The strength C is one of `STRENGTHS`, chosen by UAR
(mean CCC) on the development split; where there is none, by cross-validation
over the training speakers. No label of the test split is read.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxser.evaluation import metrics
from jaxser.ops.dct import mfcc
from jaxser.ops.functionals import functionals
from jaxser.systems.base import Array, Batch, System, Tree, num_classes, require

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""C of the support vector machine; ridge regression has alpha = 1 / C."""
_PARTS = 5  # Of the cross-validation.

UNCALIBRATED = (
  'The scores are a softmax of the decision values of a support vector machine '
  'and not calibrated.'
)
TRANSDUCTIVE = (
  'Each speaker was standardised by all of their own utterances, those of the '
  'test split included, without labels.'
)


class _Linear(System):
  """What classification and regression share.

  Attributes:
    functionals: whether utterances are frames, of which functionals are taken;
      else each is one stored vector.
    num_coefficients: MFCCs that the functionals are taken of; 0 takes the
      stored log-mel frames.
    num_speakers: speakers that are standardised by their own utterances; 0
      standardises none. `create` counts them for `speaker_normalization`.
  """

  functionals: bool = True
  num_coefficients: int = 39
  num_speakers: int = 0

  outputs: ClassVar[int]

  @classmethod
  def _create(cls, model: Mapping[str, Any], corpus: Any, **own: Any) -> Self:
    settings = dict(model)
    if settings.pop('speaker_normalization', False):
      own['num_speakers'] = len(set(corpus.table.speakers.tolist()))
    return cls(**settings, **own)

  @property
  def notes(self) -> tuple[str, ...]:
    return (TRANSDUCTIVE,) if self.num_speakers else ()

  def validate(self) -> None:
    least = self.num_coefficients >= 0
    require(self, ('num_coefficients', least, 'at least 0'))

  def check(self, corpus, lengths) -> None:
    longest, *bins = corpus.feature_shape
    if not bins or self.functionals != (longest > 1):
      raise ValueError(
        f'functionals={self.functionals} and features of the shape '
        f'{corpus.feature_shape} do not go together; choose '
        'features=functionals, egemaps or compare in --config=baseline:..., '
        'whose features are kaldi16k, egemaps and compare'
      )
    if self.functionals and self.num_coefficients > bins[0]:
      raise ValueError(
        f'num_coefficients={self.num_coefficients} is more than the {bins[0]} '
        'mels of a frame'
      )

  def check_recording(self) -> None:
    if self.num_speakers:
      raise ValueError(
        'it was fitted with speaker_normalization and needs several utterances '
        'of a known speaker, so it cannot be used on single recordings or '
        'another corpus; fit it without'
      )

  def summarise(self, batch: Batch) -> Array:
    """Returns what the linear map sees before any scaling, [batch, width]."""
    x = batch['features']
    if not self.functionals:
      return x[:, 0]
    if self.num_coefficients:
      x = mfcc(x, self.num_coefficients)
    return functionals(x, batch['length'])

  @nn.compact
  def __call__(self, batch: Batch, *, train: bool) -> tuple[Array, Array]:
    """Returns z [batch, width] and z kernel + bias [batch, outputs]."""
    x = self.summarise(batch)
    width = x.shape[-1]
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    if self.num_speakers:
      shape = (self.num_speakers, width)
      center = self.variable('speakers', 'mean', jnp.zeros, shape)
      spread = self.variable('speakers', 'scale', jnp.ones, shape)
      speaker = jnp.maximum(batch['speaker'], 0)
      x = (x - center.value[speaker]) / spread.value[speaker]
    mean = self.param('mean', zeros, (width,))
    scale = self.param('scale', ones, (width,))
    kernel = self.param('kernel', zeros, (width, self.outputs))
    bias = self.param('bias', zeros, (self.outputs,))
    z = (x - mean[None]) / scale[None]
    decision = jnp.matmul(z, kernel, precision=jax.lax.Precision.HIGHEST)
    return z, decision + bias[None]

  def fit(
    self, inputs: np.ndarray, table: Any, train: np.ndarray, dev: np.ndarray
  ) -> tuple[Tree, Tree]:
    """Returns (params, state) fitted on the rows `train`, int [m].

    Inputs, float32 [n, width], are `summarise` of all utterances in the table;
    C is chosen on the rows `dev`, or without any inside the training split.
    """
    x, state = inputs.astype(np.float64), {}
    if self.num_speakers:
      x, state = _by_speaker(x, table.speakers)
    targets, known = self._targets(table)
    train, dev = (rows[known[rows]] for rows in (train, dev))
    parts = [(train, dev)] if len(dev) else list(_parts(train, table.speakers))
    # Of every split, ready for any C.
    prepared = [(_Scaler(x[a]), a, b) for a, b in parts]

    def fitted(strength, scaler, rows):
      linear = self._estimator(strength, scaler.wide)
      return linear.fit(scaler(x[rows]), targets[rows])

    def score(strength):
      scores = []
      for scaler, a, b in prepared:
        predicted = fitted(strength, scaler, a).predict(scaler(x[b]))
        scores.append(self._score(targets[b], predicted))
      return np.mean(scores)

    # The first of equals: the simplest.
    best, scaler = max(STRENGTHS, key=score), _Scaler(x[train])
    linear = fitted(best, scaler, train)
    kernel, bias = scaler.basis.T @ linear.coef_.T, linear.intercept_
    if len(bias) < self.outputs:
      # Two classes have one decision value, that of the second.
      kernel, bias = (np.concatenate([-v, v], -1) / 2 for v in (kernel, bias))
    params = {'mean': scaler.mean, 'scale': scaler.scale}
    params |= {'kernel': kernel, 'bias': bias}
    return jax.tree.map(lambda v: v.astype(np.float32), (params, state))


class Baseline(_Linear):
  """Classes, by a linear support vector machine."""

  num_classes: int = 2

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    return cls._create(model, corpus, num_classes=num_classes(corpus))

  @property
  def outputs(self) -> int:
    """Decision values per utterance."""
    return self.num_classes

  @property
  def notes(self) -> tuple[str, ...]:
    return (UNCALIBRATED, *super().notes)

  def predict(self, params, state, batch):
    """Returns scores, logits [batch, classes] and embedding [batch, width]."""
    z, logits = self.apply({'params': params, **state}, batch, train=False)
    scores = jax.nn.softmax(logits)
    return {'scores': scores, 'logits': logits, 'embedding': z}

  def _targets(self, table):
    return table.labels, table.labels >= 0

  def _estimator(self, strength, wide):
    from sklearn import svm

    how = {'class_weight': 'balanced', 'max_iter': 10_000, 'random_state': 0}
    return svm.LinearSVC(C=strength, dual=wide, **how)

  def _score(self, targets, predictions):
    confusion = metrics.confusion(targets, predictions, self.num_classes)
    return float(metrics.uar(confusion))


class BaselineVad(_Linear):
  """VAD on the corpus' scale from its lowest to its highest, by ridge regression."""

  task: ClassVar[str] = 'regression'
  outputs: ClassVar[int] = 3

  vad_range: tuple[float, float] = (1.0, 7.0)

  @classmethod
  def create(cls, model: Mapping[str, Any], corpus: Any) -> Self:
    if corpus.vad_range is None:
      raise ValueError(
        f'corpus {corpus.name!r} has no valence, arousal and dominance; choose '
        'one that has, such as demo, emotale, iemocap or msp_podcast, or '
        'task=classes'
      )
    return cls._create(model, corpus, vad_range=tuple(corpus.vad_range))

  def predict(self, params, state, batch):
    """Returns vad [batch, 3] on the scale and embedding [batch, width]."""
    z, vad = self.apply({'params': params, **state}, batch, train=False)
    return {'vad': jnp.clip(vad, *self.vad_range), 'embedding': z}

  def _targets(self, table):
    return table.vad, np.isfinite(table.vad).all(-1)

  def _estimator(self, strength, wide):
    from sklearn import linear_model

    return linear_model.Ridge(alpha=1 / strength)

  def _score(self, targets, predictions):
    clipped = np.clip(predictions, *self.vad_range)
    return metrics.concordance(targets, clipped).mean()


class _Scaler:
  """Standardises [n, width], and rotates it so that fewer columns hold it all.

  A linear model with an L2 penalty is the same after a rotation.
  """

  def __init__(self, x: np.ndarray):
    from sklearn import preprocessing

    standard = preprocessing.StandardScaler().fit(x)
    self.mean, self.scale = standard.mean_, standard.scale_
    z = standard.transform(x)
    # Eigenvectors of the small one of z'z and zz'; SVD and QR take far longer.
    self.wide = len(z) < z.shape[1]
    values, vectors = np.linalg.eigh(z @ z.T if self.wide else z.T @ z)
    kept = values > 1e-10 * values[-1]
    kept[-1] = True  # Where all utterances are alike, too.
    values, vectors = np.maximum(values[kept], 1e-30), vectors[:, kept]
    self.basis = (vectors / np.sqrt(values)).T @ z if self.wide else vectors.T

  def __call__(self, x: np.ndarray) -> np.ndarray:
    return (x - self.mean) / self.scale @ self.basis.T


def _parts(train: np.ndarray, speakers: np.ndarray):
  """Yields (training, validation) rows, whole speakers where there are some."""
  from sklearn import model_selection

  groups = speakers[train]
  if len(set(groups.tolist())) < 2:
    groups = np.arange(len(train))
  cut = model_selection.GroupKFold(min(_PARTS, len(set(groups.tolist()))))
  for a, b in cut.split(train, groups=groups):
    yield train[a], train[b]


def _by_speaker(x: np.ndarray, speakers: np.ndarray):
  """Standardises [n, width] by speaker, numbered in sorted order as in batches."""
  names, number = np.unique(speakers, return_inverse=True)
  groups = [x[number == i] for i in range(len(names))]
  mean = np.stack([group.mean(0) for group in groups])
  scale = np.stack([group.std(0) for group in groups])
  scale[scale == 0] = 1
  state = {'speakers': {'mean': mean, 'scale': scale}}
  return (x - mean[number]) / scale[number], state
