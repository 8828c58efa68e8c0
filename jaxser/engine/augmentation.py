"""What `config.augment` does to training batches, drawn for each row.

Draws depend on the run's key (seed and fold), the step and the position of the
row in the global batch, as dropout's do: they are the same on any number of
devices, resident or streamed, resumed or not.
"""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxser.core.config import ConfigError
from jaxser.data.pipeline import PADDING, Source
from jaxser.ops import augment
from jaxser.systems.base import Array, Batch, System

PARTNER = 'partner'
_KEY = zlib.crc32(b'augment')
_FRAMES = ('time_masks', 'shift')
_LOG_MEL = (*_FRAMES, 'frequency_masks', 'gain_db', 'snr_db')
# What is defined besides mixup, which any features can have.
_DEFINED = {
  'librosa22k': _LOG_MEL,
  'kaldi16k': _LOG_MEL,
  'wave16k': ('gain_db', 'snr_db', 'shift', 'speed'),
  'wavlm': _FRAMES,
}
# One dB of power in log-mel features.
_UNITS = {'librosa22k': 1.0, 'kaldi16k': math.log(10) / 10}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Augments batches of one kind of features; the fields of config.augment.

  Attributes:
    percent: the speeds, in per cent.
    unit: as of `jaxser.ops.augment.gain`.
    task: of the system, which says what target is mixed.
  """

  time_masks: int
  time_width: int
  frequency_masks: int
  frequency_width: int
  gain_db: float
  snr_db: tuple[float, ...]
  shift: float
  percent: tuple[int, ...]
  mixup: float
  unit: float | None
  task: str

  def __call__(self, batch: Batch, rng: Array) -> dict[str, Array]:
    """Returns the augmented batch.

    With mixup, 'partner_*' of the batch is another utterance for each row. The
    share of the row itself is max(s, 1 - s) with s ~ Beta(mixup, mixup), so that
    it stays the larger part; 'vad' is mixed, or else 'partner_label' and 'share'
    are left for the loss. A row whose partner has no such target is not mixed.

    Args:
      batch: as in `jaxser.systems.base.System`.
      rng: key of the run and step.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.fold_in(rng, _KEY), batch['row']
    )
    x, length = jax.vmap(self._alone)(keys, batch['features'], batch['length'])
    batch = dict(batch)
    if self.mixup:
      other, other_length, label, vad, _ = (
        batch.pop(f'{PARTNER}_{part}') for part in PADDING
      )
      share = jax.vmap(self._share)(keys)
      if self.task == 'classification':
        known = label >= 0
      else:
        known = jnp.all(jnp.isfinite(batch['vad'] + vad), axis=-1)
      share = jnp.where(known, share, 1)
      x = jax.vmap(augment.mix)(x, length, other, other_length, share)
      if self.task == 'classification':
        batch |= {f'{PARTNER}_label': label, 'share': share}
      else:
        mixed = share[:, None] * batch['vad'] + (1 - share[:, None]) * vad
        batch['vad'] = jnp.where(known[:, None], mixed, batch['vad'])
    x = jax.vmap(self._masked)(keys, x, length)
    return {**batch, 'features': x, 'length': length}

  def _share(self, key: Array) -> Array:
    drawn = jax.random.beta(_key(key, 'mixup'), self.mixup, self.mixup)
    return jnp.maximum(drawn, 1 - drawn)

  def _alone(self, key: Array, x: Array, length: Array) -> tuple[Array, Array]:
    """Returns an utterance with another speed, position, level and noise."""
    if self.percent:
      percent = jax.random.choice(
        _key(key, 'speed'), jnp.array(self.percent, jnp.int32)
      )
      x, length = augment.change_speed(x, length, percent)
    if self.shift:
      part = jax.random.uniform(
        _key(key, 'shift'), (), jnp.float32, -self.shift, self.shift
      )
      by = jnp.round(part * length).astype(jnp.int32)
      x = augment.shift(x, length, by)
    if self.gain_db:
      decibels = jax.random.uniform(
        _key(key, 'gain'), (), jnp.float32, -self.gain_db, self.gain_db
      )
      x = augment.gain(x, length, decibels, self.unit)
    if self.snr_db:
      snr = jax.random.uniform(_key(key, 'snr'), (), jnp.float32, *self.snr_db)
      draw = jax.random.normal if self.unit is None else jax.random.exponential
      noise = draw(_key(key, 'noise'), x.shape)
      x = augment.add_noise(x, length, noise, snr, self.unit)
    return x, length

  def _masked(self, key: Array, x: Array, length: Array) -> Array:
    """Returns frames with masks."""
    if self.time_masks:
      drawn = _spans(
        _key(key, 'time'), self.time_masks, self.time_width, length
      )
      x = augment.time_mask(x, length, *drawn)
    if self.frequency_masks:
      drawn = _spans(
        _key(key, 'frequency'),
        self.frequency_masks,
        self.frequency_width,
        jnp.int32(x.shape[1]),
      )
      x = augment.frequency_mask(x, length, *drawn)
    return x


