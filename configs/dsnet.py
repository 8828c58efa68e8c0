"""DSNet (Chen and Zhang, 2026, https://arxiv.org/abs/2312.15593).

A siamese network: every utterance with a neutral one of the same speaker, two
disentangled projections, four losses; 5,132,133 parameters.

  python -m jaxser.main --config=dsnet
      The built-in demo corpus at size=tiny.
  python -m jaxser.main --config=dsnet:corpus=emodb --workdir=W
      EmoDB prepared with `python -m data_prep --features=kaldi16k`, leave one
      speaker out, size=paper, 80 epochs: for a GPU. A step takes 4 to 5 GiB.

The paper's result tables could not be had, so there is no score to expect. With
size=tiny it reached UAR 53.6 (95 % interval 46.0 to 60.0) on EmoDB, its plain
encoder 58.9 (50.7 to 67.0), see docs/results.md.

Arguments after the colon:
  corpus         demo, or a prepared one: emodb, emovo, ravdess, savee, ...
  protocol       speaker_independent (default), published (the same folds: leave
                 one speaker out, with the paired development speaker; beyond
                 12 speakers --config.num_folds groups of them), official
  variant        dsnet, encoder (plain encoder and classifier), dat, isnet, dsc,
                 menan (an epoch is a pass over the training split here, of which
                 it takes two in turn); each trained as the authors trained it
  dat_speakers   train (default); all: variant=dat as published, which trains on
                 the speech of development and test speakers too (transductive)
  without        a loss of DSNet to leave out: calibration, orthogonality,
                 reconstruction
  size           paper, tiny (default for the demo corpus)
  cross_corpus   with train=CORPUS,test=CORPUS: each fold's model of the one is
                 tested on all of the other
  runlocal       two epochs of one fold, to see that everything works
"""

import ml_collections

from configs import common

# The baselines' epochs where they are not 80, and who clips no gradient.
EPOCHS = {'isnet': 40, 'dsc': 50}
UNCLIPPED = ('dsnet', 'isnet')
SIZES = {
  'paper': {
    'channels': (64, 128, 256, 512),
    'embedding': 256,
    'max_frames': 600,
    'encoder_dropout': 0.2,
  },
  # Without dropout: few channels do not average its noise out, and BatchNorm's
  # statistics would differ between training and evaluation.
  'tiny': {
    'channels': (8, 16, 32, 64),
    'embedding': 64,
    'max_frames': 128,
    'encoder_dropout': 0.0,
  },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; see the module's docstring for `arg`."""
  arg = common.parse_arg(
    arg,
    {
      **common.ARGUMENTS,
      'variant': 'dsnet',
      'dat_speakers': 'train',
      'without': '',
      'size': '',
    },
    {
      **common.CHOICES,
      'variant': ('dsnet', 'encoder', 'dat', 'isnet', 'dsc', 'menan'),
      'dat_speakers': ('train', 'all'),
      'without': ('', 'calibration', 'orthogonality', 'reconstruction'),
      'size': ('', *SIZES),
    },
  )
  if arg['without'] and arg['variant'] != 'dsnet':
    raise ValueError(
      f'without={arg["without"]} leaves out a loss of DSNet and goes with '
      f'variant=dsnet, not {arg["variant"]}.'
    )
  if arg['dat_speakers'] == 'all' and arg['variant'] != 'dat':
    raise ValueError(
      f'dat_speakers=all goes with variant=dat, not {arg["variant"]}.'
    )
  if arg['protocol'] == 'published':
    arg['protocol'] = 'speaker_independent'
  config = common.base_config('dsnet', arg)
  size = arg['size'] or ('tiny' if config.corpus == 'demo' else 'paper')
  config.model.update(SIZES[size])  # authors' code
  # The system itself, or one that it is compared with.
  variant = config.model.variant = arg['variant']
  config.epochs = (
    30 if config.corpus == 'demo' else EPOCHS.get(variant, 80)
  )  # authors' code
  if variant == 'menan':
    # The first of two passes leaves the encoder as it is.
    config.epochs, config.eval_every = 2 * config.epochs, 2
  config.optimizer.clip_norm = 0.0 if variant in UNCLIPPED else 10.0
  config.model.alpha = 0.0  # authors' code
  config.model.gated_projection = False  # authors' code
  for loss in ('task', 'calibration', 'orthogonality', 'reconstruction'):
    config.model[f'{loss}_weight'] = float(loss != arg['without'])
  config.model.dat_speakers = arg['dat_speakers']
  config.model.classifier_dropout = 0.5  # authors' code
  config.model.compute_dtype = 'float32'
  # Of the convolutions: default (TF32 on NVIDIA GPUs), high, highest (float32).
  config.model.precision = 'default'
  config.features.name = 'kaldi16k'
  # One field under two names: frames beyond it are not read.
  config.data.max_length = config.model.get_ref('max_frames')
  config.data.neutral_references = 3
  # As published: a model for each training speaker left out, the epoch chosen by
  # the development speaker, all of the other corpus tested by each of them.
  config.cross_corpus_train = 'speakers'  # authors' code
  config.select_on_test = False
  config.seed = 12  # authors' code
  config.batch_size = 32
  # The learning rate drops, training stops, and the epoch is chosen by the
  # development speaker.
  config.schedule.name = 'plateau'  # authors' code
  config.schedule.patience = 15  # authors' code
  config.schedule.stop_patience = 19  # authors' code
  return common.finished(config, arg)
