"""Fields and arguments that all recipes have in common."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

PROTOCOLS = ('speaker_independent', 'published', 'official', 'emobox', 'all')

# Arguments that every recipe understands, and the valid values of some; a corpus
# may be one of the user's own, so `jaxser.data.opening` checks its name.
ARGUMENTS = {
  'corpus': 'demo',
  'protocol': 'speaker_independent',
  'cross_corpus': False,
  'train': '',
  'test': '',
  'runlocal': False,
}
CHOICES = {'protocol': PROTOCOLS}


def base_config(
  system: str, arg: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns the fields that every recipe has, with their defaults.

  Args:
    system: name.
    arg: from `parse_arg`, with at least `ARGUMENTS`. A corpus is one that
      data_prep knows, or one of the user's own by the name it was prepared as.

  Raises:
    ValueError: if cross_corpus, train and test do not go together, or a corpus
      has no name.
  """
  if arg['cross_corpus'] != bool(arg['train'] and arg['test']):
    raise ValueError(
      'cross_corpus, train=CORPUS and test=CORPUS go together, as in '
      f'--config={system}:cross_corpus,train=emodb,test=ravdess'
    )
  corpus = arg['train'] if arg['cross_corpus'] else arg['corpus']
  protocol = 'cross_corpus' if arg['cross_corpus'] else arg['protocol']
  if not re.fullmatch(r'\w[\w.-]*', corpus):
    raise ValueError(
      f'--config argument corpus={corpus!r} is no name of a corpus; '
      '`python -m data_prep --help` lists those that it knows.'
    )
  config = ml_collections.ConfigDict()
  # One of jaxser's, or a class of your own as 'my_package.my_module:MySystem'.
  config.system = system
  config.model = ml_collections.ConfigDict()

  # The one that is trained on, and, unless there is a test_corpus, tested.
  config.corpus = corpus
  # Under cross_corpus: the one that is tested.
  config.test_corpus = arg['test']
  # Empty: $JAXSER_DATA_DIR, or ~/jaxser_data.
  config.data_dir = ''
  # Parameters that are 0 accept the one store that is there.
  config.features = ml_collections.ConfigDict(
    # What was extracted of the audio.
    {'name': ''}
  )
  config.data = ml_collections.ConfigDict(
    {
      # Frames or samples kept of each utterance; 0 keeps the longest whole.
      'max_length': 0,
      # Lengths that batches are padded to; empty pads all to the longest.
      'buckets': (),
      # Without `buckets`: how many, chosen to minimise padding; 0 is one.
      'num_buckets': 0,
      # A decoded corpus up to this size stays in memory.
      'cache_gib': 2.0,
      # How many of each speaker's first utterances DSNet's neutral references are.
      'neutral_references': 3,
    }
  )

  # What is trained and tested on, see protocols.md.
  config.protocol = protocol
  # A folds.json to be used instead of the protocol's own folds.
  config.folds = ''
  # Folds of utterances, or of speakers where there are more than 12.
  config.num_folds = 10
  # Names the cut into folds, where it is random.
  config.fold_seed = 0
  # Numbers of the only folds to be trained; () trains all.
  config.fold_subset = ()
  # protocol=emobox: EmoBox's data folder.
  config.emobox_dir = ''
  # protocol=emobox: whether to cut a development split from the training split.
  config.emobox_dev = True
  # What each fold trains on: 'all' of the one corpus, all but a 'held_out'
  # speaker for development, or one fold for each of its 'speakers'.
  config.cross_corpus_train = 'all'
  # Reads test labels in every epoch to choose one, as published tables do.
  config.select_on_test = protocol in ('published', 'cross_corpus')
  # Which score chooses the best epoch: uar, war, f1, ccc_mean.
  config.selection_metric = 'uar'

  # The first; it names initial values, the order of batches and dropout.
  config.seed = 0
  # So many, from the first on; each trains every fold.
  config.seeds = 1
  # Times that the training split is seen.
  config.epochs = 1
  # The work folder of a finished run of the same system and corpus: `epochs` is
  # the median, over its folds, of the best epoch on the development split.
  config.epochs_from = ''
  # Utterances per step, those of all devices together.
  config.batch_size = 32
  # Micro-batches per step, whose gradients are averaged.
  config.accumulate = 1
  # Utterances that are predicted at once.
  config.eval_batch_size = 256
  # Epochs from one evaluation of the development split to the next.
  config.eval_every = 1
  # b1, b2, eps and weight_decay are for the optimizers that take them, and
  # --config.optimizer.ARGUMENT=VALUE adds any other argument.
  config.optimizer = ml_collections.ConfigDict(
    {
      # An optimizer of optax, or adam_keras.
      'name': 'adam',
      # Of all parameters, or of the encoder.
      'learning_rate': 1e-3,
      # Of what is not the system's encoder; 0: the same.
      'head_learning_rate': 0.0,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.0,
      # Largest global norm of a step's gradients; 0 leaves them as they are.
      'clip_norm': 0.0,
    }
  )
  # Part of an exponential moving average of the weights that each step leaves in
  # place, such as 0.999; it is tested as the selection ema_last. 0: no average.
  config.ema = 0.0
  # 'balanced': the loss weighs a class by n / (classes count) of the training
  # split; or numbers in the order of the classes, as (1, 2); or of some classes,
  # as {"sad":2}, the others 1.
  config.class_weight = config_dict.FieldReference('none', field_type=object)
  # Each epoch draws as many utterances as the training split has, with
  # replacement, and every class as often as any other.
  config.balanced_sampling = False
  # plateau: the learning rate drops by `factor` after `patience` epochs without
  # a better development score, and training stops after `stop_patience`.
  config.schedule = ml_collections.ConfigDict(
    {
      # constant; cosine or linear, down to 0 at the end; plateau.
      'name': 'constant',
      # Epochs in which the learning rate first rises from 0.
      'warmup_epochs': 0.0,
      'metric': 'uar',
      'factor': 0.1,
      'patience': 0,
      'stop_patience': 0,
    }
  )

  # In training only, drawn anew for every utterance and epoch; all are off.
  config.augment = ml_collections.ConfigDict(
    {
      # SpecAugment: number of masks over frames.
      'time_masks': 0,
      # Largest width of each, in frames.
      'time_width': 30,
      # SpecAugment: number of masks over mel bins.
      'frequency_masks': 0,
      # Largest width of each, in mel bins.
      'frequency_width': 20,
      # Largest change of the level, in dB, either way.
      'gain_db': 0.0,
      # White noise at a signal-to-noise ratio in dB between two, as (10, 30).
      'snr_db': (),
      # Moved in a circle by up to so large a part of the utterance, either way.
      'shift': 0.0,
      # Waveforms: one of these speeds, as (0.9, 1.0, 1.1).
      'speed': (),
      # Mixed with another training utterance by shares from Beta(mixup, mixup).
      'mixup': 0.0,
    }
  )

  # 'jit' over a device mesh, 'pmap', or 'fsdp': weights and optimizer state are
  # divided over the devices that train a run, not copied to each.
  config.parallel = 'jit'
  # Runs (a seed and a fold each) that train side by side; 0: all that fit, on
  # a CPU one per device.
  config.runs_at_once = 0
  # Memory of each device that they may use; 0 asks the device.
  config.memory_gib = 0.0
  # The original authors' file, or the work folder of an earlier run.
  config.init_from = ''
  # Accept such weights even where their training split is unknown.
  config.trust_init_from = False
  # The folds that the authors' weights belong to: fields and their values.
  config.published_folds = ml_collections.ConfigDict()
  # Epochs from one checkpoint to the next.
  config.checkpoint_every = 10
  # Whether to write event files for TensorBoard beside metrics.jsonl.
  config.tensorboard = True
  # FIRST:LAST, such as 10:20: traces these steps for xprof and TensorBoard.
  config.profile = ''
  # After training: embeddings.npz, its linear probes and its views in 2-d.
  config.embeddings = True
  # Selection -> {'source', 'uar', 'war'}, shown beside what is measured.
  config.paper = ml_collections.ConfigDict()
  return config


