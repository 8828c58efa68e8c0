"""Augmentation: each operation by hand, what is drawn, and where it applies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from jaxser.data import pipeline
from jaxser.engine import augmentation, stack
from jaxser.engine.sharding import ROWS, RUNS, Sharding
from jaxser.ops import augment
from jaxser.systems import base
from jaxser.systems.baseline import Baseline
from jaxser.systems.dsnet import DSNet
from jaxser.systems.emosphere import EmoSphere
from jaxser.systems.timnet import TimNet
from tests import fakes, toys

NATURAL = np.log(10) / 10
TOY, WAVLM = toys.Toy(), EmoSphere(encoder='wavlm')
CATEGORIES = EmoSphere(auxiliary='categories', categories=3)
CHANGE_SPEED = jax.jit(augment.change_speed)


def frames(length=7, time=9, bins=5):
  """Frames with padding."""
  x = np.random.default_rng(0).normal(-40, 9, (time, bins)).astype('f')
  x[length:] = 0
  return x


def wave(length=3000, size=4000, hertz=440.0):
  t = np.arange(size) / 16_000
  x = np.sin(2 * np.pi * hertz * t).astype(np.float32)
  x[length:] = 0
  return x


def close(found, expected, tolerance=1e-5):
  np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def valid(batch, new):
  """The valid part of each utterance, before and after."""
  features = zip(batch['features'], new['features'], strict=True)
  for (x, y), n in zip(features, new['length'], strict=True):
    if n:
      yield x[:n], y[:n]


@pytest.mark.parametrize('unit', [None, 1.0, NATURAL])
def test_noise_by_its_formula(unit):
  rng, share = np.random.default_rng(1), 1 / 10**1.5
  if unit is None:
    x, noise, length = wave(), rng.standard_normal(4000), 3000
    expected = x + np.sqrt(np.mean(x[:length] ** 2) * share) * noise
  else:
    x, noise, length = frames(), rng.exponential(size=(9, 5)), 7
    power = 10 ** (x.astype(float) / 10)
    expected = 10 * np.log10(power + power[:length].mean() * share * noise)
    x *= unit
  found = np.asarray(augment.add_noise(x, length, noise, 15.0, unit))
  close(found[:length] / (unit or 1), expected[:length])
  assert not found[length:].any()
  silent = augment.add_noise(0 * x, 0, noise, 15.0, unit)
  assert not np.asarray(silent).any()


@pytest.mark.parametrize('percent', [90, 100, 110, 150])
def test_another_speed_is_another_pitch_and_length(percent):
  found, length = CHANGE_SPEED(wave(), 3000, percent)
  assert length == np.ceil(3000 * 100 / percent)
  # Away from the ends, where the filter sees the edge of the waveform.
  inner = slice(50, int(length) - 50)
  expected = wave(4000, hertz=440 * percent / 100)
  close(found[inner], expected[inner], 1e-3)
  assert not np.asarray(found)[int(length) :].any()
  if percent == 100:
    close(found, wave(), 1e-6)
  # What is too high for a faster waveform is filtered.
  found, _ = CHANGE_SPEED(wave(4000, hertz=7500.0), 4000, 150)
  assert np.abs(found[100:-1500]).max() < 1e-2


def settings(**changes):
  config = common.base_config('timnet', dict(common.ARGUMENTS))
  config.augment.update(changes)
  return config


def corpus_of(features, **about):
  corpus = fakes.corpus(speakers=20, frames=40, vary=True, **about)
  info = {**corpus.stores['fake'], 'features': features}
  changes = {'stores': {'fake': info}}
  if features == 'wave16k':
    info.update(feature_bins=None, max_length=40 * 8, frames_per_second=800.0)
    changes['read'] = lambda row: corpus.read(row).reshape(-1) / 10
  return dataclasses.replace(corpus, **changes)


def make(features='librosa22k', system=TOY, corpus=None, **changes):
  """(augmentation, batch, augmented) of 120 rows, one of padding, with partners."""
  source = pipeline.Source(corpus or corpus_of(features, bins=8))
  made = augmentation.create(settings(**changes), system, source)
  rows = np.arange(120)
  rows[7] = pipeline.PADDING_ROW
  partners = pipeline.draw_partners(np.arange(120), (0, 0), 0)
  slot = pipeline.Slot(rows, source.max_length, {'partner': partners})
  batch = source.batch(slot)
  new = jax.device_get(jax.jit(made)(batch, jax.random.key(3)))
  lengths = new['length'].tolist()
  assert lengths[7] == 0
  for x, length in zip(new['features'], lengths, strict=True):
    assert not x[length:].any()
  return made, batch, new


@pytest.mark.parametrize('axis', [0, 1])
def test_drawn_masks(axis):
  name = ('time', 'frequency')[axis]
  _, batch, new = make(**{f'{name}_masks': 1, f'{name}_width': 3})
  widths, starts = [], []
  for x, y in valid(batch, new):
    changed = np.flatnonzero((x != y).any(axis=1 - axis))
    widths.append(len(changed))
    if len(changed):
      assert changed[-1] - changed[0] == len(changed) - 1
      starts.append(changed[0])
      close(np.moveaxis(y, axis, 0)[changed], x.mean(), 1e-4)
  # Every width up to the limit, and places at both ends.
  assert set(widths) == {0, 1, 2, 3}
  assert min(starts) == 0
  assert max(starts) >= (35, 7)[axis]
  _, batch, new = make(**{f'{name}_masks': 2, f'{name}_width': 1})
  changed = (batch['features'] != new['features']).any(axis=2 - axis)
  assert {1, 2} <= set(changed.sum(1).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
  ('features', 'unit'),
  [('librosa22k', 1.0), ('kaldi16k', NATURAL), ('wave16k', None)],
)
def test_drawn_gain(features, unit):
  _, batch, new = make(features, gain_db=6.0)
  drawn = []
  for x, y in valid(batch, new):
    change = (
      20 * np.log10(y[x != 0] / x[x != 0]) if unit is None else (y - x) / unit
    )
    close(change, change.flat[0], 1e-3 if unit is None else 1e-4)
    drawn.append(change.flat[0])
  assert -6 < min(drawn) < -5
  assert 5 < max(drawn) < 6


def test_drawn_noise():
  _, batch, new = make('wave16k', snr_db=(10.0, 20.0))
  pairs = list(valid(batch, new))
  powers = [np.mean(x**2) / np.mean((y - x) ** 2) for x, y in pairs]
  drawn = 10 * np.log10(powers)
  # An estimate from some hundred samples.
  assert 9 < min(drawn) < 11
  assert 19 < max(drawn) < 21
  _, batch, new = make(snr_db=(0.0, 0.0))
  power = [10 ** (x / 10) for x in next(valid(batch, new))]
  added = power[1] - power[0]
  assert added.min() >= -1e-3 * power[0].max()
  assert 0.7 < added.mean() / power[0].mean() < 1.4


@pytest.mark.parametrize('features', ['librosa22k', 'wave16k'])
def test_drawn_shifts(features):
  _, batch, new = make(features, shift=0.25)
  shares = []
  for x, y in valid(batch, new):
    limit = round(0.25 * len(x))
    places = range(-limit, limit + 1)
    rolled = [np.array_equal(np.roll(x, by, axis=0), y) for by in places]
    assert sum(rolled) == 1
    shares.append(places[rolled.index(True)] / len(x))
  assert min(shares) < -0.2
  assert max(shares) > 0.2


def test_drawn_speeds():
  _, batch, new = make('wave16k', speed=(0.9, 1.0, 1.1))
  size, seen = batch['features'].shape[1], set()
  for i, length in enumerate(batch['length']):
    fits = {p: min(-(-100 * int(length) // p), size) for p in (90, 100, 110)}
    fits = [p for p, value in fits.items() if value == new['length'][i]]
    assert fits
    if len(fits) == 1:
      seen.add(fits[0])
      expected, _ = CHANGE_SPEED(batch['features'][i], length, fits[0])
      close(new['features'][i], expected, 1e-4)
  assert seen == {90, 100, 110}


def check_mixture(batch, new, i, share, tolerance=1e-5):
  # A shorter partner is repeated.
  time = np.arange(batch['length'][i]) % batch['partner_length'][i]
  expected = share * batch['features'][i, : len(time)]
  expected += (1 - share) * batch['partner_features'][i, time]
  close(new['features'][i, : len(time)], expected, tolerance)


def test_mixtures_of_classes():
  made, batch, new = make(mixup=0.4)
  assert not {'partner_features', 'partner_length', 'partner_vad'} & new.keys()
  share = new['share']
  assert 0.5 <= share.min() < 0.6
  assert 0.99 < share.max() <= 1
  np.testing.assert_array_equal(new['partner_label'], batch['partner_label'])
  for name in ('label', 'vad', 'length'):
    np.testing.assert_array_equal(new[name], batch[name])
  for i in range(120):
    check_mixture(batch, new, i, share[i])
  # The expectation of max(s, 1 - s) for Beta(.4, .4), by hand: about .81.
  draws = np.random.default_rng(0).beta(0.4, 0.4, 10**5)
  assert abs(share.mean() - np.maximum(draws, 1 - draws).mean()) < 0.05
  unknown = {**batch, 'partner_label': np.full(120, -1, np.int32)}
  same = jax.jit(made)(unknown, jax.random.key(3))
  np.testing.assert_array_equal(same['share'], 1)
  np.testing.assert_array_equal(same['features'], batch['features'])


def test_mixtures_of_valence_arousal_dominance():
  corpus = corpus_of('kaldi16k', bins=8)
  corpus.table.vad[3] = np.nan
  regression = toys.Toy(task='regression')
  _, batch, new = make(system=regression, corpus=corpus, mixup=1.0)
  assert not {'share', 'partner_label', 'partner_vad'} & new.keys()
  assert EmoSphere().mixup
  assert EmoSphere(auxiliary='categories', region_weight='off').mixup
  assert np.isnan(new['vad'][3]).all()
  assert np.isfinite(np.delete(new['vad'], 3, axis=0)).all()
  with_partner = np.isfinite(batch['partner_vad']).all(1) & (batch['mask'] > 0)
  span, moved = (x - batch['vad'] for x in (batch['partner_vad'], new['vad']))
  part = np.sum(moved * span, 1) / np.maximum(np.sum(span**2, 1), 1e-9)
  rows = np.flatnonzero(with_partner & np.isfinite(part))
  assert -1e-5 <= part[rows].min() <= part[rows].max() <= 0.5 + 1e-5
  assert sum(part[rows] > 0.1) > 60
  for i in rows[span[rows].any(1)]:
    check_mixture(batch, new, i, 1 - part[i], 1e-3)
  # Whose partner has no VAD stays as it is.
  same = new['features'] == batch['features']
  assert same[~with_partner].all()


ALL = {'time_masks': 1, 'frequency_masks': 1, 'frequency_width': 3}
ALL |= {'gain_db': 3.0, 'snr_db': (10.0, 20.0), 'shift': 0.2, 'mixup': 0.5}


def test_draws_belong_to_the_row_and_to_one_option_each():
  made, batch, new = make(**ALL)
  part = {name: value[40:60] for name, value in batch.items()}
  # A vectorised exponential rounds its last bit by its place in the batch.
  made = jax.jit(made)
  close(made(part, jax.random.key(3))['features'], new['features'][40:60])
  other = made(part, jax.random.key(4))['features']
  assert np.abs(other - new['features'][40:60]).max() > 1
  again = make(mixup=0.5)[2]
  np.testing.assert_array_equal(again['share'], new['share'])


@pytest.mark.parametrize(
  ('changes', 'features', 'system', 'message'),
  [
    ({'time_masks': -1}, 'wavlm', TOY, r'time_masks=-1 must be at least 0'),
    ({'time_width': 0}, 'wavlm', TOY, r'time_width=0 must be at least 1'),
    ({'shift': 1.5}, 'wavlm', TOY, r'shift=1\.5 must be from 0 to 1'),
    ({'snr_db': (20, 10)}, 'wave16k', TOY, r'snr_db=\(20, 10\) must be empty'),
    ({'speed': (0.3,)}, 'wave16k', TOY, r'speed=\(0\.3,\) must be empty, or f'),
    ({'speed': (1.1,)}, 'kaldi16k', TOY, r'speed.*kaldi16k; they can have ti'),
    ({'gain_db': 3.0}, 'wavlm', TOY, r'gain_db=3\.0 is not defined for the f'),
    ({'snr_db': (5, 9)}, 'egemaps', TOY, r'snr_db.*they can have mixup\.'),
    ({'time_masks': 1}, 'wave16k', TOY, r'time_masks=1 is not defined'),
    ({'frequency_masks': 1}, 'wavlm', TOY, r'frequency_masks=1 is not defined'),
    ({'mixup': 0.2}, 'compare', Baseline(num_classes=3), 'Baseline is fitted'),
    ({'mixup': 0.2}, 'kaldi16k', DSNet(3), 'targets, which that of DSNet'),
    (
      {'mixup': 0.2},
      'kaldi16k',
      CATEGORIES,
      r'mixup=0\.2 needs a loss that takes mixed targets, which that of EmoSp',
    ),
    (
      {'speed': (1.0, 1.1)},
      'wave16k',
      WAVLM,
      'leaves 145 samples of the shortest utterance, fewer than the 400 that',
    ),
  ],
)
def test_what_cannot_be_is_refused(changes, features, system, message):
  source = pipeline.Source(corpus_of(features, bins=8))
  with pytest.raises(augmentation.ConfigError, match=message):
    augmentation.create(settings(**changes), system, source)


@pytest.mark.parametrize(
  'system',
  [
    TimNet(num_classes=3, num_blocks=1, dropout=0.0),
    DSNet(3, variant='encoder', channels=(4,), max_frames=8, bins=128),
    toys.Toy(),
  ],
)
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(system):
  assert system.mixup
  source = pipeline.Source(fakes.corpus(frames=8))
  batch = source.batch(pipeline.Slot(np.arange(12), 8))
  params, state = system.init(jax.random.key(0), batch)
  state = system.prepare(state, batch['vad'], batch['label'])
  partner = (batch['label'] + 1) % 3

  @jax.jit
  def loss(**changes):
    given = params, state, {**batch, **changes}, jax.random.key(1)
    return system.loss(*given, base.Progress(jnp.int32(0), jnp.int32(0)))[0]

  share = np.full(12, 0.8, np.float32)
  found = loss(partner_label=partner, share=share)
  expected = 0.8 * loss() + 0.2 * loss(label=partner)
  close(found, expected)
  assert abs(found - loss()) > 1e-3
  # By the share of each row, not by their mean.
  share[:6], share[6:] = 1, 0
  labels = np.where(share > 0, batch['label'], partner)
  close(loss(partner_label=partner, share=share), loss(label=labels))


def test_partners_are_of_the_training_split_and_belong_to_the_row():
  corpus = fakes.corpus(speakers=5, repeats=3)
  experiment = toys.experiment_of(settings(mixup=0.2), TOY, corpus)
  rows = np.arange(5, 40)
  fold = type('Fold', (), {'number': 2, 'train': rows})

  def pairs(epoch, batch_size, seed=0):
    experiment.config.batch_size = batch_size
    slots = experiment.sampler(seed, fold, batch_size).epoch(epoch)
    rows = np.concatenate([slot.rows for slot in slots])
    partners = np.concatenate([slot.references['partner'] for slot in slots])
    found = dict(zip(rows.tolist(), partners.tolist(), strict=True))
    found.pop(pipeline.PADDING_ROW, None)
    return found

  first = pairs(0, 8)
  assert first.keys() == set(rows.tolist())
  assert set(first.values()) <= set(rows.tolist())
  assert len(set(first.values())) > 15
  assert pairs(0, 16) == first
  assert first != pairs(1, 8)
  assert first != pairs(0, 8, seed=1)


def test_prediction_is_not_augmented():
  source = pipeline.Source(fakes.corpus(bins=8))
  made = augmentation.create(settings(**ALL), TOY, source)
  batch = source.batch(pipeline.Slot(np.arange(8), 12))
  weights = TOY.init(jax.random.key(0), batch)
  sharding = Sharding(devices=jax.devices()[:1])
  batch = sharding.put(jax.tree.map(lambda x: x[None], batch), ROWS)
  weights = sharding.put(stack.stacked([weights], 1), RUNS)
  programs = [
    stack.Programs(TOY, None, sharding, augment=one) for one in (None, made)
  ]
  found = [one.predict()(weights, {}, batch) for one in programs]
  np.testing.assert_array_equal(*found)
