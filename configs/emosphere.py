"""EmoSphere-SER (Cho et al., Interspeech 2025, https://arxiv.org/abs/2505.19693).

Valence, arousal and dominance, guided by the region of a sphere around neutral
in which the point lies.

  python -m jaxser.main --config=emosphere
      The built-in demo corpus (its VAD is known), light log-mel encoder.
  python -m jaxser.main --config=emosphere:corpus=emotale --workdir=W
      EmoTale prepared with `python -m data_prep --features=kaldi16k`. Measured
      by the command in docs/results.md, ten epochs, one seed: mean CCC 0.541,
      95 % interval 0.461 to 0.610, for the last epoch.
  python -m jaxser.main --workdir=W \\
      --config=emosphere:corpus=msp_podcast,encoder=wavlm,weights=DIR
      Fine-tunes the WavLM of a Hugging Face folder DIR (microsoft/wavlm-large)
      over the release's own split, for accelerators; features wave16k. Expected
      CCC of valence, arousal, dominance (the paper's Table 1): .6952, .7482,
      .6220, on the paper's release of the corpus.
  python -m jaxser.main --workdir=W \\
      --config=emosphere:corpus=emotale,encoder=wavlm,frozen
      Heads over hidden states that were computed once, for small machines:
      prepared with `python -m data_prep --features=wavlm --weights=DIR`.
  python -m jaxser.main --mode=evaluate --config.init_from=DIR --workdir=W \\
      --config=emosphere:corpus=msp_podcast,encoder=wavlm
      The authors' four .pt files in DIR; their padding with protocol=published.

Arguments after the colon:
  corpus         demo, emotale, iemocap, msp_podcast, manifest
  protocol       speaker_independent (default), official (default for
                 msp_podcast), published (the paper's cut of the validation
                 split into validation and test sets, with the authors'
                 padding)
  encoder        logmel (default), wavlm, frames (stored hidden states)
  weights        for encoder=wavlm: a Hugging Face folder, or random
  size           for weights=random: tiny (default), base, large
  frozen         for encoder=wavlm: train on its stored hidden states
  fine_tuning    for encoder=wavlm: published (default), or warmup: the learning
                 rate rises over half an epoch and then falls to 0, that of the
                 heads is ten times as high, gradients are clipped
  pooling        style (default), attentive_statistics
  regions        octants (default), 180, 90, 60, 45, 30
  region_weight  decay (default), constant, off
  weighted       weight the region loss by class, as published; default true
  auxiliary      regions (default), categories
  centre         middle (default) of the scale, neutral: mean of the neutral
                 utterances of the training split
  runlocal       two epochs of one fold, to see that everything works
"""

import ml_collections

from configs import common

# Bucket lengths of waveforms and hidden states; each is compiled once a phase.
_BUCKETS = 8


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; see the module's docstring for `arg`."""
  arg = common.parse_arg(
    arg,
    {
      **common.ARGUMENTS,
      'protocol': '',
      'encoder': 'logmel',
      'weights': '',
      'size': '',
      'frozen': False,
      'fine_tuning': '',
      'pooling': 'style',
      'regions': 'octants',
      'region_weight': 'decay',
      'weighted': True,
      'auxiliary': 'regions',
      'centre': 'middle',
    },
    {
      **common.CHOICES,
      'protocol': ('', *common.PROTOCOLS),
      'encoder': ('logmel', 'wavlm', 'frames'),
      'size': ('', 'tiny', 'base', 'large'),
      'fine_tuning': ('', 'published', 'warmup'),
      'pooling': ('style', 'attentive_statistics'),
      'regions': ('octants', '180', '90', '60', '45', '30'),
      'region_weight': ('decay', 'constant', 'off'),
      'auxiliary': ('regions', 'categories'),
      'centre': ('middle', 'neutral'),
    },
  )
  _check(arg)
  podcast = arg['corpus'] == 'msp_podcast'
  default = 'official' if podcast else 'speaker_independent'
  arg['protocol'] = arg['protocol'] or default
  config = common.base_config('emosphere', arg)
  published = arg['protocol'] == 'published'
  if published:
    # The paper selects on its validation set.
    config.select_on_test = False
  if podcast:
    # Both test only what the authors did not train on.
    config.published_folds.protocol = 'published' if published else 'official'
  regions = arg['regions']
  config.model.encoder = arg['encoder']
  config.model.pooling = arg['pooling']  # paper
  config.model.regions = regions if regions == 'octants' else float(regions)
  config.model.region_weight = arg['region_weight']  # paper
  config.model.decay_epochs = 5  # paper
  config.model.weighted = arg['weighted']  # paper
  config.model.auxiliary = arg['auxiliary']  # paper
  # Origin of the sphere: middle of the scale, or mean of the neutral utterances.
  config.model.centre = arg['centre']
  config.model.dropout = 0.1  # authors' code
  config.model.head_dropout = 0.5  # authors' code
  config.model.padding = 'published' if published else 'exact'
  config.selection_metric = 'ccc_mean'
  config.schedule.metric = 'ccc_mean'
  config.epochs = 30 if config.corpus == 'demo' else 20  # authors' code
  config.optimizer.name = 'adamw'  # authors' code
  config.optimizer.weight_decay = 0.01  # authors' code
  if arg['frozen'] or arg['encoder'] == 'frames':
    _frames(config)
  elif arg['encoder'] == 'wavlm':
    _wavlm(config, arg)
  else:
    _logmel(config)
  return common.finished(config, arg)


