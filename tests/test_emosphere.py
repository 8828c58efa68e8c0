"""EmoSphere-SER: the contract of systems, the schedule, the order of names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxser.nn.wavlm_config import SIZES
from jaxser.ops.collectives import DATA
from jaxser.ops.concordance import concordance
from jaxser.ops.spherical import VAD
from jaxser.systems.base import Progress
from jaxser.systems.emosphere import EmoSphere
from tests.random_tree import assert_close, params_like, quick_jit

NOISY = EmoSphere(width=16, vad_range=(1.0, 5.0), stride=2)
# Without dropout: what most tests are about compiles three times as fast.
LIGHT = dataclasses.replace(NOISY, dropout=0.0, head_dropout=0.0)
_NO_DROPOUT = ('hidden_dropout', 'attention_dropout', 'activation_dropout')
WAVLM = dataclasses.replace(
  LIGHT,
  encoder='wavlm',
  wavlm=dataclasses.replace(
    SIZES['tiny'],
    conv_dim=(16, 16),
    conv_kernel=(20, 20),
    conv_stride=(16, 20),
    feat_extract_norm='group',
    num_hidden_layers=2,
    apply_spec_augment=False,
    layerdrop=0.0,
    **dict.fromkeys(_NO_DROPOUT, 0.0),
  ).to_text(),
)
LENGTHS = np.array([24, 24, 17, 9, 20, 24, 3, 12], np.int32)


def _batch(system=LIGHT, seed=0):
  rng = np.random.default_rng(seed)
  length = LENGTHS
  if system.encoder == 'wavlm':
    length = LENGTHS * 320 + 80
    features = rng.standard_normal((8, length.max()))
  else:
    features = 4 * rng.standard_normal((8, length.max(), 6)) - 20
  for row, n in enumerate(length):
    features[row, n:] = 0
  return {
    'features': features.astype(np.float32),
    'length': length,
    'label': rng.integers(0, 4, 8).astype(np.int32),
    'vad': rng.uniform(1, 5, (8, 3)).astype(np.float32),
    'mask': np.ones(8, np.float32),
    'row': np.arange(8, dtype=np.int32),
  }


@functools.cache
def _weights(system):
  params, state = params_like(system.init, jax.random.key(0), _batch(system))
  return params, {**state, **system.initial_state()}


def _progress(epoch):
  return Progress(jnp.int32(10 * epoch), jnp.int32(epoch))


def _loss(system, phase='regions'):
  """The loss in the second epoch of weights, state and a batch."""
  more = {'rng': jax.random.key(7), 'progress': _progress(1), 'phase': phase}
  return functools.partial(system.loss, **more)


def _step(system, phase='regions'):
  return jax.value_and_grad(_loss(system, phase), has_aux=True)


@functools.cache
def _compiled(system, phase='regions'):
  return quick_jit(_step(system, phase))


@functools.cache
def _whole(system, phase='regions'):
  return _compiled(system, phase)(*_weights(system), _batch(system))


def _padded(batch):
  """Twelve more frames or 4,000 samples, and two rows that must not count."""
  more = 4000 if batch['features'].ndim == 2 else 12
  wide = [(0, 2), (0, more)]
  wide += [(0, 0)] * (batch['features'].ndim - 2)
  padded = {
    name: np.pad(
      x, wide if name == 'features' else wide[:1] + [(0, 0)] * (x.ndim - 1)
    )
    for name, x in batch.items()
  }
  padded['features'][8:] = 3
  padded['length'][8:] = batch['length'][0]
  padded['vad'][8:] = np.nan
  padded['row'][8:] = (8, 9)
  return padded


def test_padding_changes_no_loss_statistic_or_gradient():
  got = _compiled(LIGHT)(*_weights(LIGHT), _padded(_batch()))
  assert_close(got, _whole(LIGHT))


@pytest.mark.parametrize('system', [LIGHT, WAVLM], ids=['logmel', 'wavlm'])
def test_padding_changes_no_answer(system):
  @quick_jit
  def run(params, state, batch):
    rng, progress = jax.random.key(0), _progress(1)
    loss, _ = system.loss(params, state, batch, rng, progress, phase='regions')
    return loss, system.predict(params, state, batch)

  batch, weights = _batch(system), _weights(system)
  (loss, wanted), (padded_loss, got) = (
    run(*weights, b) for b in (batch, _padded(batch))
  )
  np.testing.assert_allclose(padded_loss, loss, rtol=1e-4)
  for name, value in wanted.items():
    np.testing.assert_allclose(got[name][:8], value, rtol=1e-4, atol=1e-4)
    assert np.isfinite(got[name]).all()


@pytest.mark.slow
def test_eight_devices_are_one():
  (loss, aux), grads = _whole(NOISY)
  shard = {k: v.reshape(8, 1, *v.shape[1:]) for k, v in _batch().items()}
  step = jax.pmap(_step(NOISY), DATA, in_axes=(None, None, 0))
  (losses, auxes), shares = step(*_weights(NOISY), shard)
  found = losses, auxes['metrics'], shares
  total = jax.tree.map(lambda x: np.sum(x, 0), found)
  assert_close(total, (loss, aux['metrics'], grads))
  for device in (0, 7):
    got = jax.tree.map(lambda x: x[device], auxes['state'])
    assert_close(got, aux['state'], 1e-5)


def test_schedule_is_the_papers():
  epochs = range(8)
  decay = [1, 0.802, 0.604, 0.406, 0.208, 0, 0, 0]
  for setting, weights in (('decay', decay), ('constant', [1] * 8)):
    system = dataclasses.replace(LIGHT, region_weight=setting)
    got = [float(system.auxiliary_weight(jnp.int32(e))) for e in epochs]
    np.testing.assert_allclose(got, weights, rtol=1e-6)
  off = dataclasses.replace(LIGHT, region_weight='off')
  assert [LIGHT.phase(e) for e in epochs] == ['regions'] * 5 + ['main'] * 3
  assert {off.phase(e) for e in epochs} == {'main'}
  assert {system.phase(e) for e in epochs} == {'regions'}
  assert 'auxiliary_head' not in _weights(off)[0]


def test_the_main_loss_is_that_of_the_dimensions():
  (main, aux), grads = _whole(LIGHT, 'main')
  ccc = [aux['metrics'][f'ccc_{n}'] for n in VAD]
  np.testing.assert_allclose(main, 3 - sum(ccc), rtol=1e-5)
  assert 'regions_loss' not in aux['metrics']
  assert not any(map(np.any, jax.tree.leaves(grads['auxiliary_head'])))


def test_later_epochs_do_not_run_the_region_head():
  system = dataclasses.replace(LIGHT, regions=30, width=64)  # 72 regions.
  compiled = {}
  for phase in ('regions', 'main'):
    lowered = quick_jit(_step(system, phase)).lower(*_weights(system), _batch())
    compiled[phase] = lowered.compile()
  cost = {p: c.cost_analysis()['flops'] for p, c in compiled.items()}
  # Forward, and backward to the parameters and to what came in.
  head = 3 * 2 * 8 * (64 * 64 + 64 * 72)
  assert head < cost['regions'] - cost['main'] < 1.5 * head
  assert 'auxiliary_head/' in compiled['regions'].as_text()
  assert 'auxiliary_head/' not in compiled['main'].as_text()


def test_unknown_vad_does_not_count():
  batch = _batch()
  batch['vad'][5] = np.nan
  (loss, _), grads = _compiled(LIGHT)(*_weights(LIGHT), batch)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, grads)))
  assert abs(loss - _whole(LIGHT)[0][0]) > 1e-4


def test_categories_can_be_the_second_task():
  system = dataclasses.replace(LIGHT, auxiliary='categories', categories=4)
  batch = _batch()
  batch['label'][2] = -1
  value, aux = quick_jit(_loss(system))(*_weights(system), batch)
  assert np.isfinite(value)
  assert 0.5 < aux['metrics']['categories_loss'] < 4
  answers = jax.eval_shape(system.predict, *_weights(system), batch)
  assert answers['category_logits'].shape == (8, 4)


def test_prepare_counts_the_training_split_only():
  system = dataclasses.replace(LIGHT, weighted=True)
  vad = np.array(
    [[5, 5, 5], [5, 5, 5], [5, 5, 5], [1, 1, 1], [np.nan] * 3], np.float32
  )
  label = np.array([0, 0, 1, 1, 1])
  state = system.prepare(_weights(system)[1], vad, label)
  counted, wanted = state['split']['class_weights'], [1 / 6, *[0] * 5, 1 / 2, 0]
  np.testing.assert_allclose(counted, wanted, rtol=1e-6)
  moved = dataclasses.replace(system, centre_label=1)
  state = moved.prepare(_weights(moved)[1], vad, label)
  np.testing.assert_allclose(state['split']['centre'], [3, 3, 3])
  found = moved.region_of(state, jnp.array(vad[:4]))
  np.testing.assert_array_equal(found, [0, 0, 0, 6])
  with pytest.raises(ValueError, match='no training utterance with that label'):
    dataclasses.replace(system, centre_label=3).prepare(state, vad, label)
  with pytest.raises(ValueError, match="auxiliary task 'regions' is to learn"):
    system.prepare(state, vad[4:], label[4:])


@pytest.mark.parametrize(
  ('system', 'phase', 'part'),
  [
    (WAVLM, 'regions', 'encoder/feature_extractor'),
    (dataclasses.replace(WAVLM, freeze='encoder'), 'regions', 'encoder'),
    (LIGHT, 'main', 'auxiliary_head'),
  ],
)
def test_frozen_names_parameters(system, phase, part):
  params = _weights(system)[0]
  still = system.frozen(params, phase)
  assert jax.tree.structure(still) == jax.tree.structure(params)
  for path, rests in jax.tree_util.tree_leaves_with_path(still):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    assert rests == name.startswith(f'{part}/')
  assert LIGHT.frozen(params, 'regions') is None


def test_frozen_encoder_gets_no_gradient():
  system = dataclasses.replace(WAVLM, freeze='encoder', dtype='bfloat16')
  (loss, _), grads = quick_jit(_step(system))(*_weights(system), _batch(system))
  assert np.isfinite(loss)
  assert loss.dtype == jnp.float32
  assert not any(map(np.any, jax.tree.leaves(grads['encoder'])))
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads['pool'])) > 0


def test_it_learns_and_attentive_statistics_too():
  batch = _batch()
  for row, level in enumerate(batch['vad'][:, 1]):  # Arousal is the level.
    n = batch['length'][row]
    batch['features'][row, :n] += 6 * level
  batch['vad'][:] = batch['vad'][:, 1:2]
  system = dataclasses.replace(LIGHT, pooling='attentive_statistics')
  optimizer = optax.adam(3e-3)

  def train(carry, step):
    params, state, opt_state = carry
    (loss, aux), grads = jax.value_and_grad(system.loss, has_aux=True)(
      params,
      state,
      batch,
      jax.random.fold_in(jax.random.key(0), step),
      Progress(step, step // 20),
      phase='regions',
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return (params, aux['state'], opt_state), loss

  params, state = quick_jit(system.init)(jax.random.key(0), batch)
  carry, losses = quick_jit(functools.partial(jax.lax.scan, train))(
    (params, state, optimizer.init(params)), jnp.arange(80)
  )
  assert losses[-10:].mean() < 0.5 * losses[0]
  said = quick_jit(system.predict)(carry[0], carry[1], batch)['vad']
  assert (concordance(said, batch['vad']) > 0.9).all()
