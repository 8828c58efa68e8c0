"""DSNet and its baselines: options, losses, updates, padding, devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dsnet as recipe
from jaxser.data import protocols
from jaxser.engine import step as step_lib
from jaxser.engine import train
from jaxser.ops.collectives import DATA
from jaxser.systems.base import Progress
from jaxser.systems.dsnet import DSNet, front_end
from jaxser.systems.dsnet_network import (
  Classifier,
  Encoder,
  Projection,
  TwoLayers,
)
from tests import fakes
from tests.random_tree import assert_close, params_like

SIZE = {'channels': (4, 6), 'embedding': 8, 'max_frames': 12, 'bins': 8}
SMALL = DSNet(num_classes=3, **SIZE)
RNG = jax.random.key(0)
START = Progress(jnp.int32(0), jnp.int32(0))
# Padding; both rows of the fourth of eight devices.
EMPTY_ROWS = np.array([2, 6, 7, 13])
KEPT = np.setdiff1d(np.arange(16), EMPTY_ROWS)


def make_variant(variant, **settings):
  """A small system without dropout."""
  dropout = {'encoder_dropout': 0.0, 'classifier_dropout': 0.0}
  settings = {'num_speakers': 4, **dropout, **SIZE, **settings}
  return DSNet(num_classes=3, variant=variant, **settings)


def padded_batch(references=('neutral',)):
  """16 utterances of 4 speakers and 3 classes, EMPTY_ROWS among them."""
  rng, batch = np.random.default_rng(0), {}
  for prefix in ('', *(f'{name}_' for name in references)):
    batch[f'{prefix}features'] = rng.normal(5, 3, (16, 14, 8))
    batch[f'{prefix}length'] = rng.integers(3, 15, 16)
    batch[f'{prefix}speaker'] = rng.integers(0, 4, 16)
  batch |= {'label': rng.integers(0, 3, 16), 'row': np.arange(16)}
  batch['mask'] = 1.0 * ~np.isin(np.arange(16), EMPTY_ROWS)
  return {
    name: x.astype(np.float32 if x.dtype == np.float64 else np.int32)
    for name, x in batch.items()
  }


BATCH = padded_batch()


@functools.cache
def make_variables(system):
  """Random parameters and positive statistics."""
  batch = padded_batch(system.references)
  params, state = params_like(system.init, RNG, batch)
  return params, jax.tree.map(np.abs, state)


@functools.cache
def compiled(system, phase='main'):
  """The loss and its gradients of (params, state, batch, rng, progress)."""
  loss = functools.partial(system.loss, phase=phase)
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def in_training(system):
  """What the network of a system returns, and its new statistics."""
  apply = functools.partial(system.apply, train=True, mutable=['batch_stats'])
  return jax.jit(apply)


def test_initialisation_is_xavier_and_pytorchs():
  params, state = SMALL.init(RNG, BATCH)
  encoder, classifier = params['encoder'], params['classifier']
  for values, bound in (
    (encoder['stage2']['conv'], np.sqrt(6 / (25 * 4 + 25 * 6))),
    (encoder['attention']['att']['kernel'], np.sqrt(6 / (6 + 8))),
    (classifier['fc1']['kernel'], 8**-0.5),
    (params['decoder']['linear1']['kernel'], 16**-0.5),
    (params['decoder']['linear1']['bias'], 16**-0.5),
  ):
    assert np.max(np.abs(values)) <= bound
    np.testing.assert_allclose(np.std(values), bound / np.sqrt(3), rtol=0.3)
  norm = state['batch_stats']['encoder']['bn0']
  for values, constant in (
    (encoder['attention']['cla']['bias'], 0),
    (classifier['prelu'], 0.25),
    (norm['mean'], 0),
    (norm['var'], 1),
  ):
    assert np.all(values == constant)


def test_alpha_the_gate_precision_and_bfloat16_are_options():
  params, state = make_variables(SMALL)

  def outputs(**settings):
    system = dataclasses.replace(SMALL, **settings)
    program = jax.jit(system.predict).lower(params, state, BATCH)
    return program.as_text(), program.compile()(params, state, BATCH)

  text, out = outputs(alpha=0.5)
  np.testing.assert_allclose(
    out['embedding'], 0.5 * out['irrelevant'] + out['relevant'], rtol=1e-6
  )
  # The attention and the linear layers always have the highest.
  highest = outputs(precision='highest')[0]
  assert highest.count('HIGHEST') > text.count('HIGHEST')
  half = outputs(compute_dtype='bfloat16')[1]['encoding']
  assert half.dtype == jnp.float32
  assert np.any(half != out['encoding'])
  np.testing.assert_allclose(half, out['encoding'], atol=0.02)
  wide = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  found = jax.eval_shape(compiled(wide), params, state, BATCH, RNG, START)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype('float32')}

  # relu(fc(sigmoid(gate2(relu(gate1(x)))) x + x)), twice.
  x = want = np.linspace(-1, 1, 8, dtype=np.float32)[None]
  for layer in params['relevant'].values():

    def apply(name, x, layer=layer):
      return x @ layer[name]['kernel'] + layer[name]['bias']

    gate = jax.nn.sigmoid(apply('gate2', np.maximum(apply('gate1', want), 0)))
    want = np.maximum(apply('fc', np.asarray(gate) * want + want), 0)
  got = Projection(8, gated=True).apply({'params': params['relevant']}, x)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_losses_are_weighted():
  weights = {'task': 0.5, 'calibration': 2, 'orthogonality': 3}
  named = {f'{name}_weight': weight for name, weight in weights.items()}
  system, (params, state) = (
    make_variant('dsnet', **named),
    make_variables(SMALL),
  )
  (total, aux), _ = compiled(system)(params, state, BATCH, RNG, START)
  metrics, weights = aux['metrics'], {**weights, 'reconstruction': 1}
  wanted = sum(metrics[name] * weight for name, weight in weights.items())
  np.testing.assert_allclose((total, metrics['loss']), wanted, rtol=1e-5)
  out, _ = in_training(system)({'params': params, **state}, BATCH)
  right = out['logits'].argmax(-1) == BATCH['label']
  np.testing.assert_allclose(metrics['accuracy'], right[KEPT].mean(), 1e-5)


def test_padding_rows_and_frames_change_nothing():
  dirty = jax.tree.map(np.copy, BATCH)
  rng = np.random.default_rng(5)
  for prefix in ('', 'neutral_'):
    features = dirty[f'{prefix}features']
    features[EMPTY_ROWS] = rng.normal(0, 100, (4, *features.shape[1:]))
    for row, valid in enumerate(dirty[f'{prefix}length']):
      features[row, valid:] = -777
    dirty[f'{prefix}length'][EMPTY_ROWS] = 0
  for name in ('label', 'speaker'):
    dirty[name][EMPTY_ROWS] = -1
  alone = jax.tree.map(lambda x: x[KEPT], BATCH)
  wanted, clean, found, other = (
    compiled(SMALL)(*make_variables(SMALL), batch, jax.random.key(seed), START)
    for batch, seed in ((alone, 0), (BATCH, 0), (dirty, 0), (alone, 1))
  )
  assert_close(found, clean, 1e-6)
  assert_close(found, wanted, 1e-5)
  # Dropout is on.
  assert abs(other[0][0] - wanted[0][0]) > 1e-3


@pytest.mark.slow
def test_eight_devices_equal_one():
  step, variables = compiled(SMALL), make_variables(SMALL)
  (_, aux), grads = step(*variables, BATCH, RNG, START)
  split = {n: x.reshape(8, 2, *x.shape[1:]) for n, x in BATCH.items()}
  axes = (None, None, 0, None, None)
  (loss, pmap_aux), shares = jax.pmap(step, DATA, in_axes=axes)(
    *variables, split, RNG, START
  )
  np.testing.assert_allclose(np.sum(loss), aux['metrics']['loss'], rtol=1e-5)
  summed = jax.tree.map(lambda x: x.sum(axis=0), (pmap_aux['metrics'], shares))
  assert_close(summed, (aux['metrics'], grads))
  for device in (0, 7):
    found = jax.tree.map(lambda x, d=device: x[d], pmap_aux['state'])
    assert_close(found, aux['state'])


def test_every_setting_is_a_field_of_the_recipe():
  config = recipe.get_config('corpus=emodb')
  published = DSNet(num_classes=7)
  # The corpus says these.
  counted = {'num_classes', 'num_speakers', 'bins'}
  assert published.settings().keys() - set(config.model) == counted
  for name, value in dict(config.model).items():
    assert getattr(published, name) == value, name
  assert (config.data.neutral_references, config.data.max_length) == (3, 600)
  config.model.max_frames = 300
  assert config.data.max_length == 300


# The losses of the baselines, written once more from the parts.


def part_in_training(module, part, stats, x, batch):
  """What a part returns, and its new statistics."""
  (out, _), new = module.apply(
    {'params': part, 'batch_stats': stats},
    x,
    mask=batch['mask'],
    train=True,
    mutable=['batch_stats'],
  )
  return out, new['batch_stats']


def encode(part, stats, batch, prefix=''):
  """Embeddings [batch, 8] and new statistics."""
  features, length = batch[f'{prefix}features'], batch[f'{prefix}length']
  images = front_end(features, length, 12)
  return part_in_training(Encoder((4, 6), 8, 0.0), part, stats, images, batch)


def entropy(logits, label):
  log_p = jax.nn.log_softmax(logits)[KEPT]
  return -jnp.mean(log_p[jnp.arange(len(KEPT)), label[KEPT]])


@pytest.mark.parametrize(
  ('variant', 'speakers', 'phase', 'strength'),
  [
    ('dat', 'train', 'main', 1.0),
    ('dat', 'all', 'main', 1.0),
    ('menan', 'train', 'emotions', 0.5),
  ],
)
def test_the_encoder_gets_the_speakers_gradient_reversed(
  variant, speakers, phase, strength
):
  system = make_variant(variant, dat_speakers=speakers)
  batch = padded_batch(system.references)
  params, state = make_variables(system)
  if variant == 'menan':
    state = {**state, 'speakers': {'known': np.array([1, 1, 1, 0.0])}}

  def speaker_loss(params):
    losses, stats = [], state['batch_stats']['encoder']
    for prefix in ('', *(f'{name}_' for name in system.references)):
      x, _ = encode(params['encoder'], stats, batch, prefix)
      logits = TwoLayers(8, 4).apply({'params': params['adversary']}, x)
      if variant == 'menan':  # Speaker 3 is not in the training split.
        losses.append(-jnp.mean(jax.nn.log_softmax(logits)[KEPT, :3]))
      else:
        losses.append(entropy(logits, batch[f'{prefix}speaker']))
    return sum(losses) / len(losses)

  error, opposed = jax.jit(jax.value_and_grad(speaker_loss))(params)
  run = compiled(system, phase)
  (total, aux), grads = run(params, state, batch, RNG, START)
  plain = {name: params[name] for name in ('encoder', 'classifier')}
  task_alone = compiled(make_variant('encoder'))
  (task, _), wanted = task_alone(plain, state, batch, RNG, START)
  name = {'dat': 'adversary', 'menan': 'confusion'}[variant]
  found = total, aux['metrics']['task'], aux['metrics'][name]
  np.testing.assert_allclose(found, (task + error, task, error), rtol=1e-5)
  assert max(np.abs(g).max() for g in jax.tree.leaves(opposed)) > 1e-3
  wanted['encoder'] = jax.tree.map(
    lambda g, r: g - strength * r, wanted['encoder'], opposed['encoder']
  )
  wanted['adversary'] = opposed['adversary']
  assert_close(grads, wanted, 1e-3)


def start(system, config):
  """(step, state) of a run with random weights."""
  optimizer = step_lib.make_optimizer(config, system)
  params, state = make_variables(system)
  words = jax.random.key_data(RNG)
  run = step_lib.TrainState(
    np.int32(0), params, state, optimizer.init(params), words, np.float32(1)
  )
  take = functools.partial(step_lib.train_step, system, optimizer)
  return jax.jit(take, static_argnames='phase'), run


def changed(old, new):
  """Names of the parts in which two trees differ."""
  differs = jax.tree.map(lambda a, b: np.any(a != b), old, new)
  return {name for name in differs if any(jax.tree.leaves(differs[name]))}


@pytest.mark.slow
def test_isnet_makes_four_updates_of_its_parts_in_turn():
  system, config = make_variant('isnet'), recipe.get_config('variant=isnet')
  batch = padded_batch(system.references)
  # A usual one lets entries whose gradient is rounding alone move at random.
  config.optimizer.eps = 1e-3
  step, run = start(system, config)
  params, state, adam = run.params, run.model_state, optax.adam(1e-3, eps=1e-3)
  apply = in_training(system)
  updates = {
    'task': ('encoder', 'classifier'),
    'neutral': ('neutral_encoder',),
    'translation': ('translator',),
    'standardized': ('standardized_classifier',),
  }
  optimizers = {
    update: adam.init({name: params[name] for name in names})
    for update, names in updates.items()
  }

  def distance(a, b):
    return jnp.mean(jnp.abs(a - b)[KEPT])

  for _ in range(3):
    run, metrics = step(run, batch, np.int32(0), phase='main')
    for update, names in updates.items():
      out, _ = apply({'params': params, **state}, batch)
      a, b, c = (out[name] for name in system.references)
      wanted = {
        'task': entropy(out['task_logits'], batch['label']),
        'neutral': distance(a, b) + distance(a, c) + distance(b, c),
        'translation': distance(out['benchmark'], (a + b + c) / 3),
        'standardized': entropy(out['logits'], batch['label']),
      }[update]
      (loss, aux), grads = compiled(system, update)(
        params, state, batch, RNG, START
      )
      found = loss, metrics[update]
      np.testing.assert_allclose(found, (wanted, wanted), rtol=2e-4)
      moved = changed(state['batch_stats'], aux['state']['batch_stats'])
      assert moved == {*names} - {'translator'}
      part, grads = ({n: tree[n] for n in names} for tree in (params, grads))
      change, optimizers[update] = adam.update(grads, optimizers[update])
      params = {**params, **optax.apply_updates(part, change)}
      state = aux['state']
  assert_close((run.params, run.model_state), (params, state), 2e-4)
  assert run.step == 3
  out = system.predict(run.params, run.model_state, batch)
  wanted = out['encoding'] - out['benchmark']
  np.testing.assert_allclose(out['embedding'], wanted, rtol=1e-6)


def test_menan_trains_the_speaker_classifier_and_the_rest_by_turns():
  system, config = make_variant('menan'), recipe.get_config('variant=menan')
  batch = padded_batch()
  batch['speaker'][KEPT] %= 3
  batch['speaker'][EMPTY_ROWS] = -1
  step, run = start(system, config)
  nobody = {'speakers': {'known': np.zeros(4, np.float32)}}
  run = run.replace(model_state={**run.model_state, **nobody})
  parts = {'speakers': {'adversary'}, 'emotions': {'encoder', 'classifier'}}
  for epoch, phase in enumerate(parts):
    assert system.phase(epoch) == system.phase(epoch + 2) == phase
    new, metrics = step(run, batch, np.int32(epoch), phase=phase)
    stats = (run.model_state['batch_stats'], new.model_state['batch_stats'])
    assert changed(run.params, new.params) == parts[phase]
    assert changed(*stats) == parts[phase] - {'adversary'}
    known = new.model_state['speakers']['known']
    np.testing.assert_array_equal(known, [1, 1, 1, 0])
    assert ('adversary' in metrics) == (epoch == 0)
    run = new
  # Moments and counts rest, too, while others are trained.
  paths = jax.tree_util.tree_leaves_with_path(run.opt_state)
  named = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
  of_phases = [n for n in named if any(f"'{phase}'" in n for phase in parts)]
  assert [int(named[n]) for n in of_phases if 'count' in n] == [1, 1]


def test_dsc_classifies_both_embeddings_together():
  system, batch = make_variant('dsc'), BATCH
  params, state = make_variables(system)
  out = system.predict(params, state, batch)
  swapped = {n: batch[f'neutral_{n}'] for n in ('features', 'length')}
  neutral = system.predict(params, state, batch | swapped)['encoding']
  both = np.concatenate([out['encoding'], neutral], -1)
  np.testing.assert_allclose(out['embedding'], both, rtol=1e-6)
  (total, aux), _ = compiled(system)(params, state, batch, RNG, START)
  stats = state['batch_stats']
  first, moved = encode(params['encoder'], stats['encoder'], batch)
  second, moved = encode(params['encoder'], moved, batch, 'neutral_')
  both = jnp.concatenate([first, second], -1)
  part, module = params['classifier'], Classifier(3, 8, 0.0)
  logits, _ = part_in_training(module, part, stats['classifier'], both, batch)
  np.testing.assert_allclose(total, entropy(logits, batch['label']), rtol=1e-5)
  assert_close(aux['state']['batch_stats']['encoder'], moved)
  with pytest.raises(ValueError, match=r"variant 'dsc' classifies .* beside"):
    system.check_recording()


def test_what_stands_beside_the_training_rows():
  corpus = fakes.corpus(classes=4, repeats=4, frames=8, bins=80)
  table = corpus.table
  fold, *_ = protocols.make_folds(corpus, 'speaker_independent')

  def experiment_of(argument):
    config = recipe.get_config(argument)
    config.model.update(channels=(2,), embedding=4, max_frames=8)
    return train.make_experiment(config, corpus)

  experiment = experiment_of('variant=isnet')
  drawn = experiment.references(fold)(12, 0)
  neutral = np.stack([drawn[f'neutral{i}'] for i in (1, 2, 3)], -1)
  for row, three in zip(fold.train, neutral, strict=True):
    own = (table.speakers == table.speakers[row]) & (table.labels == 3)
    np.testing.assert_array_equal(three, np.flatnonzero(own)[:3])

  experiment = experiment_of('variant=dat,dat_speakers=all')
  drawn = experiment.references(fold)
  for split in ('dev', 'test'):
    rows = drawn(12, 0)[split]
    counts = np.unique_counts(rows)
    np.testing.assert_array_equal(counts.values, getattr(fold, split))
    assert np.ptp(counts.counts) <= 1
    np.testing.assert_array_equal(rows, drawn(12, 0)[split])
    assert np.any(rows != drawn(12, 1)[split])
  without = protocols.Fold(0, fold.train, fold.dev[:0], fold.test)
  with pytest.raises(protocols.ProtocolError, match='dev speech; there is no'):
    experiment.references(without)
  assert experiment_of('variant=dat').references(fold)(12, 0) == {}

  experiment = experiment_of('variant=dsc')
  beside = experiment.predicted_with(fold.test)['neutral']
  first = np.flatnonzero((table.labels == 3) & (table.speakers == 's0'))[0]
  np.testing.assert_array_equal(beside, first)
  mute = protocols.Fold(0, fold.train, fold.dev, fold.test[:4])
  with pytest.raises(protocols.ProtocolError, match='No neutral utterance of'):
    experiment.references(mute)


@pytest.mark.parametrize(
  ('variant', 'epochs', 'clip_norm'),
  [
    ('dsnet', 80, 0),
    ('encoder', 80, 10),
    ('dat', 80, 10),
    ('isnet', 40, 0),
    ('dsc', 50, 10),
    ('menan', 160, 10),
  ],
)
def test_the_recipe_of_each_variant(variant, epochs, clip_norm):
  config = recipe.get_config(f'corpus=emodb,variant={variant}')
  assert (config.epochs, config.optimizer.clip_norm) == (epochs, clip_norm)
  assert config.eval_every == 1 + (variant == 'menan')
  assert recipe.get_config(f'corpus=demo,variant={variant}').epochs in (30, 60)
  system = make_variant(variant)
  out = jax.eval_shape(system.predict, *make_variables(system), BATCH)
  assert {out[name].shape for name in system.embeddings} == {(16, 8)}
  assert bool(system.notes) == (variant == 'dsc')
