"""EmoSphere-SER's three tables (Cho et al., Interspeech 2025, 2505.19693).

  python -m jaxser.tables configs/tables/emosphere.py --workdir=W
  ... --only=emotale-whole,emotale-no-region    with and without the region loss
  ... --demo                                    on the demo corpus

Components, region loss and number of regions, each row one step away from the
whole system, and ridge regression on the same folds. On MSP-Podcast as
published: the paper's cut of the validation split, WavLM-large fine-tuned, whose
folder is given by --set=model.weights=DIR. On EmoTale what the paper does not
give: speaker-independent folds and the light log-mel encoder
(`python -m data_prep --features=kaldi16k`, which the ridge regression takes on
MSP-Podcast, too).
"""

from configs.tables import linear_baseline
from jaxser.report.tables import spec

SETTINGS = {
  'msp_podcast': {
    'arg': 'protocol=published,encoder=wavlm',
    'title': 'MSP-Podcast, WavLM-large',
    # A Hugging Face folder of microsoft/wavlm-large.
    'required': {'model.weights': 'DIR'},
  },
  'emotale': {'arg': 'encoder=logmel', 'title': 'EmoTale, light encoder'},
  'demo': {'arg': 'encoder=logmel', 'title': 'demo corpus'},
}
TABLES = {
  'components': 'components',
  'loss': 'region loss',
  'regions': 'number of regions',
}
ATTENTIVE = 'pooling=attentive_statistics'
# Name -> (label, argument of the recipe, tables in which it stands).
VARIANTS = {
  'whole': ('EmoSphere-SER, 8 regions', '', ('components', 'loss', 'regions')),
  'attentive': ('attentive statistics pooling', ATTENTIVE, ('components',)),
  'no-region': ('without region loss', 'region_weight=off', ('components',)),
  'baseline': (
    'attentive statistics, without region loss',
    f'{ATTENTIVE},region_weight=off',
    ('components',),
  ),
  'constant': ('constant region weight', 'region_weight=constant', ('loss',)),
  'categories': ('categories as auxiliary', 'auxiliary=categories', ('loss',)),
  'unweighted': ('unweighted region loss', 'weighted=false', ('loss',)),
  'regions-180': ('2 regions (180 degrees)', 'regions=180', ('regions',)),
  'regions-90': ('8 regions (90 degrees)', 'regions=90', ('regions',)),
  'regions-60': ('18 regions (60 degrees)', 'regions=60', ('regions',)),
  'regions-45': ('32 regions (45 degrees)', 'regions=45', ('regions',)),
  'regions-30': ('72 regions (30 degrees)', 'regions=30', ('regions',)),
}
# The paper removes these three items one after another, and keeps utterances
# without agreement on a category from the first on.
ALL_ROWS = {
  'all-rows': ('no-agreement items kept', ''),
  'all-rows-attentive': ('and attentive statistics pooling', ATTENTIVE),
  'all-rows-baseline': (
    'and without region loss (baseline)',
    f'{ATTENTIVE},region_weight=off',
  ),
}
ON_REQUEST = (
  'needs a store prepared with --rows=all in another --data_dir; give that '
  '--data_dir and name the cell with --only'
)
# CCC of valence, arousal, dominance and their mean on MSP-Podcast.
PAPER = {
  'whole': (0.6952, 0.7482, 0.6220, 0.6884),
  'all-rows': (0.6953, 0.7447, 0.6166, 0.6855),
  'all-rows-attentive': (0.6908, 0.7456, 0.6192, 0.6852),
  'all-rows-baseline': (0.6845, 0.7349, 0.6210, 0.6801),
  'constant': (0.6951, 0.7405, 0.6267, 0.6875),
  'categories': (0.6912, 0.7342, 0.6281, 0.6845),
  'unweighted': (0.6968, 0.7352, 0.6308, 0.6876),
  'regions-60': (0.6962, 0.7376, 0.6250, 0.6863),
  'regions-45': (0.6833, 0.7385, 0.6204, 0.6808),
}
METRICS = ('ccc_valence', 'ccc_arousal', 'ccc_dominance', 'ccc_mean')


def _cell(corpus, name, label, variant, tables, **more):
  setting = SETTINGS[corpus]
  paper = PAPER.get(name, ()) if corpus == 'msp_podcast' else ()
  return spec.Cell(
    name=f'{corpus}-{name}',
    label=label,
    config='configs/emosphere.py',
    arg=','.join(filter(None, (f'corpus={corpus}', setting['arg'], variant))),
    figures=tuple(
      spec.Figure(
        group=f'{setting["title"]}: {TABLES[table]}',
        selection='best_on_dev',
        paper=dict(zip(METRICS, paper, strict=False)),
        source='Cho et al. 2025' if paper else '',
      )
      for table in tables
    ),
    baseline='' if name == 'whole' else f'{corpus}-whole',
    required=setting.get('required', {}),
    **more,
  )


def _cells(corpus):
  protocol = 'published' if corpus == 'msp_podcast' else 'speaker_independent'
  return (
    *(_cell(corpus, name, *variant) for name, variant in VARIANTS.items()),
    linear_baseline(
      f'{corpus}-linear',
      f'corpus={corpus},protocol={protocol},task=vad',
      f'{SETTINGS[corpus]["title"]}: {TABLES["components"]}',
      baseline=f'{corpus}-whole',
    ),
  )


TABLE = spec.Table(
  title='EmoSphere-SER: components, region loss, regions',
  about=(
    'Paper: Cho, Oh, Kim and Lee, Interspeech 2025, 4653-4657, arXiv '
    '2505.19693. Its 8 regions are sign octants. MSP-Podcast grows with its '
    "releases: compare on the paper's release only.",
    'Its validation and test sets are cut from the validation split at random, '
    'by a seed that it does not give; another cut moves scores a little.',
  ),
  metrics=METRICS,
  tolerance=dict.fromkeys(METRICS, 0.02),
  cells=(
    *_cells('msp_podcast'),
    *(
      _cell(
        'msp_podcast',
        name,
        *variant,
        ('components',),
        on_request=ON_REQUEST,
      )
      for name, variant in ALL_ROWS.items()
    ),
    *_cells('emotale'),
  ),
  demo=_cells('demo'),
)
