"""TIM-Net on six corpora (Ye et al., ICASSP 2023, Table 1).

  python -m jaxser.tables configs/tables/timnet_single_corpus.py --workdir=W

Ten random folds as published, 500 epochs, read in two ways: the epoch that is
best on the test fold (the paper's table) and the last one (the correction that
the authors published in 2023). Beside them what the paper does not give: every
speaker tested by a network that never heard that speaker.
"""

from jaxser.report.tables import spec

# UAR and WAR in per cent.
PAPER = {
  'best_on_test': {
    'casia': (94.67, 94.67),
    'emodb': (95.17, 95.70),
    'emovo': (92.00, 92.00),
    'iemocap': (72.50, 71.65),
    'ravdess': (91.93, 92.08),
    'savee': (86.31, 87.71),
  },
  'last': {
    'casia': (91.08, 91.08),
    'emodb': (89.19, 90.28),
    'ravdess': (90.04, 90.07),
    'savee': (77.26, 79.36),
  },
}
SOURCES = {
  'best_on_test': 'Ye et al. 2023, Table 1',
  'last': "authors' correction of August 2023",
}
GROUPS = {
  'best_on_test': 'published folds, best epoch on the test fold (optimistic)',
  'last': 'published folds, last epoch',
}
LABELS = {
  'casia': 'CASIA',
  'emodb': 'EMODB',
  'emovo': 'EMOVO',
  'iemocap': 'IEMOCAP',
  'ravdess': 'RAVDESS',
  'savee': 'SAVEE',
  'demo': 'demo',
}


def _published(selection, corpus):
  paper = PAPER[selection].get(corpus, ())
  return spec.Figure(
    group=GROUPS[selection],
    selection=selection,
    paper=dict(zip(('uar', 'war'), paper, strict=False)),
    source=SOURCES[selection] if paper else '',
  )


def _cells(corpus):
  common = {'label': LABELS[corpus], 'config': 'configs/timnet.py'}
  return (
    spec.Cell(
      name=f'{corpus}-published',
      arg=f'corpus={corpus},protocol=published',
      figures=tuple(_published(name, corpus) for name in GROUPS),
      **common,
    ),
    spec.Cell(
      name=f'{corpus}-speaker_independent',
      arg=f'corpus={corpus},protocol=speaker_independent',
      figures=(
        spec.Figure(
          group='speaker-independent, best epoch on the development speaker',
          selection='best_on_dev',
        ),
        spec.Figure(group='speaker-independent, last epoch', selection='last'),
      ),
      **common,
    ),
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
  cells=tuple(
    cell
    for corpus in ('casia', 'emodb', 'emovo', 'iemocap', 'ravdess', 'savee')
    for cell in _cells(corpus)
  ),
  demo=_cells('demo'),
)
