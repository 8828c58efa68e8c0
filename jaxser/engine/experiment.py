"""What all runs of an experiment share, and what each of them starts from."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from jaxser.core.errors import ConfigError
from jaxser.data import balance, pipeline, protocols
from jaxser.data import references as references_lib
from jaxser.engine import augmentation, schedule
from jaxser.engine import step as step_lib
from jaxser.systems.base import System, Tree

Run = tuple[int, protocols.Fold]
"""A seed and a fold: what is trained once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """What all runs share.

  Attributes:
    config: resolved.
    system: what is trained.
    source: assembles the corpus' batches.
    pretrained: puts weights that were trained elsewhere into fresh parameters.
    augment: what happens to training batches, or None.
  """

  config: ml_collections.ConfigDict
  system: System
  source: pipeline.Source
  pretrained: Callable[[Tree], Tree] | None = None
  augment: augmentation.Augmentation | None = None

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    """The optimizer of the config."""
    return step_lib.make_optimizer(self.config, self.system)

  @functools.cached_property
  def _create_state(self) -> Callable[..., step_lib.TrainState]:
    """(rng, batch) -> a fresh state; compiled once for all runs."""
    return jax.jit(
      functools.partial(step_lib.create_state, self.system, self.optimizer)
    )

  def parameters(
    self, fold: protocols.Fold
  ) -> list[tuple[str, tuple[int, ...], str]]:
    """Returns name and shape of every parameter, and when it is frozen.

    That is '' where it is always trained, 'frozen' where it never is, and else
    names the phases in which it is not. Nothing is computed.

    Args:
      fold: any one.
    """
    system, key = self.system, jax.random.key(0)
    params, _ = jax.eval_shape(system.init, key, self.example(fold))
    never = jax.tree.map(lambda _: False, params)
    frozen = {}
    for phase in dict.fromkeys(map(system.phase, range(self.config.epochs))):
      still = [
        jax.tree.leaves(system.frozen(params, update) or never)
        for update in system.updates(phase)
      ]
      frozen[str(phase)] = [all(leaf) for leaf in zip(*still, strict=True)]
    rows = []
    for i, (path, leaf) in enumerate(
      jax.tree_util.tree_leaves_with_path(params)
    ):
      still = [phase for phase, leaves in frozen.items() if leaves[i]]
      text = 'frozen' if still else ''
      if 0 < len(still) < len(frozen):
        text += f' in {", ".join(still)}'
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      rows.append((name, leaf.shape, text))
    return rows

  def selections(self, folds: Sequence[protocols.Fold]) -> dict[str, str]:
    """Returns which best epochs are kept, with the split that chooses them."""
    chosen = {}
    if self.system.fit is not None:
      return chosen
    if any(len(fold.dev) for fold in folds):
      chosen['best_on_dev'] = 'dev'
    if self.config.select_on_test:
      chosen['best_on_test'] = 'test'
    return chosen

  def example(self, fold: protocols.Fold) -> dict[str, Any]:
    """Returns a batch of one row; no initial value depends on what it holds."""
    row = fold.train[:1]
    beside = dict.fromkeys(self.system.references, row)
    return self.source.batch(pipeline.Slot(row, self.source.max_length, beside))

  def first_state(
    self,
    seed: int,
    fold: protocols.Fold,
    initial: tuple[Tree, Tree] | None = None,
  ) -> step_lib.TrainState:
    """Returns the state of a run before its first epoch.

    Args:
      seed: names the initial parameters, with the fold.
      fold: whose training split the system prepares itself with.
      initial: (params, model_state) to start from instead of fresh ones.
    """
    rng = jax.random.fold_in(jax.random.key(seed), fold.number)
    state = self._create_state(rng, self.example(fold))
    if self.pretrained is not None:
      state = state.replace(params=self.pretrained(state.params))
    if initial is not None:
      params, model_state = initial
      state = state.replace(params=params, model_state=model_state)
    return self.prepared(state, fold)

  def prepared(
    self, state: step_lib.TrainState, fold: protocols.Fold
  ) -> step_lib.TrainState:
    """Returns a fresh state with what is known of a training split."""
    table, config = self.source.corpus.table, self.config
    state = state.replace(
      class_weights=self.class_weights(fold),
      model_state=self.system.prepare(
        state.model_state, table.vad[fold.train], table.labels[fold.train]
      ),
    )
    if schedule.over_epochs(config.schedule, config.epochs) is not None:
      steps = -(-len(fold.train) // config.batch_size)
      state = state.replace(
        opt_state=optax.tree.set(state.opt_state, epoch_steps=np.float32(steps))
      )
    return step_lib.with_average(state, config.ema)

  def check(self, fold: protocols.Fold) -> None:
    """Raises a UserError for settings that no run of this fold can have."""
    step_lib.make_optimizer(self.config, self.system)
    if self.config.ema and self.system.fit is not None:
      raise ConfigError(
        f'--config.ema={self.config.ema}: {type(self.system).__name__} is fitted, '
        'not trained by steps; leave it at 0.'
      )
    self.class_weights(fold)
    self.references(fold)

  def class_weights(self, fold: protocols.Fold) -> np.ndarray | None:
    """Returns what classes weigh in the loss, float32 [classes], or None.

    Raises:
      ConfigError: for weights that this system or corpus cannot have.
    """
    config, corpus = self.config, self.source.corpus
    setting, kind = config.class_weight, type(self.system).__name__
    if isinstance(setting, ml_collections.ConfigDict):
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
    try:
      return balance.class_weights(
        setting, corpus.table.labels[fold.train], corpus.classes
      )
    except ValueError as error:
      raise ConfigError(f'--config.class_weight={setting}: {error}.') from error

  def sampler(
    self, seed: int, fold: protocols.Fold, padded_size: int
  ) -> pipeline.Sampler:
    """Returns the batches of a run's training split.

    Args:
      seed: names their order, with the fold.
      fold: whose training split is sampled.
      padded_size: rows per batch, padding included.
    """
    references, probabilities = self.references(fold), None
    if self.config.balanced_sampling:
      labels = self.source.corpus.table.labels[fold.train]
      probabilities = balance.probabilities(labels)
    return pipeline.Sampler(
      rows=fold.train,
      lengths=self.source.lengths[fold.train],
      batch_size=self.config.batch_size,
      padded_size=padded_size,
      buckets=self.source.buckets,
      seed=(seed, fold.number),
      references=functools.partial(references, seed),
      probabilities=probabilities,
    )

  def references(
    self, fold: protocols.Fold
  ) -> Callable[[int, int], dict[str, np.ndarray]]:
    """Returns (seed, epoch) -> what stands beside the training rows of a fold.

    By name of `System.references`, and of the partner that mixup needs, int64
    [n], rows of the corpus.

    Raises:
      ProtocolError: if a speaker has no neutral utterance, or a split is empty.
    """
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
      raise protocols.ProtocolError(f'fold {fold.number}: {error}') from error

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

  def predicted_with(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what `System.predict` sees beside rows of a split, by name."""
    if not self.system.predicts_with_neutral:
      return {}
    return {'neutral': self._neutral(rows).references[:, 0]}

  def _neutral(self, rows: np.ndarray) -> references_lib.References:
    return references_lib.find_references(
      self.source.corpus, rows, self.config.data.neutral_references
    )
