"""Recordings to answers: batches of few shapes, an ensemble, in order."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.engine.mesh import Placement
from jaxser.models import ensemble as members_lib
from jaxser.models.audio_features import Ears, Heard, Input, Piece
from jaxser.models.ensemble import Member
from jaxser.models.frozen_wavlm import HiddenStates
from jaxser.models.saved import Description
from jaxser.ops import spherical
from jaxser.ops.log_mel import log_mel
from jaxser.systems.base import Batch, System, Tree

# Rows per batch, of log-mel or other frames and of waveforms.
BATCH_SIZES = {'frames': 64, 'samples': 8}
_BUCKETS = 4
# Batches that the devices work on while the host prepares the next.
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the ensemble says about one piece, or on average about several.

  Attributes:
    start, end: seconds of the recording.
    scores: probabilities [classes], or None.
    vad: valence, arousal, dominance on the corpus' scale, or None.
    emotion: name of the most probable class, '' for VAD.
    region: where on the sphere the VAD lies, in words; '' for classes.
    embeddings: [members, width]; spaces of different members do not compare.
  """

  start: float
  end: float
  scores: np.ndarray | None
  vad: np.ndarray | None
  emotion: str
  region: str
  embeddings: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recording:
  """All that is said about one recording.

  Attributes:
    name: as given.
    seconds: duration.
    answer: for the whole: of the piece, or the mean over the segments.
    segments: one answer each; a single one without segmenting.
    error: why there is no answer, else ''.
  """

  name: str
  seconds: float
  answer: Answer | None = None
  segments: tuple[Answer, ...] = ()
  error: str = ''


@dataclasses.dataclass
class _Pending:
  """A recording some of whose pieces have no answer yet."""

  heard: Heard
  outputs: list[dict[str, np.ndarray] | None]

  @property
  def complete(self) -> bool:
    return all(output is not None for output in self.outputs)