def _check(arg) -> None:
  """Raises ValueError for arguments that do not go together."""
  if arg['encoder'] != 'wavlm':
    for name in ('weights', 'size', 'frozen', 'fine_tuning'):
      if arg[name]:
        raise ValueError(
          f'--config argument {name} goes with encoder=wavlm, not with '
          f'encoder={arg["encoder"]}.'
        )
  if arg['frozen'] and (arg['weights'] or arg['size']):
    raise ValueError(
      '--config argument frozen trains on stored hidden states; give the '
      'weights to `python -m data_prep --features=wavlm --weights=DIR` instead.'
    )
  if arg['frozen'] and arg['fine_tuning']:
    raise ValueError(
      '--config argument fine_tuning does not go with frozen, which trains no '
      'WavLM.'
    )
  if arg['size'] and arg['weights'] not in ('', 'random'):
    raise ValueError(
      '--config argument size goes with weights=random; the size of '
      f'weights={arg["weights"]} stands in its config.json.'
    )


def _logmel(config: ml_collections.ConfigDict) -> None:
  """The light front end."""
  config.features.name = 'kaldi16k'
  config.model.width = 64
  # Stored frames are 10 ms apart, WavLM's and the paper's 20 ms.
  config.model.stride = 2
  # Factor on the spread of the first predictions. At 1, as published, they leave
  # the scale, and few short epochs do not bring them back from its bounds.
  config.model.output_scale = 0.2
  config.model.output_centre = 0.5
  config.data.max_length = 1200  # Twelve seconds.
  config.optimizer.learning_rate = 1e-3


def _frames(config: ml_collections.ConfigDict) -> None:
  """The heads alone, over the hidden states of a store."""
  config.features.name = 'wavlm'
  # Of a store, as --layer of data_prep; 0 takes the one store that is there.
  config.features.layer = 0
  config.model.encoder = 'frames'
  config.model.width = 1024  # authors' code
  config.data.max_length = 600  # Twelve seconds.
  config.data.num_buckets = _BUCKETS
  config.eval_batch_size = 64
  config.optimizer.learning_rate = 1e-4


def _wavlm(config: ml_collections.ConfigDict, arg) -> None:
  """Fine-tuning, as published or as `fine_tuning` says."""
  config.features.name = 'wave16k'
  # A Hugging Face folder, or random.
  config.model.weights = arg['weights']
  # Without a folder it says what WavLM is; the authors' files are of the large.
  default = 'tiny' if arg['weights'] == 'random' else 'large'
  config.model.wavlm = arg['size'] or default
  config.model.width = 1024  # authors' code
  config.model.freeze = 'conv'  # authors' code
  config.model.dtype = 'bfloat16'  # authors' code
  config.model.remat = True
  config.data.max_length = 192_000  # Twelve seconds.
  config.data.num_buckets = _BUCKETS
  config.batch_size = 64  # authors' code
  config.accumulate = 4  # authors' code
  config.eval_batch_size = 32
  config.optimizer.learning_rate = 1e-5  # authors' code
  if arg['fine_tuning'] == 'warmup':
    config.optimizer.head_learning_rate = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = 'linear'
    config.schedule.warmup_epochs = 0.5
  if arg['weights'] == 'random' and config.model.wavlm == 'tiny':
    # A check that everything runs; most of it is compiling, twice a bucket.
    config.model.width = 48
    config.data.num_buckets = 2
    config.optimizer.learning_rate = 1e-3
    config.epochs = 3
