"""The linear baseline: functionals and a support vector machine, or ridge.

What any network should be compared with under the same folds. It is fitted by
scikit-learn in seconds; its strength C is chosen on the development split, or,
without one, by cross-validation over the training speakers.

  python -m jaxser.main --config=baseline
      The built-in demo corpus: seconds.
  python -m jaxser.main --config=baseline:corpus=emodb --workdir=W
      EmoDB prepared with --features=kaldi16k, leave one speaker out.
  python -m jaxser.main --config=baseline:corpus=emodb,features=compare --workdir=W
      The same with ComParE_2016, prepared with --features=compare.
  python -m jaxser.main --config=baseline:corpus=emotale,task=vad --workdir=W
      Valence, arousal and dominance.

Arguments after the colon:
  corpus         demo, or a prepared one: emodb, emovo, ravdess, savee, ...
  protocol       speaker_independent (default), published, official, emobox
  features       functionals (default): mean, standard deviation and percentiles
                 of MFCCs and their deltas; egemaps, compare: openSMILE's
  task           classes (default), vad
  speaker_normalization
                 standardise each speaker by all of their utterances, without
                 labels; needs several of each test speaker
  cross_corpus   with train=CORPUS,test=CORPUS: all of one, then all of another
  runlocal       one fold, to see that everything works
"""

import ml_collections

from configs import common, timnet

# What is stored for each choice of features.
STORED = {
  'functionals': 'kaldi16k',
  'egemaps': 'egemaps',
  'compare': 'compare',
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; see the module's docstring for `arg`."""
  arg = common.parse_arg(
    arg,
    {
      **common.ARGUMENTS,
      'features': 'functionals',
      'task': 'classes',
      'speaker_normalization': False,
    },
    {
      **common.CHOICES,
      'features': tuple(STORED),
      'task': ('classes', 'vad'),
    },
  )
  vad = arg['task'] == 'vad'
  config = common.base_config('baseline', arg)
  config.system = 'baseline_vad' if vad else 'baseline'
  config.model.functionals = arg['features'] == 'functionals'
  # MFCCs that functionals are taken of; 0: the log-mel frames themselves.
  config.model.num_coefficients = 39
  # Standardise each speaker by all of their utterances, without labels.
  config.model.speaker_normalization = arg['speaker_normalization']
  config.features.name = STORED[arg['features']]
  # The folds of TIM-Net, for whom no epoch is chosen here.
  _, config.fold_seed = timnet.PUBLISHED.get(config.corpus, (0, 46))
  config.select_on_test = False
  config.selection_metric = 'ccc_mean' if vad else 'uar'
  # There are no curves, and the embedding is the functionals themselves.
  config.tensorboard = False
  config.embeddings = False
  config = common.finished(config, arg)
  config.epochs = 1
  return config
