"""EmoSphere-SER (Cho et al., Interspeech 2025, arXiv 2505.19693).

Valence, arousal and dominance, guided by the region of a sphere around neutral
in which the point lies.

  python -m jaxser.main --config=configs/emosphere.py
      The built-in demo corpus (its VAD is known), light log-mel encoder.
  python -m jaxser.main --config=configs/emosphere.py:corpus=emotale --workdir=W
      EmoTale prepared with `python -m data_prep --features=kaldi16k`.

Expected on MSP-Podcast with WavLM-large (CCC valence/arousal/dominance), the
paper's Table 1: .6952/.7482/.6220.

Arguments after the colon:
  corpus         demo, emotale, iemocap, msp_podcast, manifest
  protocol       speaker_independent (default), official, published (official)
  encoder        logmel (default), wavlm, frames (stored hidden states)
  wavlm          a size (tiny, base, large) for encoder=wavlm
  pooling        style (default), attentive_statistics
  regions        octants (default), 180, 90, 60, 45, 30
  region_weight  decay (default), constant, off
  weighted       weight the region loss by class, as published; default true
  auxiliary      regions (default), categories
  runlocal       two epochs of one fold, to see that everything works
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; see the module's docstring for `arg`."""
  arg = common.parse_arg(
    arg,
    {
      **common.ARGUMENTS,
      'encoder': 'logmel',
      'wavlm': 'tiny',
      'pooling': 'style',
      'regions': 'octants',
      'region_weight': 'decay',
      'weighted': True,
      'auxiliary': 'regions',
    },
    {
      **common.CHOICES,
      'encoder': ('logmel', 'wavlm', 'frames'),
      'wavlm': ('tiny', 'base', 'large'),
      'pooling': ('style', 'attentive_statistics'),
      'regions': ('octants', '180', '90', '60', '45', '30'),
      'region_weight': ('decay', 'constant', 'off'),
      'auxiliary': ('regions', 'categories'),
    },
  )
  if arg['protocol'] == 'published':
    arg['protocol'] = 'official'
  config = common.base_config('emosphere', arg)
  light = arg['encoder'] == 'logmel'
  regions = arg['regions']
  config.model.encoder = arg['encoder']
  config.model.wavlm = arg['wavlm']
  config.model.width = 64 if light else 1024
  # Stored frames are 10 ms apart, WavLM's and the paper's 20 ms.
  config.model.stride = 2
  config.model.pooling = arg['pooling']
  config.model.regions = regions if regions == 'octants' else float(regions)
  config.model.region_weight = arg['region_weight']
  config.model.decay_epochs = 5
  config.model.weighted = arg['weighted']
  config.model.auxiliary = arg['auxiliary']
  config.model.dropout = 0.1
  config.model.head_dropout = 0.5
  config.model.padding = 'exact'
  config.features.name = 'kaldi16k' if light else 'wave16k'
  # Twelve seconds.
  config.data.max_length = 1200 if light else 192_000
  config.data.buckets = () if light else (64_000, 96_000, 128_000, 160_000)
  config.selection_metric = 'ccc_mean'
  config.schedule.metric = 'ccc_mean'
  config.epochs = 30 if config.corpus == 'demo' else 20
  config.batch_size = 32 if light else 64
  config.accumulate = 1 if light else 4
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3 if light else 1e-5
  config.optimizer.weight_decay = 0.01
  return common.finished(config, arg)