class Predictor:
  """Answers for recordings with the members of one run.

  Attributes:
    description: of the run.
    members: the networks whose answers are averaged.
    ears: what reads recordings.
    shapes: the batch shapes that were compiled so far.
  """

  def __init__(
    self,
    description: Description,
    members: Sequence[Member],
    *,
    segment: float = 0.0,
    features_on: str = 'host',
    batch_size: int = 0,
  ):
    """Puts the weights on the devices.

    Args:
      description: of the run.
      members: from `jaxser.models.ensemble.load`.
      segment: seconds per segment of a recording; 0 does not take them apart.
      features_on: 'host' or 'device', see `Ears`.
      batch_size: rows at once; 0 chooses.
    """
    self.description, self.members = description, tuple(members)
    self.ears = Ears(description, segment=segment, features_on=features_on)
    self._segment = segment
    convention = description.convention
    waves = convention.bins is None or isinstance(convention, HiddenStates)
    kind = 'samples' if waves else 'frames'
    self._wanted_rows = batch_size or BATCH_SIZES[kind]
    self._placement = Placement()
    self._weights = [
      self._placement.put_state((member.params, member.state))
      for member in members
    ]
    self._front_end = None
    if isinstance(convention, HiddenStates):
      needed = self._placement.put_state(convention.extractor.needed)
      self._front_end = functools.partial(
        _hidden_states, convention, description.max_length, needed
      )
    elif self.ears.on_device and convention.bins:
      own = convention.parameters()
      kept = ('sample_rate', 'fft_length', 'hop_length', 'bins', 'floor')
      settings = tuple((n, own[n]) for n in (*kept, 'range_db'))
      self._front_end = functools.partial(_log_mel, settings)
    self._region = region_of(description, members)
    self.shapes: set[tuple[int, ...]] = set()

  @functools.cached_property
  def lengths(self) -> tuple[int, ...]:
    """Lengths that pieces are padded to, ascending; each is compiled once."""
    longest = self.ears.row_shape[0]
    system, convention = self.description.system, self.description.convention
    # Where everything has one length, or padding is heard, as published.
    fixed = convention.name == 'librosa22k'
    if fixed or getattr(system, 'padding', 'exact') == 'published':
      return (longest,)
    halves = {-(-longest // 2**i) for i in range(_BUCKETS)}
    return tuple(sorted(n for n in halves if n >= self.ears.shortest))

  def predict(
    self, inputs: Sequence[Input], *, num_workers: int | None = None
  ) -> Iterator[Recording]:
    """Answers for recordings in their order, as soon as they are known."""
    # A few files do not pay for a large batch.
    rows = self._wanted_rows
    if not self._segment:
      rows = min(rows, 1 << (len(inputs) - 1).bit_length()) if inputs else 1
    yield from self.answer(
      self.ears.hear_all(inputs, num_workers), self._placement.padded(rows)
    )

  def answer(
    self, recordings: Iterable[Heard], rows: int
  ) -> Iterator[Recording]:
    """Answers for what was heard, in batches of `rows` rows."""
    pending: collections.deque[_Pending] = collections.deque()
    waiting: dict[int, list[tuple[_Pending, int]]] = {
      n: [] for n in self.lengths
    }
    flying: collections.deque[tuple[Any, list]] = collections.deque()

    def launch(length: int) -> None:
      chosen, waiting[length] = waiting[length], []
      if chosen:
        pieces = [entry.heard.pieces[i] for entry, i in chosen]
        flying.append((self._launch(pieces, length, rows), chosen))

    def land() -> None:
      outputs, chosen = flying.popleft()
      values = _to_host(outputs)
      for row, (entry, i) in enumerate(chosen):
        entry.outputs[i] = {name: v[:, row] for name, v in values.items()}

    def finished() -> Iterator[Recording]:
      while pending and pending[0].complete:
        yield self._recording(pending.popleft())

    for heard in recordings:
      entry = _Pending(heard, [None] * len(heard.pieces))
      pending.append(entry)
      for i, piece in enumerate(heard.pieces):
        length = self._bucket(piece)
        waiting[length].append((entry, i))
        if len(waiting[length]) == rows:
          launch(length)
        if sum(map(len, waiting.values())) >= 2 * rows * len(waiting):
          for other in self.lengths:
            launch(other)
        while len(flying) > _IN_FLIGHT:
          land()
      # A rare length must not keep all others waiting.
      if len(pending) > 4 * rows and not pending[0].complete:
        for other in self.lengths:
          launch(other)
        while flying:
          land()
      yield from finished()
    for length in self.lengths:
      launch(length)
    while flying:
      land()
      yield from finished()
    yield from finished()

  def _bucket(self, piece: Piece) -> int:
    size = len(piece.features)
    return next(n for n in self.lengths if n >= size)

  def _launch(self, pieces: list[Piece], length: int, rows: int) -> list[Any]:
    """Starts the work on one batch; the devices' outputs, member by member."""
    features = np.zeros((rows, length, *self.ears.row_shape[1:]), np.float32)
    lengths = np.zeros(rows, np.int32)
    for row, piece in enumerate(pieces):
      features[row, : len(piece.features)] = piece.features
      lengths[row] = len(piece.features)
    batch = members_lib.as_batch(features, lengths, len(pieces))
    self.shapes.add(features.shape)
    batch = self._placement.put_batch(batch)
    if self._front_end is not None:
      frames, count = self._front_end(batch['features'], batch['length'])
      batch |= {'features': frames, 'length': count}
    system = self.description.system
    return [_predict(system, *weights, batch) for weights in self._weights]

  def _recording(self, entry: _Pending) -> Recording:
    heard = entry.heard
    if heard.error:
      return Recording(heard.name, heard.seconds, error=heard.error)
    outputs = entry.outputs
    segments = tuple(
      self._answer(piece.start, piece.end, output)
      for piece, output in zip(heard.pieces, outputs, strict=True)
    )
    whole = segments[0]
    if len(segments) > 1:
      mean = {
        name: np.mean([output[name] for output in outputs], axis=0)
        for name in outputs[0]
      }
      whole = self._answer(0.0, heard.seconds, mean)
    return Recording(heard.name, heard.seconds, whole, segments)

  def _answer(
    self, start: float, end: float, output: dict[str, np.ndarray]
  ) -> Answer:
    """Averages over members; `output` values are [members, ...]."""
    said = {
      name: np.mean(output[name], axis=0, dtype=np.float64).astype(np.float32)
      for name in ('scores', 'vad')
      if name in output
    }
    scores, vad = said.get('scores'), said.get('vad')
    classes = self.description.classes
    return Answer(
      start=start,
      end=end,
      scores=scores,
      vad=vad,
      emotion='' if scores is None else classes[int(np.argmax(scores))],
      region='' if vad is None else self._region(vad),
      embeddings=output['embedding'],
    )


@functools.partial(jax.jit, static_argnums=0)
def _log_mel(
  settings: tuple[tuple[str, Any], ...], signal: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-mel of fitted waveforms, and its frames: 0 of a row of padding."""
  spectra = log_mel(signal, **dict(settings))
  return spectra, jnp.where(length > 0, spectra.shape[1], 0).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hidden_states(
  convention: HiddenStates,
  longest: int,
  needed: Tree,
  samples: jax.Array,
  length: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Hidden states of waveforms, cut to `longest` frames; how many there are."""
  frames, count = convention.apply(needed, samples, length)
  return frames[:, :longest], jnp.minimum(count, longest).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _predict(
  system: System, params: Tree, state: Tree, batch: Batch
) -> dict[str, jax.Array]:
  """What is shown, of all that the system predicts."""
  out = system.predict(params, state, batch)
  answer = 'vad' if system.task == 'regression' else 'scores'
  return {n: out[n].astype(jnp.float32) for n in (answer, 'embedding')}


def _to_host(outputs: list[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
  """Values [members, rows, ...] by name."""
  return {
    name: np.stack([np.asarray(output[name]) for output in outputs])
    for name in outputs[0]
  }


def region_of(
  description: Description, members: Sequence[Member]
) -> Callable[[np.ndarray], str]:
  """A function that says in words where a point on the VAD scale lies.

  Octants around the origin that the members were trained with: the middle of
  the scale, or a neutral point of their own. Zero counts as positive, as in
  `spherical.region_index`.
  """
  scale = description.vad_range
  if scale is None:
    return lambda vad: ''
  names = dict(
    zip(spherical.OCTANTS, spherical.region_names('octants'), strict=True)
  )
  order = [spherical.VAD.index(axis) for axis in spherical.OCTANT_AXES]
  own = getattr(description.system, 'centre', None)
  centres = [m.state.get('split', {}).get('centre', own) for m in members]
  known = [c for c in centres if c is not None]
  centre = np.mean(known, axis=0) if known else np.full(3, sum(scale) / 2)

  def region(vad: np.ndarray) -> str:
    above = (vad - centre)[order] >= 0
    return names[''.join('+' if a else '-' for a in above)]

  return region
