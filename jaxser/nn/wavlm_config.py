"""Shape of a WavLM, read from the `config.json` of a Hugging Face checkpoint."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_new': functools.partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}
"""By their Hugging Face names."""


@dataclasses.dataclass(frozen=True)
class WavLMConfig:
  """Settings by their Hugging Face names; defaults as `microsoft/wavlm-base`."""

  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: str = 'gelu'
  hidden_dropout: float = 0.1
  activation_dropout: float = 0.1
  attention_dropout: float = 0.1
  feat_proj_dropout: float = 0.0
  layerdrop: float = 0.1
  initializer_range: float = 0.02
  layer_norm_eps: float = 1e-5
  feat_extract_norm: str = 'group'
  feat_extract_activation: str = 'gelu'
  conv_dim: tuple[int, ...] = (512,) * 7
  conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_bias: bool = False
  num_conv_pos_embeddings: int = 128
  num_conv_pos_embedding_groups: int = 16
  num_buckets: int = 320
  max_bucket_distance: int = 800
  do_stable_layer_norm: bool = False
  apply_spec_augment: bool = True
  mask_time_prob: float = 0.05
  mask_time_length: int = 10
  mask_time_min_masks: int = 2
  mask_feature_prob: float = 0.0
  mask_feature_length: int = 10
  mask_feature_min_masks: int = 0

  def __post_init__(self) -> None:
    """Raises ValueError naming the setting, its value and what is possible."""
    for name in ('conv_dim', 'conv_stride', 'conv_kernel'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    lengths = {len(self.conv_dim), len(self.conv_stride), len(self.conv_kernel)}
    rules = [
      (
        len(lengths) == 1 and len(self.conv_dim) > 0,
        f'conv_dim {self.conv_dim}, conv_stride {self.conv_stride} and'
        f' conv_kernel {self.conv_kernel} must have one entry per convolution',
      )
    ]
    for name in ('num_attention_heads', 'num_conv_pos_embedding_groups'):
      size, value = self.hidden_size, getattr(self, name)
      why = f'{name} {value} does not divide hidden_size {size}'
      rules.append((size % value == 0, why))
    for name, possible in (
      ('feat_extract_norm', ('group', 'layer')),
      ('hidden_act', tuple(ACTIVATIONS)),
      ('feat_extract_activation', tuple(ACTIVATIONS)),
    ):
      value = getattr(self, name)
      why = f'{name} is {value!r}; it must be one of {possible}'
      rules.append((value in possible, why))
    buckets, distance = self.num_buckets, self.max_bucket_distance
    why = f'num_buckets is {buckets}; it must be a multiple of 4'
    rules.append((buckets >= 4 and buckets % 4 == 0, why))
    why = f'max_bucket_distance {distance} must exceed num_buckets / 4 = '
    rules.append((distance > buckets // 4, f'{why}{buckets // 4}'))
    for holds, message in rules:
      if not holds:
        raise ValueError(message)

  @classmethod
  def from_dict(cls, settings: Mapping[str, Any]) -> 'WavLMConfig':
    """Reads the content of a `config.json`; heads of other tasks are ignored."""
    kind = settings.get('model_type', 'wavlm')
    if kind != 'wavlm':
      raise ValueError(f"model_type is {kind!r}; only 'wavlm' can be read")
    if settings.get('add_adapter', False):
      why = 'add_adapter is true; a WavLM with an adapter cannot be read'
      raise ValueError(why)
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{k: v for k, v in settings.items() if k in names})

  @classmethod
  def from_text(cls, text: str) -> 'WavLMConfig':
    """Reads a size of `SIZES`, or the JSON text of a `config.json`."""
    if text in SIZES:
      return SIZES[text]
    try:
      settings = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(
        f'WavLM {text[:80]!r} is neither one of {tuple(SIZES)} nor the text of'
        f' a config.json ({error})'
      ) from error
    if not isinstance(settings, dict):
      raise ValueError(f'WavLM settings are {text[:80]!r}, not a JSON object')
    return cls.from_dict(settings)

  def to_text(self) -> str:
    """JSON text that `from_text` reads back."""
    settings = {'model_type': 'wavlm', **dataclasses.asdict(self)}
    return json.dumps(settings, sort_keys=True)

  @property
  def receptive_field(self) -> int:
    """Samples that the first frame needs; 400 for every published WavLM."""
    field = 1
    layers = zip(self.conv_kernel, self.conv_stride, strict=True)
    for kernel, stride in reversed(list(layers)):
      field = (field - 1) * stride + kernel
    return field

  @property
  def hop(self) -> int:
    """Samples from one frame to the next; 320 for every published WavLM."""
    return int(np.prod(self.conv_stride))

  @property
  def has_mask_vector(self) -> bool:
    """Whether checkpoints hold the vector that stands for masked frames."""
    return self.mask_time_prob > 0 or self.mask_feature_prob > 0

  def frames(self, samples: Any, layers: int | None = None) -> Any:
    """Frames of so many samples, an integer or int32 array.

    `layers` stops after the first convolutions. Too few samples give 0.
    """
    xp = np if isinstance(samples, int | np.ndarray) else jnp
    count = samples
    steps = zip(self.conv_kernel, self.conv_stride, strict=True)
    for kernel, stride in itertools.islice(steps, layers):
      count = xp.where(count < kernel, 0, (count - kernel) // stride + 1)
    return int(count) if isinstance(samples, int) else count


SIZES = {
  'tiny': WavLMConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    feat_extract_norm='layer',
    conv_dim=(24,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_buckets=32,
    max_bucket_distance=80,
    do_stable_layer_norm=True,
  ),
  'base': WavLMConfig(),
  'base_plus': WavLMConfig(),
  'large': WavLMConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    activation_dropout=0.0,
    feat_proj_dropout=0.1,
    feat_extract_norm='layer',
    do_stable_layer_norm=True,
  ),
}
"""Sizes for random weights; `tiny` is for tests, the others as published."""
