"""Recordings to predictions: an ensemble as one program for few shapes."""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.models import ensemble, saved
from jaxser.models.audio_features import (
  AudioFeatures,
  FeatureExtractor,
  Input,
  InputError,
  Piece,
)
from jaxser.models.saved import Description
from jaxser.models.weights import ModelError
from jaxser.ops import spherical
from jaxser.ops.log_mel import log_mel
from jaxser.systems.base import Tree

ROWS_AT_ONCE, WAVES_AT_ONCE = 64, 8
_BUCKETS = 4


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What the ensemble predicts of one piece, or on average of several.

  Attributes:
    start, end: seconds of the recording.
    scores: probabilities [classes], or None.
    vad: valence, arousal, dominance on the corpus' scale, or None.
    emotion: name of the most probable class, '' for VAD.
    region: where on the sphere the VAD lies, in words; '' for classes.
    embeddings: [models, width]; spaces of different models do not compare.
    error: why there is no prediction of this segment, else ''.
  """

  start: float
  end: float
  scores: np.ndarray | None = None
  vad: np.ndarray | None = None
  emotion: str = ''
  region: str = ''
  embeddings: np.ndarray | None = None
  error: str = ''


@dataclasses.dataclass(frozen=True)
class Recording:
  """All that is predicted of one recording.

  Attributes:
    name: as given.
    seconds: duration.
    overall: for the whole: of the piece, or the mean over the segments.
    segments: one prediction each; a single one without segmenting.
    error: why there is no prediction, else ''.
    warnings: what makes predictions doubtful.
  """

  name: str
  seconds: float
  overall: Prediction | None = None
  segments: tuple[Prediction, ...] = ()
  error: str = ''
  warnings: tuple[str, ...] = ()


def load(
  checkpoint: os.PathLike[str] | str,
  *,
  weights: os.PathLike[str] | str | None = None,
  seeds: Sequence[int] = (),
  folds: Sequence[int] = (),
  selection: str | None = None,
  **options: Any,
) -> 'Predictor':
  """Returns the ensemble of a run, ready to predict.

  Args:
    checkpoint: work folder of a run.
    weights: folder of the WavLM whose hidden states are the model's features,
      if they are.
    seeds, folds, selection: which weights, see `ensemble.choose`.
    **options: of `Predictor`.

  Raises:
    ModelError: if there are no such weights, or they cannot be used.
    ConvertError: if the WavLM cannot be read.
  """
  description = saved.open(checkpoint, weights)
  try:
    description.system.check_recording()
  except ValueError as error:
    raise ModelError(f'{description.path}: {error}.') from error
  chosen = ensemble.choose(
    description, seeds=seeds, folds=folds, selection=selection
  )
  return Predictor(description, ensemble.load(description, chosen), **options)


class Predictor:
  """Predicts emotions of recordings with the models of one run.

  Attributes:
    description: of the run.
    models: the networks whose predictions are averaged.
    extractor: what reads recordings.
    shapes: the batch shapes that were compiled so far.
  """

  def __init__(
    self,
    description: Description,
    models: Sequence[ensemble.Model],
    *,
    segment: float = 0.0,
    features_on: str = 'host',
    batch_size: int = 0,
  ):
    """Puts the weights on the devices.

    Args:
      description: of the run.
      models: from `jaxser.models.ensemble.load`.
      segment: seconds per segment of a recording; 0 takes it as one.
      features_on: 'host' or 'device', see `FeatureExtractor`.
      batch_size: rows at once; 0 chooses.
    """
    self.description, self.models = description, tuple(models)
    self.extractor = FeatureExtractor.for_model(
      description, segment=segment, features_on=features_on
    )
    spec = description.feature_spec
    waves = spec.bins is None or description.uses_hidden_states
    self._batch_size = batch_size or (WAVES_AT_ONCE if waves else ROWS_AT_ONCE)
    mesh = Mesh(np.array(jax.local_devices()), ('data',))
    self._rows = NamedSharding(mesh, PartitionSpec('data'))
    everywhere = NamedSharding(mesh, PartitionSpec())
    trees = [(model.params, model.state) for model in models]
    self._stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    needed = spec.needed if description.uses_hidden_states else ()
    self._weights = jax.device_put((self._stacked, needed), everywhere)
    self._run = jax.jit(self._predict_batch)
    self._region = region_of(description, models)
    self.shapes: set[tuple[int, ...]] = set()

  def program(
    self, features: jax.Array, length: jax.Array, stacked: Tree = None
  ) -> dict[str, jax.Array]:
    """Returns outputs [models, rows, ...] of padded features; to be traced.

    Rows of length 0 are padding.
    """
    system, rows = self.description.system, features.shape[0]
    output = 'vad' if system.task == 'regression' else 'scores'
    unknown = jnp.full((rows,), -1, jnp.int32)
    batch = {
      'features': features,
      'length': length,
      'label': unknown,
      'vad': jnp.zeros((rows, 3)),
      'mask': (length > 0).astype(jnp.float32),
      'speaker': unknown,
      'row': jnp.arange(rows, dtype=jnp.int32),
    }

    def one(model: tuple[Tree, Tree]) -> dict[str, jax.Array]:
      out = system.predict(*model, batch)
      return {n: out[n].astype(jnp.float32) for n in (output, 'embedding')}

    return jax.lax.map(one, stacked or self._stacked)

  def _predict_batch(
    self, weights: Tree, features: jax.Array, length: jax.Array
  ) -> dict[str, jax.Array]:
    """As `program`, of what the extractor hands over."""
    stacked, needed = weights
    spec = self.description.feature_spec
    if self.description.uses_hidden_states:
      longest = self.description.max_length
      features, count = spec.apply(needed, features, length)
      features, length = features[:, :longest], jnp.minimum(count, longest)
    elif self.extractor.on_device:
      features = log_mel_of(spec, features)
      length = jnp.where(length > 0, features.shape[1], 0)
    return self.program(features, length.astype(jnp.int32), stacked)

  @functools.cached_property
  def lengths(self) -> tuple[int, ...]:
    """Lengths that pieces are padded to, ascending; each is compiled once."""
    longest = self.extractor.row_shape[0]
    fixed = self.description.feature_spec.name == 'librosa22k'
    # Where everything has one length, or padding matters, as published.
    if fixed or self.description.system.padding == 'published':
      return (longest,)
    halves = {-(-longest // 2**i) for i in range(_BUCKETS)}
    return tuple(sorted(n for n in halves if n >= self.extractor.shortest))

  def predict(
    self, audio: Any, sample_rate: int | None = None, *, num_workers: int = 1
  ) -> Recording | list[Recording]:
    """Predicts the emotion of one recording, or of each of several.

    Args:
      audio: a path; an array [samples] or [samples, channels]; or a list of
        either.
      sample_rate: of arrays, Hz.
      num_workers: processes that read files.

    Returns:
      A `Recording`, or for a list a list of them in its order, in which what
      could not be used has an error.

    Raises:
      InputError: if the one recording cannot be used.
    """
    several = isinstance(audio, list | tuple)
    given = list(audio) if several else [audio]
    inputs = [_input(item, i, sample_rate) for i, item in enumerate(given)]
    found = list(self.stream(inputs, num_workers=num_workers))
    if found and found[0].error and not several:
      raise InputError(found[0].error)
    return found if several else found[0]

  def embed(self, audio: Any, sample_rate: int | None = None) -> Any:
    """Returns embeddings [models, width] of a recording; a list for a list.

    See `predict`. Spaces of different models do not compare.

    Raises:
      InputError: if a recording cannot be used.
    """
    found = self.predict(audio, sample_rate)
    if isinstance(found, Recording):
      return found.overall.embeddings
    if errors := [recording.error for recording in found if recording.error]:
      raise InputError(errors[0])
    return [recording.overall.embeddings for recording in found]

  def stream(
    self, inputs: Sequence[Input], *, num_workers: int | None = None
  ) -> Iterator[Recording]:
    """Yields predictions of recordings in their order, as they are known."""
    rows = self._batch_size
    # A few files do not pay for a large batch.
    if not self.extractor.segment:
      rows = min(rows, 1 << max(0, len(inputs) - 1).bit_length())
    features = self.extractor.extract_all(inputs, num_workers)
    yield from self.predict_features(features, rows)

  def predict_features(
    self, recordings: Iterable[AudioFeatures], rows: int
  ) -> Iterator[Recording]:
    """Yields predictions of extracted features, in batches of `rows` rows.

    The devices share them evenly, so there may be a few more.
    """
    rows += -rows % self._rows.mesh.size
    recordings = iter(recordings)
    # So many that few batches of a window are filled in part only.
    size = 2 * rows * len(self.lengths)
    while window := list(itertools.islice(recordings, size)):
      yield from self._predict_window(window, rows)

  def _predict_window(
    self, window: list[AudioFeatures], rows: int
  ) -> Iterator[Recording]:
    by_length: dict[int, list[tuple[int, int]]] = {n: [] for n in self.lengths}
    for r, recording in enumerate(window):
      for i, piece in enumerate(recording.pieces):
        if not piece.error:
          size = len(piece.features)
          length = next(n for n in self.lengths if n >= size)
          by_length[length].append((r, i))
    batches, outputs = [], {}
    for length, places in by_length.items():
      for start in range(0, len(places), rows):
        chosen = places[start : start + rows]
        pieces = [window[r].pieces[i] for r, i in chosen]
        batches.append((chosen, self._launch(pieces, length, rows)))
    for chosen, values in batches:
      values = jax.device_get(values)
      for row, place in enumerate(chosen):
        outputs[place] = {name: v[:, row] for name, v in values.items()}
    for r, recording in enumerate(window):
      found = [outputs.get((r, i)) for i in range(len(recording.pieces))]
      yield self._recording(recording, found)

  def _launch(
    self, pieces: list[Piece], length: int, rows: int
  ) -> dict[str, jax.Array]:
    """Starts the work on one batch; outputs [models, rows, ...]."""
    shape = (rows, length, *self.extractor.row_shape[1:])
    features, lengths = np.zeros(shape, np.float32), np.zeros(rows, np.int32)
    for row, piece in enumerate(pieces):
      lengths[row] = len(piece.features)
      features[row, : lengths[row]] = piece.features
    self.shapes.add(shape)
    batch = jax.device_put((features, lengths), self._rows)
    return self._run(self._weights, *batch)

  def _recording(
    self, features: AudioFeatures, outputs: list[dict[str, np.ndarray] | None]
  ) -> Recording:
    if features.error:
      return Recording(features.name, features.seconds, error=features.error)
    segments = tuple(
      self._prediction(piece, output)
      for piece, output in zip(features.pieces, outputs, strict=True)
    )
    overall = segments[0]
    if len(segments) > 1:
      known = [output for output in outputs if output is not None]
      mean = {n: np.mean([o[n] for o in known], axis=0) for n in known[0]}
      overall = self._prediction(Piece(0.0, features.seconds, None), mean)
    found = features.name, features.seconds, overall, segments
    return Recording(*found, warnings=features.warnings)

  def _prediction(
    self, piece: Piece, output: dict[str, np.ndarray] | None
  ) -> Prediction:
    """Averages over models; `output` values are [models, ...]."""
    if output is None:
      return Prediction(piece.start, piece.end, error=piece.error)
    known = {
      name: np.mean(output[name], axis=0, dtype=np.float64).astype(np.float32)
      for name in ('scores', 'vad')
      if name in output
    }
    if 'vad' in known:
      known['region'] = self._region(known['vad'])
    else:
      best = int(np.argmax(known['scores']))
      known['emotion'] = self.description.classes[best]
    return Prediction(
      piece.start, piece.end, embeddings=output['embedding'], **known
    )


def _input(item: Any, position: int, sample_rate: int | None) -> Input:
  if isinstance(item, Input):
    return item
  if isinstance(item, str | os.PathLike):
    return Input(str(item), pathlib.Path(item))
  if sample_rate is None:
    raise InputError('an array needs its sample rate; give sample_rate=HZ.')
  return Input(f'recording {position}', (item, sample_rate))


def log_mel_of(spec: Any, signal: jax.Array) -> jax.Array:
  """Returns the features of a `Librosa22k` of fitted waveforms."""
  own = spec.parameters()
  kept = ('sample_rate', 'fft_length', 'hop_length', 'bins', 'floor')
  return log_mel(signal, **{n: own[n] for n in (*kept, 'range_db')})


def region_of(
  description: Description, models: Sequence[ensemble.Model]
) -> Callable[[np.ndarray], str]:
  """Returns a function that says in words where a point of the VAD scale lies.

  Octants around the origin that the models were trained with: the middle of
  the scale, or a neutral point of their own. Zero counts as positive, as in
  `spherical.region_index`.
  """
  scale = description.vad_range
  if scale is None:
    return lambda vad: ''
  words = spherical.region_names('octants')
  names = dict(zip(spherical.OCTANTS, words, strict=True))
  order = [spherical.VAD.index(axis) for axis in spherical.OCTANT_AXES]
  own = description.system.centre
  centres = [m.state.get('split', {}).get('centre', own) for m in models]
  known = [c for c in centres if c is not None]
  centre = np.mean(known, axis=0) if known else np.full(3, sum(scale) / 2)

  def region(vad: np.ndarray) -> str:
    above = (vad - centre)[order] >= 0
    return names[''.join('+' if a else '-' for a in above)]

  return region
