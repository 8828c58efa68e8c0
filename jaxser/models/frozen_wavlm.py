"""A frozen WavLM: waveforms to the output of one of its layers."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from data_prep import features as features_lib
from jaxser.models.weights import ModelError
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import WavLMConfig


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenStates:
  """What a store of hidden states holds, `[frames, hidden]`, of any recording.

  Attributes:
    config, params: of the whole WavLM.
    given: the parameters of the store: `layer`, from 1, whose output is taken
      (that of the last is normalised where the model ends with a norm, as
      Hugging Face's last_hidden_state); `dtype` of matmuls; `mean` and `std` of
      waveforms; `storage`, the type of stored states.
  """

  config: WavLMConfig
  params: Any
  given: Mapping[str, Any]

  name: ClassVar[str] = 'wavlm'
  sample_rate: ClassVar[int] = features_lib.Wave16k.sample_rate
  waveform: ClassVar[features_lib.Wave16k] = features_lib.Wave16k()

  @property
  def bins(self) -> int:
    """Width of the WavLM."""
    return self.config.hidden_size

  @property
  def normalization(self) -> tuple[float, float]:
    """Mean and standard deviation of waveforms."""
    return self.given['mean'], self.given['std']

  def samples(self, frames: int) -> int:
    """Returns the most samples at 16 kHz that give this many frames."""
    return frames * self.config.hop + self.config.receptive_field - 1

  @functools.cached_property
  def needed(self) -> Any:
    """The parameters without the layers above."""
    encoder, layer = self.params['encoder'], self.given['layer']
    layers = jax.tree.map(lambda x: x[:layer], encoder['layers'])
    return {**self.params, 'encoder': {**encoder, 'layers': layers}}

  def states(
    self, needed: Any, samples: jax.Array, length: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns frames [batch, frames, hidden] and how many of each row count.

    Of normalised, zero padded samples [batch, samples], of which `length`, int
    [batch], are speech; `needed` is the property of that name.
    """
    layer = self.given['layer']
    model = WavLM(
      dataclasses.replace(self.config, num_hidden_layers=layer),
      dtype=jnp.dtype(self.given['dtype']),
      final_norm=layer == self.config.num_hidden_layers,
    )
    frames, count, _ = model.apply({'params': needed}, samples, length)
    return frames.astype(jnp.float32), count

  def apply(
    self, needed: Any, samples: jax.Array, length: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns what `states` does, rounded as the store is; padding is 0."""
    frames, count = self.states(needed, samples, length)
    storage = jnp.finfo(self.given['storage'])
    # Preparing refuses what the storage cannot hold; a prediction needs a number.
    frames = jnp.clip(frames, float(storage.min), float(storage.max))
    frames = frames.astype(storage.dtype).astype(jnp.float32)
    inside = jnp.arange(frames.shape[1])[None, :] < count[:, None]
    return jnp.where(inside[..., None], frames, 0), count


def for_model(
  source: pathlib.Path, parameters: Mapping[str, Any], weights: Any
) -> HiddenStates:
  """Returns the hidden states that a model was trained on, from their WavLM."""
  needs = (
    f'{source}: the features of this model are hidden states of a WavLM (layer '
    f'{parameters["layer"]} of {parameters["layers"]}, weights '
    f'{parameters["weights"]})'
  )
  remedy = (
    'give --weights=DIR, the folder of the WavLM that `python -m data_prep '
    '--features=wavlm` got.'
  )
  if weights is None:
    raise ModelError(f'{needs}: {remedy}')
  folder = pathlib.Path(weights).expanduser()
  hf_wavlm.read_config(folder)  # Its message is the better one.
  if (found := hash_of(folder)) != parameters['weights']:
    raise ModelError(f'{needs}, and {folder} holds others ({found}): {remedy}')
  return HiddenStates(*hf_wavlm.load(folder), parameters)


def hash_of(weights: pathlib.Path) -> str:
  """Returns 16 hexadecimal digits of a checkpoint's config and tensors."""
  digest = hashlib.sha256()
  tensors = weights / 'model.safetensors'  # It is the one that is read.
  if not tensors.is_file():
    tensors = weights / 'pytorch_model.bin'
  for path in filter(pathlib.Path.is_file, (weights / 'config.json', tensors)):
    with path.open('rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  return digest.hexdigest()[:16]