def _key(key: Array, name: str) -> Array:
  """Returns a row's key for one kind of draw, whatever else is on."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _spans(
  key: Array, count: int, width: int, size: Array
) -> tuple[Array, Array]:
  """Returns int32 [count] starts and widths of spans that lie within `size`.

  Widths are uniform on 0 .. min(width, size), starts on all that fit.
  """
  first, second = jax.random.uniform(key, (2, count))
  widths = jnp.floor(first * (jnp.minimum(width, size) + 1)).astype(jnp.int32)
  starts = jnp.floor(second * (size - widths + 1)).astype(jnp.int32)
  return starts, widths


def used(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the fields of config.augment that turn something on."""
  return [
    name
    for name, value in config.augment.items()
    if value and not name.endswith('_width')
  ]


def create(
  config: ml_collections.ConfigDict, system: System, source: Source
) -> Augmentation | None:
  """Returns the augmentation of a run, or None where all of it is off.

  Raises:
    ConfigError: for a value that is impossible, not defined for the features,
      or not for the system.
  """
  options = config.augment
  for name, holds, wanted in (
    *(
      (name, options[name] >= least, f'at least {least}')
      for name, least in (
        ('time_masks', 0),
        ('time_width', 1),
        ('frequency_masks', 0),
        ('frequency_width', 1),
        ('gain_db', 0),
        ('mixup', 0),
      )
    ),
    ('shift', 0 <= options.shift <= 1, 'from 0 to 1'),
    (
      'snr_db',
      not options.snr_db
      or (len(options.snr_db) == 2 and options.snr_db[0] <= options.snr_db[1]),
      'empty, or the lowest and the highest ratio, as (10,30)',
    ),
    (
      'speed',
      all(0.5 <= s <= 2 and round(s, 2) == s for s in options.speed),
      'empty, or factors from 0.5 to 2 with two decimals, as (0.9,1.0,1.1)',
    ),
  ):
    _require(holds, name, options[name], f'must be {wanted}')
  if not (names := used(config)):
    return None
  features = next(iter(source.corpus.stores.values()))['features']
  defined = (*_DEFINED.get(features, ()), 'mixup')
  for name in names:
    _require(
      name in defined,
      name,
      options[name],
      f'is not defined for the features {features}; they can have '
      f'{", ".join(defined)}',
    )
  kind = type(system).__name__
  _require(
    system.fit is None,
    names[0],
    options[names[0]],
    f'augments batches, and {kind} is fitted to whole utterances; leave it off',
  )
  _require(
    system.mixup or not options.mixup,
    'mixup',
    options.mixup,
    f'needs a loss that takes mixed targets, which that of {kind} with these '
    'settings does not; set it to 0',
  )
  percent = tuple(round(100 * speed) for speed in options.speed)
  if percent:
    shortest = int(np.min(source.lengths)) * 100 // max(percent)
    _require(
      shortest >= system.min_length,
      'speed',
      options.speed,
      f'leaves {shortest} samples of the shortest utterance, fewer than the '
      f'{system.min_length} that {kind} needs',
    )
  settings: dict[str, Any] = options.to_dict()
  del settings['speed']
  return Augmentation(
    **{**settings, 'snr_db': tuple(options.snr_db)},
    percent=percent,
    unit=_UNITS.get(features),
    task=system.task,
  )


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
  if not holds:
    raise ConfigError(f'--config.augment.{name}={value!r} {wanted}.')