def finished(
  config: ml_collections.ConfigDict, arg: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns the recipe, cut down to a quick check under `runlocal`."""
  if arg['runlocal']:
    config.epochs = 2
    config.fold_subset = (0,)
  return config


def parse_arg(
  arg: str | None,
  defaults: Mapping[str, Any],
  choices: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
  """Reads 'corpus=emodb,runlocal' into a dict shaped like `defaults`.

  Args:
    arg: comma separated `name=value`; a bare `name` means True.
    defaults: every valid name with its default; the type of the default is the
      type of the value.
    choices: the valid values of some names.

  Returns:
    The defaults, overridden.

  Raises:
    ValueError: for an unknown name or value; the message lists the valid ones.
  """
  parsed = dict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, has_value, text = item.partition('=')
    if name not in defaults:
      raise ValueError(
        f'--config argument {name!r} is unknown; valid are '
        f'{", ".join(sorted(defaults))}. Example: '
        '--config=timnet:corpus=emodb,protocol=published'
      )
    parsed[name] = _convert(name, text if has_value else 'true', defaults[name])
  for name, valid in (choices or {}).items():
    if parsed[name] not in valid:
      raise ValueError(
        f'--config argument {name}={parsed[name]!r} is not valid; choose one '
        f'of {", ".join(map(str, valid))}.'
      )
  return parsed


def _convert(name: str, text: str, default: Any) -> Any:
  """Returns the text as a value of the type of the default."""
  if isinstance(default, bool):
    if text.lower() not in ('true', 'false', '1', '0'):
      raise ValueError(
        f'--config argument {name}={text!r} must be true or false.'
      )
    return text.lower() in ('true', '1')
  try:
    return type(default)(text)
  except ValueError as error:
    raise ValueError(
      f'--config argument {name}={text!r} must be of type '
      f'{type(default).__name__}.'
    ) from error
