"""What all runs of an experiment share, and what each of them starts from."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxser.core.config import Config, ConfigError
from jaxser.data import pipeline
from jaxser.data import references as references_lib
from jaxser.data.pipeline import Columns, Sampler
from jaxser.data.protocols import Fold, ProtocolError
from jaxser.engine import augmentation, schedule
from jaxser.engine import step as step_lib
from jaxser.engine.step import TrainState
from jaxser.evaluation import metrics
from jaxser.systems.base import System, Tree

Run = tuple[int, Fold]
"""A seed and a fold: what is trained once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  config: Config
  system: System
  source: pipeline.Source
  # Puts weights that were trained elsewhere into fresh parameters.
  pretrained: Callable[[Tree], Tree] | None = None
  augment: augmentation.Augmentation | None = None

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    return step_lib.make_optimizer(self.config, self.system)

  @functools.cached_property
  def _create_state(self) -> Callable[..., TrainState]:
    """(rng, batch) -> a fresh state; compiled once for all runs."""
    create = functools.partial(step_lib.create_state, self.system)
    return jax.jit(functools.partial(create, self.optimizer))

  def parameters(self, fold: Fold) -> list[tuple[str, tuple[int, ...], str]]:
    """Returns name, shape and the phases in which it is frozen, of each."""
    system, key = self.system, jax.random.key(0)
    params, _ = jax.eval_shape(system.init, key, self.example(fold))
    never = jax.tree.map(lambda _: False, params)
    frozen: dict[str, list[bool]] = {}
    rows = []
    for phase in dict.fromkeys(map(system.phase, range(self.config.epochs))):
      updates = system.updates(phase)
      flags = [
        jax.tree.leaves(system.frozen(params, u) or never) for u in updates
      ]
      frozen[str(phase)] = [all(leaf) for leaf in zip(*flags, strict=True)]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for i, (path, leaf) in enumerate(leaves):
      still = [phase for phase, leaves in frozen.items() if leaves[i]]
      text = 'frozen' if still else ''
      if 0 < len(still) < len(frozen):
        text += f' in {", ".join(still)}'
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      rows.append((name, leaf.shape, text))
    return rows

  def selections(self, folds: Sequence[Fold]) -> dict[str, str]:
    """Returns which best epochs are kept, with the split that chooses them."""
    chosen = {}
    if self.system.fit is None:
      if any(len(fold.dev) for fold in folds):
        chosen['best_on_dev'] = 'dev'
      if self.config.select_on_test:
        chosen['best_on_test'] = 'test'
    return chosen

  def example(self, fold: Fold) -> dict[str, Any]:
    """Returns a batch of one row; no initial value depends on what it holds."""
    row = fold.train[:1]
    beside = dict.fromkeys(self.system.references, row)
    return self.source.batch(pipeline.Slot(row, self.source.max_length, beside))

  def first_state(self, seed: int, fold: Fold, initial=None) -> TrainState:
    """Returns a run before its first epoch; `initial` replaces its weights."""
    rng = jax.random.fold_in(jax.random.key(seed), fold.number)
    state = self._create_state(rng, self.example(fold))
    if self.pretrained is not None:
      state = state.replace(params=self.pretrained(state.params))
    if initial is not None:
      params, model_state = initial
      state = state.replace(params=params, model_state=model_state)
    return self.prepared(state, fold)

  def prepared(self, state: TrainState, fold: Fold) -> TrainState:
    """Returns a fresh state with the weights and statistics of a training split."""
    table, config = self.source.corpus.table, self.config
    vad, labels = table.vad[fold.train], table.labels[fold.train]
    state = state.replace(
      class_weights=self.class_weights(fold),
      model_state=self.system.prepare(state.model_state, vad, labels),
    )
    if schedule.over_epochs(config.schedule, config.epochs) is not None:
      steps = np.float32(-(-len(fold.train) // config.batch_size))
      opt_state = optax.tree.set(state.opt_state, epoch_steps=steps)
      state = state.replace(opt_state=opt_state)
    return step_lib.with_average(state, config.ema)

  def check(self, fold: Fold) -> None:
    """Raises a UserError for settings that no run of this fold can have."""
    step_lib.make_optimizer(self.config, self.system)
    if self.config.ema and self.system.fit is not None:
      raise ConfigError(
        f'--config.ema={self.config.ema}: {type(self.system).__name__} is fitted, '
        'not trained by steps; leave it at 0.'
      )
    self.class_weights(fold)
    self.references(fold)

  def class_weights(self, fold: Fold) -> np.ndarray | None:
    """Returns what classes weigh in the loss, float32 [classes], or None."""
    config, corpus = self.config, self.source.corpus
    setting, kind = config.class_weight, type(self.system).__name__
    if isinstance(setting, Config):
      setting = setting.to_dict()
    steps = self.system.task == 'classification' and self.system.fit is None
    if config.balanced_sampling and not steps:
      raise ConfigError(
        f'--config.balanced_sampling: {kind} is not trained by batches of '
        'classes; leave it out.'
      )
    if setting != 'none' and not self.system.weighs_classes:
      raise ConfigError(
        f'--config.class_weight={setting}: {kind} weighs no classes by it; leave '
        'it out.'
      )
    if setting != 'none' and config.augment.mixup:
      raise ConfigError(
        f'--config.class_weight={setting}: mixup makes rows of two classes, which '
        'have no one weight; set balanced_sampling, or augment.mixup=0.'
      )
    labels = corpus.table.labels[fold.train]
    try:
      return class_weights(setting, labels, corpus.classes)
    except ValueError as error:
      raise ConfigError(f'--config.class_weight={setting}: {error}.') from error

  def sampler(self, seed: int, fold: Fold, padded_size: int) -> Sampler:
    """Returns the training batches of a run, padded to so many rows each."""
    references, drawn = self.references(fold), None
    if self.config.balanced_sampling:
      labels = self.source.corpus.table.labels[fold.train]
      drawn = probabilities(labels)
    return Sampler(
      rows=fold.train,
      lengths=self.source.lengths[fold.train],
      batch_size=self.config.batch_size,
      padded_size=padded_size,
      buckets=self.source.buckets,
      seed=(seed, fold.number),
      references=functools.partial(references, seed),
      probabilities=drawn,
    )

  def references(self, fold: Fold) -> Callable[[int, int], Columns]:
    """Returns (seed, epoch) -> rows beside the training rows, by name."""
    names = self.system.references
    try:
      if any(name.startswith('neutral') for name in names):
        neutral = self._neutral(fold.train)
      if self.system.predicts_with_neutral:
        for rows in (fold.dev, fold.test):
          self.predicted_with(rows)
      for name in names:
        if name in ('dev', 'test') and not len(getattr(fold, name)):
          raise ValueError(f'the system trains on {name} speech; there is none')
    except ValueError as error:
      raise ProtocolError(f'fold {fold.number}: {error}') from error

    if self.augment is not None and self.augment.mixup:
      names = (*names, augmentation.PARTNER)

    def draw(name, seed, epoch):
      if name == augmentation.PARTNER:
        return pipeline.draw_partners(fold.train, (seed, fold.number), epoch)
      if name == 'neutral':
        return neutral.draw(seed, fold.number, epoch)
      if name.startswith('neutral'):
        number = int(name.removeprefix('neutral')) - 1
        return neutral.references[:, number % neutral.references.shape[1]]
      key = (seed, fold.number, epoch, names.index(name))
      order = np.random.default_rng(key).permutation(getattr(fold, name))
      return np.resize(order, len(fold.train))

    return lambda seed, epoch: {n: draw(n, seed, epoch) for n in names}

  def predicted_with(self, rows: np.ndarray) -> Columns:
    """Returns what `System.predict` sees beside rows of a split, by name."""
    if not self.system.predicts_with_neutral:
      return {}
    return {'neutral': self._neutral(rows).references[:, 0]}

  def _neutral(self, rows: np.ndarray) -> references_lib.References:
    count, corpus = self.config.data.neutral_references, self.source.corpus
    return references_lib.find_references(corpus, rows.tolist(), count)

  def score(self, outputs: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Returns UAR, WAR, F1 and cross-entropy, or CCC, of rows' outputs."""
    task, table = self.system.task, self.source.corpus.table
    names = metrics.METRICS[task]
    if task == 'regression':
      known = np.isfinite(table.vad[rows]).all(-1)
      ccc = metrics.concordance(table.vad[rows][known], outputs[known])
      return dict(zip(names, map(float, [*ccc, np.mean(ccc)]), strict=True))
    labels, predicted = table.labels[rows], np.argmax(outputs, -1)
    confusion = metrics.confusion(labels, predicted, outputs.shape[-1])
    values = metrics.values(task, confusion).tolist()
    likelihood = outputs[np.arange(len(rows)), labels].astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    loss = float(-np.mean(np.log(likelihood + tiny)))
    return {**dict(zip(names, values, strict=True)), 'loss': loss}


def class_weights(setting: Any, labels: np.ndarray, classes: Sequence[str]):
  """Returns what each class weighs in the loss, float32 [classes].

  'none' returns None; 'balanced' is n / (classes count) as in scikit-learn,
  over the classes that occur. Else numbers in the order of the classes, or of
  some by name, while others weigh 1. Labels are those of the training split, -1
  for none.
  """
  if setting == 'none':
    return None
  if setting == 'balanced':
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    share = counts.sum() / np.count_nonzero(counts)
    return (share / np.maximum(counts, 1)).astype(np.float32)
  names = f'{len(classes)} classes {", ".join(classes)}'
  if isinstance(setting, Mapping):
    if unknown := ', '.join(map(str, sorted(setting.keys() - set(classes)))):
      raise ValueError(f'there is no class {unknown} among the {names}')
    setting = [setting.get(name, 1) for name in classes]
  if isinstance(setting, str) or not isinstance(setting, Sequence):
    wanted = f"'none', 'balanced', or numbers for the {names}"
    raise ValueError(f'it must be {wanted}')
  if len(setting) != len(classes):
    raise ValueError(f'these are {len(setting)} numbers for the {names}')
  numbers = all(isinstance(weight, int | float) for weight in setting)
  if not numbers or not all(0 < weight < np.inf for weight in setting):
    raise ValueError('every weight must be a number greater than 0')
  return np.array(setting, np.float32)


def probabilities(labels: np.ndarray) -> np.ndarray:
  """Returns float64 [n] that are equal in sum for every class, 0 for none."""
  counts = np.bincount(labels[labels >= 0])
  equal = 1 / (np.count_nonzero(counts) * counts[labels])
  return np.where(labels >= 0, equal, 0)
