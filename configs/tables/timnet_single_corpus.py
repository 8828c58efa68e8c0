"""TIM-Net on six corpora (Ye et al., ICASSP 2023, Table 1).

  python -m jaxser.tables configs/tables/timnet_single_corpus.py --workdir=W

Ten random folds as published, 500 epochs, read in two ways: the epoch that is
best on the test fold (the paper's table) and the last one (the correction that
the authors published in 2023). Beside them what the paper does not give: every
speaker tested by a network that never heard that speaker, and a linear baseline
on the same folds (configs/baseline.py, --features=kaldi16k).
"""

from configs import timnet
from configs.tables import linear_baseline
from jaxser.report.tables import spec

CORPORA = ('casia', 'emodb', 'emovo', 'iemocap', 'ravdess', 'savee')
PUBLISHED = {
  'best_on_test': 'published folds, best epoch on the test fold (optimistic)',
  'last': 'published folds, last epoch',
}
SPEAKER_INDEPENDENT = {
  'best_on_dev': 'speaker-independent, best epoch on the development speaker',
  'last': 'speaker-independent, last epoch',
}


def _cell(corpus, protocol, groups):
  rows = timnet.paper_rows(corpus) if protocol == 'published' else {}
  rows = {selection: rows.get(selection, {}) for selection in groups}
  figures = [
    spec.Figure(
      group=groups[selection],
      selection=selection,
      paper={k: v for k, v in row.items() if k in ('uar', 'war')},
      source=row.get('source', ''),
      incomparable=row.get('reason', ''),
    )
    for selection, row in rows.items()
  ]
  return spec.Cell(
    name=f'{corpus}-{protocol}',
    label=corpus if corpus == 'demo' else corpus.upper(),
    config='configs/timnet.py',
    arg=f'corpus={corpus},protocol={protocol}',
    figures=tuple(figures),
  )


def _linear(corpus, protocol, folds):
  return linear_baseline(
    f'{corpus}-{protocol}-baseline',
    f'corpus={corpus},protocol={protocol}',
    f'{folds}, linear baseline',
    label=corpus if corpus == 'demo' else corpus.upper(),
    incomparable=(
      timnet.SAVEE_ORDER if (corpus, protocol) == ('savee', 'published') else ''
    ),
  )


def _cells(corpus):
  return (
    _cell(corpus, 'published', PUBLISHED),
    _linear(corpus, 'published', 'published folds'),
    _cell(corpus, 'speaker_independent', SPEAKER_INDEPENDENT),
    _linear(corpus, 'speaker_independent', 'speaker-independent'),
  )


TABLE = spec.Table(
  title='TIM-Net, one corpus',
  about=(
    'Paper: Ye et al., ICASSP 2023, arXiv 2211.08233. The paper pools its ten '
    'folds. It gives no spread over seeds; the tolerance of two points was '
    'chosen before anything was measured.',
  ),
  metrics=('uar', 'war'),
  tolerance={'uar': 2.0, 'war': 2.0},
  cells=tuple(cell for corpus in CORPORA for cell in _cells(corpus)),
  demo=_cells('demo'),
)
