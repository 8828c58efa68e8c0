"""Ablations of TIM-Net (Ye et al., ICASSP 2023, Table 2).

  python -m jaxser.tables configs/tables/timnet_ablation.py --workdir=W

Published folds and 500 epochs, the epoch that is best on the test fold: the
whole network, a plain TCN instead, the forward direction only, only the last
block, and the mean of the blocks instead of learned weights; and a linear
baseline on the same folds.
"""

from configs.tables import linear_baseline
from configs.timnet import SAVEE_ORDER
from jaxser.report.tables import spec

LABELS = {
  'none': 'TIM-Net',
  'tcn': 'plain TCN',
  'forward_only': 'without bidirectional (w/o BD)',
  'last_scale': 'without multi-scale (w/o MS)',
  'mean_fusion': 'without dynamic fusion (w/o DF)',
}
# UAR and WAR in per cent, in the order of LABELS.
PAPER = """
casia    94.67 94.67  86.92 86.92  91.33 91.33  90.50 90.50  91.83 91.83
emodb    95.17 95.70  89.68 90.09  90.96 91.59  91.80 92.52  91.46 92.34
emovo    92.00 92.00  82.14 82.14  86.73 86.73  87.24 87.24  86.56 86.56
iemocap  72.50 71.65  61.97 59.84  71.07 70.22  70.68 70.04  70.82 69.82
ravdess  91.93 92.08  83.20 83.75  88.48 88.68  89.97 90.21  87.50 87.99
savee    86.31 87.71  78.81 80.63  80.95 83.33  82.50 84.38  80.95 82.92
"""


def _group(corpus):
  return f'{corpus.upper()}, best epoch on the test fold (optimistic)'


def _cell(corpus, ablation, paper):
  return spec.Cell(
    name=f'{corpus}-{ablation}',
    label=LABELS[ablation],
    config='configs/timnet.py',
    arg=f'corpus={corpus},protocol=published,ablation={ablation}',
    figures=(
      spec.Figure(
        group=_group(corpus),
        selection='best_on_test',
        paper=paper,
        source='Ye et al. 2023, Tables 1 and 2' if paper else '',
        incomparable=SAVEE_ORDER if corpus == 'savee' else '',
      ),
    ),
    baseline='' if ablation == 'none' else f'{corpus}-none',
  )


def _linear(corpus):
  return linear_baseline(
    f'{corpus}-baseline',
    f'corpus={corpus},protocol=published',
    _group(corpus),
    label='linear baseline, fitted',
    incomparable=SAVEE_ORDER if corpus == 'savee' else '',
  )


CORPORA = [line.split() for line in PAPER.strip().splitlines()]

TABLE = spec.Table(
  title='TIM-Net, ablations',
  about=(
    'Paper: Ye et al., ICASSP 2023, arXiv 2211.08233. The paper pools its ten '
    'folds. It gives no spread over seeds; the tolerance of two points was '
    'chosen before anything was measured.',
  ),
  metrics=('uar', 'war'),
  tolerance={'uar': 2.0, 'war': 2.0},
  cells=(
    *(
      _cell(corpus, name, {'uar': float(uar), 'war': float(war)})
      for corpus, *row in CORPORA
      for name, uar, war in zip(LABELS, row[::2], row[1::2], strict=True)
    ),
    *(_linear(corpus) for corpus, *_ in CORPORA),
  ),
  demo=(*(_cell('demo', name, {}) for name in LABELS), _linear('demo')),
)
