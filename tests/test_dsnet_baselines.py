"""The baselines of DSNet: their losses, and what each update trains."""

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
from jaxser.systems import dsnet
from jaxser.systems.dsnet_network import Classifier, Encoder, TwoLayers
from tests import fakes
from tests.dsnet_cases import (
  EMPTY_ROWS,
  KEPT,
  RNG,
  START,
  compiled,
  make_variables,
  make_variant,
  padded_batch,
)
from tests.random_tree import assert_close

# The losses, written once more from the parts.


def in_training(module, part, stats, x, batch):
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
  images = dsnet.front_end(features, length, 12)
  return in_training(Encoder((4, 6), 8, 0.0), part, stats, images, batch)


def classify(part, stats, x, batch):
  """Logits [batch, 3] and new statistics."""
  return in_training(Classifier(3, 8, 0.0), part, stats, x, batch)


def entropy(logits, label):
  log_p = jax.nn.log_softmax(logits)[KEPT]
  return -jnp.mean(log_p[jnp.arange(len(KEPT)), label[KEPT]])


def distance(a, b):
  return jnp.mean(jnp.abs(a - b)[KEPT])


def speaker_losses(system, params, state, batch):
  """(loss of the speakers, its negative gradient in the encoder)."""

  def loss(params):
    losses = []
    for prefix in ('', *(f'{name}_' for name in system.references)):
      stats = state['batch_stats']['encoder']
      x, _ = encode(params['encoder'], stats, batch, prefix)
      logits = TwoLayers(8, 4).apply({'params': params['adversary']}, x)
      if system.variant == 'menan':  # Speaker 3 is not in the training split.
        losses.append(-jnp.mean(jax.nn.log_softmax(logits)[KEPT, :3]))
      else:
        losses.append(entropy(logits, batch[f'{prefix}speaker']))
    return sum(losses) / len(losses)

  return jax.jit(jax.value_and_grad(loss))(params)


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
  run = compiled(system, phase)
  (total, aux), grads = run(params, state, batch, RNG, START)
  plain = {name: params[name] for name in ('encoder', 'classifier')}
  task_alone = compiled(make_variant('encoder'))
  (task, _), wanted = task_alone(plain, state, batch, RNG, START)
  error, reversed_ = speaker_losses(system, params, state, batch)
  name = {'dat': 'adversary', 'menan': 'confusion'}[variant]
  found = total, aux['metrics']['task'], aux['metrics'][name]
  np.testing.assert_allclose(found, (task + error, task, error), rtol=1e-5)
  assert max(np.abs(g).max() for g in jax.tree.leaves(reversed_)) > 1e-3
  wanted['encoder'] = jax.tree.map(
    lambda g, r: g - strength * r, wanted['encoder'], reversed_['encoder']
  )
  wanted['adversary'] = reversed_['adversary']
  assert_close(grads, wanted, 1e-3)


def start(system, config, seed=0):
  """(step, state) of a run with random weights."""
  optimizer = step_lib.make_optimizer(config, system)
  params, state = make_variables(system, seed)
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
  label = batch['label']
  # A usual one lets entries whose gradient is rounding alone move at random.
  config.optimizer.eps = 1e-3
  step, run = start(system, config)
  params, state, adam = run.params, run.model_state, optax.adam(1e-3, eps=1e-3)
  apply = functools.partial(system.apply, train=True, mutable=['batch_stats'])
  apply = jax.jit(apply)
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
  for _ in range(3):
    run, metrics = step(run, batch, np.int32(0), phase='main')
    for update, names in updates.items():
      out, _ = apply({'params': params, **state}, batch)
      a, b, c = (out[name] for name in system.references)
      wanted = {
        'task': entropy(out['task_logits'], label),
        'neutral': distance(a, b) + distance(a, c) + distance(b, c),
        'translation': distance(out['benchmark'], (a + b + c) / 3),
        'standardized': entropy(out['logits'], label),
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
  counts = [int(named[name]) for name in of_phases if 'count' in name]
  assert counts == [1, 1]


def test_dsc_classifies_both_embeddings_together():
  system = make_variant('dsc')
  batch = padded_batch()
  params, state = make_variables(system)
  out = system.predict(params, state, batch)
  other = {**batch, 'neutral_features': batch['neutral_features'][::-1]}
  different = out['scores'] != system.predict(params, state, other)['scores']
  assert np.all(np.any(different, axis=-1))
  swapped = {n: batch[f'neutral_{n}'] for n in ('features', 'length')}
  neutral = system.predict(params, state, batch | swapped)['encoding']
  both = np.concatenate([out['encoding'], neutral], -1)
  np.testing.assert_allclose(out['embedding'], both, rtol=1e-6)
  (total, aux), _ = compiled(system)(params, state, batch, RNG, START)
  stats = state['batch_stats']
  first, moved = encode(params['encoder'], stats['encoder'], batch)
  second, moved = encode(params['encoder'], moved, batch, 'neutral_')
  both = jnp.concatenate([first, second], -1)
  logits, _ = classify(params['classifier'], stats['classifier'], both, batch)
  np.testing.assert_allclose(total, entropy(logits, batch['label']), rtol=1e-5)
  assert_close(aux['state']['batch_stats']['encoder'], moved)
  with pytest.raises(ValueError, match=r"variant 'dsc' classifies .* beside"):
    system.check_recording()


# What stands beside the rows, and the recipe.


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
  ('variant', 'epochs', 'clip_norm', 'parts'),
  [
    ('dsnet', 80, 0, 'classifier decoder encoder irrelevant relevant'),
    ('encoder', 80, 10, 'classifier encoder'),
    ('dat', 80, 10, 'adversary classifier encoder'),
    (
      'isnet', 40, 0,
      'classifier encoder neutral_encoder standardized_classifier translator',
    ),
    ('dsc', 50, 10, 'classifier encoder'),
    ('menan', 160, 10, 'adversary classifier encoder'),
  ],
)  # fmt: skip
def test_the_recipe_of_each_variant(variant, epochs, clip_norm, parts):
  config = recipe.get_config(f'corpus=emodb,variant={variant}')
  assert (config.epochs, config.optimizer.clip_norm) == (epochs, clip_norm)
  assert config.eval_every == 1 + (variant == 'menan')
  assert recipe.get_config(f'corpus=demo,variant={variant}').epochs in (30, 60)
  system = make_variant(variant)
  weights = make_variables(system)
  assert ' '.join(sorted(weights[0])) == parts
  out = jax.eval_shape(system.predict, *weights, padded_batch())
  for name in system.embeddings:
    assert out[name].shape == (16, 8)


def test_arguments_that_do_not_go_together():
  for argument, message in (
    ('variant=dsc,dat_speakers=all', 'goes with variant=dat, not dsc'),
    ('variant=dat,without=calibration', 'goes with variant=dsnet, not dat'),
  ):
    with pytest.raises(ValueError, match=message):
      recipe.get_config(argument)
  (note,) = make_variant('dat', dat_speakers='all').notes
  assert note.startswith('Transductive')
  assert make_variant('dat').notes == ()
