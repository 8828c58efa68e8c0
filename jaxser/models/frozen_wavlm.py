"""A frozen WavLM: waveforms to the output of one of its layers.

`jaxser.models.hidden_states` stores that output for a corpus, and a system learns from
the store. `HiddenStates` computes the same of any recording, so that what was
learnt can be used.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_prep import features as features_lib
from jaxser.data import pipeline
from jaxser.models.convert import hf_wavlm
from jaxser.models.weights import ModelError
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import WavLMConfig

NAME = 'wavlm'


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """Waveforms to the output of one layer.

  Attributes:
    config: of the whole WavLM.
    params: its parameters.
    layer: whose output is taken, from 1. That of the last is normalised where
      the model ends with a norm (pre-LN), as Hugging Face's last_hidden_state.
    dtype: of the products.
  """

  config: WavLMConfig
  params: Any
  layer: int
  dtype: str = 'float32'

  @functools.cached_property
  def needed(self) -> Any:
    """The parameters without the layers above."""
    params = dict(self.params)
    encoder = dict(params['encoder'])
    layers = encoder['layers']
    encoder['layers'] = jax.tree.map(lambda x: x[: self.layer], layers)
    return {**params, 'encoder': encoder}

  def apply(
    self, needed: Any, samples: jax.Array, length: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Frames [batch, frames, hidden] and how many of each row are speech.

    Args:
      needed: the parameters, see there.
      samples: [batch, samples], normalised, zero padded.
      length: int [batch], how much of each row is speech.
    """
    model = WavLM(
      dataclasses.replace(self.config, num_hidden_layers=self.layer),
      dtype=jnp.dtype(self.dtype),
      final_norm=self.layer == self.config.num_hidden_layers,
    )
    frames, count, _ = model.apply({'params': needed}, samples, length)
    return frames, count

  @functools.cached_property
  def _run(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return functools.partial(jax.jit(self.apply), jax.device_put(self.needed))

  def __call__(
    self, samples: np.ndarray, length: np.ndarray
  ) -> list[np.ndarray]:
    """float32 [frames, hidden] of every row of samples [batch, samples]."""
    frames, count = jax.device_get(self._run(samples, length))
    return [row[:n] for row, n in zip(frames, count, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenStates(features_lib.Convention):
  """What a store of hidden states holds, `[frames, hidden]`, of any recording.

  Attributes:
    extractor: WavLM up to the layer.
    given: the parameters of the store: the mean and deviation that waveforms
      are normalised with, the type in which states are stored, and so on.
  """

  extractor: Extractor
  given: Mapping[str, Any]

  name: ClassVar[str] = NAME
  sample_rate: ClassVar[int] = features_lib.Wave16k.sample_rate

  @property
  def bins(self) -> int:
    """Width of the WavLM."""
    return self.extractor.config.hidden_size

  @property
  def waveform(self) -> features_lib.Wave16k:
    """The convention of what the WavLM hears."""
    return features_lib.Wave16k()

  @property
  def normalization(self) -> tuple[float, float]:
    """Mean and deviation that the WavLM's waveforms are normalised with."""
    return self.given['mean'], self.given['std']

  @property
  def frames_per_second(self) -> float:
    """Frames per second of audio."""
    return self.sample_rate / self.extractor.config.hop

  def parameters(self) -> dict[str, Any]:
    """All parameters by name, ready for JSON."""
    return dict(self.given)

  def shape(
    self, samples: int, sample_rate: int | None = None
  ) -> tuple[int, ...]:
    """Frames of the resampled waveform, and their width."""
    length = self._length(samples, sample_rate)
    return self.extractor.config.frames(length), self.bins

  def samples(self, frames: int) -> int:
    """The most samples at 16 kHz that give this many frames."""
    config = self.extractor.config
    return frames * config.hop + config.receptive_field - 1

  def apply(
    self, needed: Any, samples: jax.Array, length: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """As `Extractor.apply`, float32, rounded as the store is; 0 is padding."""
    frames, count = self.extractor.apply(needed, samples, length)
    storage = jnp.dtype(self.given['storage'])
    # Preparing refuses what the storage cannot hold; an answer needs a number.
    largest = float(jnp.finfo(storage).max)
    frames = jnp.clip(frames.astype(jnp.float32), -largest, largest)
    inside = jnp.arange(frames.shape[1])[None, :] < count[:, None]
    frames = frames.astype(storage).astype(jnp.float32)
    return jnp.where(inside[..., None], frames, 0), count

  def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Hidden states, float32 `[frames, hidden]`; compiled for every length."""
    wave = pipeline.normalized(
      self.waveform(waveform, sample_rate), self.normalization
    )
    length = np.array([len(wave)], np.int32)
    frames, _ = jax.jit(self.apply)(self.extractor.needed, wave[None], length)
    return np.asarray(frames[0])


def for_model(
  source: os.PathLike[str] | str,
  parameters: Mapping[str, Any],
  weights: os.PathLike[str] | str | None,
) -> HiddenStates:
  """The hidden states that a model was trained on, from their WavLM.

  Args:
    source: what to call the model in errors.
    parameters: those of the store it was trained on.
    weights: folder of the Hugging Face WavLM, None if it was not given.

  Raises:
    ConvertError: if the weights cannot be read.
    ModelError: if there are none, or others than those of the store.
  """
  about = (
    f'{source}: this model hears hidden states of a WavLM (layer '
    f'{parameters["layer"]} of {parameters["layers"]}, weights '
    f'{parameters["weights"]})'
  )
  remedy = (
    'give --weights=DIR, the folder of the WavLM that `python -m data_prep '
    '--features=wavlm` got'
  )
  if weights is None:
    raise ModelError(f'{about}: {remedy}.')
  folder = pathlib.Path(weights).expanduser()
  config = hf_wavlm.read_config(folder)
  found = hash_of(folder)
  if found != parameters['weights']:
    raise ModelError(f'{about}, and {folder} holds others ({found}): {remedy}.')
  extractor = Extractor(
    config, hf_wavlm.load(folder)[1], parameters['layer'], parameters['dtype']
  )
  return HiddenStates(extractor, parameters)


def hash_of(weights: pathlib.Path) -> str:
  """Sixteen hexadecimal digits of a checkpoint's config and tensors."""
  digest = hashlib.sha256()
  for name in ('config.json', 'model.safetensors', 'pytorch_model.bin'):
    path = weights / name
    if not path.is_file():
      continue
    with open(path, 'rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
    if name == 'model.safetensors':
      break  # It is the one that is read.
  return digest.hexdigest()[:16]
