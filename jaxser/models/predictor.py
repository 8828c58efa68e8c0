"""Recordings to predictions: an ensemble as one program for few shapes."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxser.core import runtime
from jaxser.core.files import Path
from jaxser.models import builtin, saved
from jaxser.models.audio_features import (
  Extracted,
  FeatureExtractor,
  Input,
  InputError,
)
from jaxser.models.output import Recording, Recordings
from jaxser.models.saved import Description
from jaxser.models.weights import ModelError
from jaxser.ops import spherical
from jaxser.ops.log_mel import log_mel
from jaxser.systems.base import Tree

ROWS_AT_ONCE, WAVES_AT_ONCE = 64, 8
_BUCKETS = 4


class Model(NamedTuple):
  """One network of an ensemble, on the host; trees are for `System.predict`."""

  training: saved.Training
  params: Tree
  state: Tree


def load(
  checkpoint: Path = builtin.DEFAULT,
  *,
  weights: Path | None = None,
  seeds: Sequence[int] = (),
  folds: Sequence[int] = (),
  selection: str | None = None,
  **options: Any,
) -> 'Predictor':
  """Returns the ensemble of a run, ready to predict.

  Args:
    checkpoint: work folder of a run, or the name of a model that comes with
      jaxser.
    weights: folder of the WavLM whose hidden states are the model's features,
      if they are.
    seeds: which seeds of the run; none for all.
    folds: which folds; none for all.
    selection: which epoch; by default the best on the development split.
    **options: `segment`, `features_on` and `batch_size` of `Predictor`.

  Raises:
    ModelError: if there are no such weights, or they cannot be used.
    ConvertError: if the WavLM cannot be read.
  """
  description = saved.open(checkpoint, weights)
  runtime.quiet_without_tpu()
  runtime.enable_compilation_cache()
  try:
    description.system.check_recording()
  except ValueError as error:
    raise ModelError(f'{description.path}: {error}.') from error
  chosen = description.choose(seeds, folds, selection)
  models = [Model(t, *saved.load(description.workdir, *t)) for t in chosen]
  return Predictor(description, models, **options)


class Predictor:
  """Predicts emotions of recordings with the models of one run, on average.

  `shapes` are the batch shapes that were compiled so far.
  """

  def __init__(
    self,
    description: Description,
    models: Sequence[Model],
    *,
    segment: float = 0.0,
    features_on: str = 'host',
    batch_size: int = 0,
  ):
    """Puts the weights on the devices."""
    self.description, self.models = description, tuple(models)
    self.extractor = FeatureExtractor.for_model(
      description, segment=segment, features_on=features_on
    )
    self.shapes: set[tuple[int, ...]] = set()
    spec, hidden = description.feature_spec, description.uses_hidden_states
    waves = spec.bins is None or hidden
    self._batch_size = batch_size or (WAVES_AT_ONCE if waves else ROWS_AT_ONCE)
    mesh = Mesh(np.array(jax.local_devices()), ('data',))
    self._rows = NamedSharding(mesh, PartitionSpec('data'))
    trees = [(model.params, model.state) for model in models]
    self._stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    self._weights = jax.device_put(
      (self._stacked, spec.needed if hidden else ()),
      NamedSharding(mesh, PartitionSpec()),
    )
    self._run = jax.jit(self._predict_batch)
    self._region = region_of(description, models)
    # Lengths that pieces are padded to, ascending; each is compiled once.
    longest = self.extractor.row_shape[0]
    halves = {-(-longest // 2**i) for i in range(_BUCKETS)}
    # Where everything has one length, or padding matters, as published.
    if spec.name == 'librosa22k' or description.system.padding == 'published':
      halves = {longest}
    shortest = min(longest, self.extractor.shortest)
    self.lengths = tuple(sorted(n for n in halves if n >= shortest))

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
    (stacked, needed), spec = weights, self.description.feature_spec
    if self.description.uses_hidden_states:
      longest = self.description.max_length
      features, count = spec.apply(needed, features, length)
      features, length = features[:, :longest], jnp.minimum(count, longest)
    elif self.extractor.on_device:
      features = log_mel(features, spec)
      length = jnp.where(length > 0, features.shape[1], 0)
    return self.program(features, length.astype(jnp.int32), stacked)

  def predict(
    self, audio: Any, sample_rate: int | None = None, *, num_workers: int = 1
  ) -> Recording | Recordings:
    """Predicts the emotion of one recording, or of each of several.

    Args:
      audio: a path; an array [samples] or [samples, channels], full scale 1 or
        that of its integers; or a list of either.
      sample_rate: of arrays, Hz.
      num_workers: processes that read files.

    Returns:
      A `Recording`, or for a list `Recordings` in its order, in which what
      could not be used has an error.

    Raises:
      InputError: if the one recording cannot be used.
    """
    several = isinstance(audio, list | tuple)
    given = enumerate(audio if several else [audio])
    inputs = [_input(item, i, sample_rate) for i, item in given]
    found = Recordings(self.stream(inputs, num_workers=num_workers))
    if found and found[0].error and not several:
      raise InputError(found[0].error)
    return found if several else found[0]

  def embed(
    self, audio: Any, sample_rate: int | None = None, *, num_workers: int = 1
  ) -> np.ndarray | list[np.ndarray]:
    """Returns embeddings [models, width] of a recording; a list for a list.

    Arguments are those of `predict`. Spaces of different models do not compare.

    Raises:
      InputError: if a recording cannot be used.
    """
    found = self.predict(audio, sample_rate, num_workers=num_workers)
    if isinstance(found, Recording):
      return found.embeddings
    if errors := [recording.error for recording in found if recording.error]:
      raise InputError(errors[0])
    return [recording.embeddings for recording in found]

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
    self, extracted: Iterable[Extracted], rows: int
  ) -> Iterator[Recording]:
    """Yields predictions of extracted features, in batches of about so many."""
    rows += -rows % self._rows.mesh.size
    extracted = iter(extracted)
    # So many that few batches of a window are filled in part only.
    size = 2 * rows * len(self.lengths)
    while window := list(itertools.islice(extracted, size)):
      yield from self._predict_window(window, rows)

  def _predict_window(
    self, window: list[Extracted], rows: int
  ) -> Iterator[Recording]:
    by_length: dict[int, list[tuple[int, int]]] = {n: [] for n in self.lengths}
    for r, (_, pieces) in enumerate(window):
      for i, features in enumerate(pieces):
        if features is not None:
          size = len(features)
          by_length[next(n for n in self.lengths if n >= size)].append((r, i))
    batches, outputs = [], [[None] * len(pieces) for _, pieces in window]
    for length, places in by_length.items():
      for start in range(0, len(places), rows):
        chosen = places[start : start + rows]
        pieces = [window[r][1][i] for r, i in chosen]
        batches.append((chosen, self._launch(pieces, length, rows)))
    for chosen, values in batches:
      values = jax.device_get(values)
      for row, (r, i) in enumerate(chosen):
        outputs[r][i] = {name: v[:, row] for name, v in values.items()}
    for (recording, _), found in zip(window, outputs, strict=True):
      segments = [
        dataclasses.replace(segment, **self._means([output]))
        for segment, output in zip(recording.segments, found, strict=False)
      ]
      yield dataclasses.replace(
        recording, segments=tuple(segments), **self._means(found)
      )

  def _launch(
    self, pieces: list[np.ndarray], length: int, rows: int
  ) -> dict[str, jax.Array]:
    """Starts the work on one batch; outputs [models, rows, ...]."""
    shape = (rows, length, *self.extractor.row_shape[1:])
    features, lengths = np.zeros(shape, np.float32), np.zeros(rows, np.int32)
    for row, piece in enumerate(pieces):
      lengths[row] = len(piece)
      features[row, : len(piece)] = piece
    self.shapes.add(shape)
    batch = jax.device_put((features, lengths), self._rows)
    return self._run(self._weights, *batch)

  def _means(self, outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Averages over pieces and models; returns fields of a `Prediction`."""
    known = [output for output in outputs if output is not None]
    if not known:
      return {}
    output = {n: np.mean([o[n] for o in known], axis=0) for n in known[0]}
    name = 'vad' if 'vad' in output else 'scores'
    columns = spherical.VAD if name == 'vad' else self.description.classes
    mean = np.mean(output[name], axis=0, dtype=np.float64).astype(np.float32)
    found = {
      'embeddings': output['embedding'],
      name: dict(zip(columns, mean.tolist(), strict=True)),
    }
    if name == 'vad':
      found['region'] = self._region(mean)
    else:
      found['emotion'] = columns[int(np.argmax(mean))]
    return found


def _input(item: Any, position: int, sample_rate: int | None) -> Input:
  if isinstance(item, Input):
    return item
  if isinstance(item, str | os.PathLike):
    return Input(str(item), pathlib.Path(item).expanduser())
  if sample_rate is None:
    raise InputError('an array needs its sample rate; give sample_rate=HZ.')
  return Input(f'recording {position}', (item, sample_rate))


def region_of(
  description: Description, models: Sequence[Model]
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
