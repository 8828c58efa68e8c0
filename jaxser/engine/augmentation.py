"""What `config.augment` does to training batches, drawn for each row.

Draws depend on the run's key, the step and the position of the row in the
global batch, as dropout's do: they are the same on any number of devices.
"""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxser.core.config import Config, ConfigError
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
_LEAST = {
  **{'time_masks': 0, 'time_width': 1, 'frequency_masks': 0},
  **{'frequency_width': 1, 'gain_db': 0, 'mixup': 0},
}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Augments batches of one kind of features; the fields of config.augment."""

  time_masks: int
  time_width: int
  frequency_masks: int
  frequency_width: int
  gain_db: float
  snr_db: tuple[float, ...]
  shift: float
  percent: tuple[int, ...]  # The speeds, in per cent.
  mixup: float
  unit: float | None  # As of `jaxser.ops.augment.gain`.
  task: str  # Of the system, which says what target is mixed.

  def __call__(self, batch: Batch, rng: Array) -> dict[str, Array]:
    """Returns the augmented batch; `rng` is the key of the run and step.

    With mixup, 'partner_*' of the batch is another utterance for each row. The
    share of the row itself is max(s, 1 - s) with s ~ Beta(mixup, mixup), so
    that it stays the larger part; 'vad' is mixed, or else 'partner_label' and
    'share' are left for the loss. A row whose partner has no such target is not
    mixed.
    """
    rng = jax.random.fold_in(rng, _KEY)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch['row'])
    x, length = jax.vmap(self._alone)(keys, batch['features'], batch['length'])
    batch = dict(batch)
    if self.mixup:
      parts = (batch.pop(f'{PARTNER}_{part}') for part in PADDING)
      other, other_length, label, vad, _ = parts
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

    def uniform(name, low, high):
      return jax.random.uniform(_key(key, name), (), jnp.float32, low, high)

    if self.percent:
      percents = jnp.array(self.percent, jnp.int32)
      percent = jax.random.choice(_key(key, 'speed'), percents)
      x, length = augment.change_speed(x, length, percent)
    if self.shift:
      part = uniform('shift', -self.shift, self.shift)
      x = augment.shift(x, length, jnp.round(part * length).astype(jnp.int32))
    if self.gain_db:
      decibels = uniform('gain', -self.gain_db, self.gain_db)
      x = augment.gain(x, length, decibels, self.unit)
    if self.snr_db:
      draw = jax.random.normal if self.unit is None else jax.random.exponential
      noise = draw(_key(key, 'noise'), x.shape)
      snr = uniform('snr', *self.snr_db)
      x = augment.add_noise(x, length, noise, snr, self.unit)
    return x, length

  def _masked(self, key: Array, x: Array, length: Array) -> Array:
    if self.time_masks:
      own = _key(key, 'time')
      drawn = _spans(own, self.time_masks, self.time_width, length)
      x = augment.time_mask(x, length, *drawn)
    if self.frequency_masks:
      own, bins = _key(key, 'frequency'), jnp.int32(x.shape[1])
      drawn = _spans(own, self.frequency_masks, self.frequency_width, bins)
      x = augment.frequency_mask(x, length, *drawn)
    return x


def _key(key: Array, name: str) -> Array:
  """Returns a row's key for one kind of draw, whatever else is on."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _spans(key: Array, count: int, width: int, size) -> tuple[Array, Array]:
  """Returns int32 [count] starts and widths, uniform on what lies in `size`."""
  first, second = jax.random.uniform(key, (2, count))
  widths = jnp.floor(first * (jnp.minimum(width, size) + 1)).astype(jnp.int32)
  starts = jnp.floor(second * (size - widths + 1)).astype(jnp.int32)
  return starts, widths


def used(config: Config) -> list[str]:
  """Returns the fields of config.augment that turn something on."""
  fields = config.augment.items()
  return [name for name, x in fields if x and not name.endswith('_width')]


def create(
  config: Config, system: System, source: Source
) -> Augmentation | None:
  """Returns the augmentation of a run, or None where all of it is off."""
  options, names = config.augment, used(config)

  def require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
      value = options[name]
      raise ConfigError(f'--config.augment.{name}={value!r} {wanted}.')

  for name, least in _LEAST.items():
    require(options[name] >= least, name, f'must be at least {least}')
  require(0 <= options.shift <= 1, 'shift', 'must be from 0 to 1')
  snr_db = tuple(options.snr_db)
  require(
    not snr_db or (len(snr_db) == 2 and snr_db[0] <= snr_db[1]),
    'snr_db',
    'must be empty, or the lowest and the highest ratio, as (10,30)',
  )
  require(
    all(0.5 <= s <= 2 and round(s, 2) == s for s in options.speed),
    'speed',
    'must be empty, or factors from 0.5 to 2 with two decimals, as (0.9,1.0,1.1)',
  )
  if not names:
    return None
  features = next(iter(source.corpus.stores.values()))['features']
  defined = (*_DEFINED.get(features, ()), 'mixup')
  kind = type(system).__name__
  for name in names:
    require(
      name in defined,
      name,
      f'is not defined for the features {features}; they can have '
      f'{", ".join(defined)}',
    )
  require(
    system.fit is None,
    names[0],
    f'augments batches, and {kind} is fitted to whole utterances; leave it off',
  )
  require(
    system.mixup or not options.mixup,
    'mixup',
    f'needs a loss that takes mixed targets, which that of {kind} with these '
    'settings does not; set it to 0',
  )
  percent = tuple(round(100 * speed) for speed in options.speed)
  if percent:
    shortest = int(np.min(source.lengths)) * 100 // max(percent)
    require(
      shortest >= system.min_length,
      'speed',
      f'leaves {shortest} samples of the shortest utterance, fewer than the '
      f'{system.min_length} that {kind} needs',
    )
  settings = {**options.to_dict(), 'snr_db': snr_db, 'percent': percent}
  del settings['speed']
  return Augmentation(**settings, unit=_UNITS.get(features), task=system.task)
