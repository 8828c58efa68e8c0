"""DSNet against its baselines (Chen and Zhang, 2026, arXiv 2312.15593).

  python -m jaxser.tables configs/tables/dsnet_comparison.py --workdir=W
  ... --only=emodb-dsnet,emodb-encoder        these two only
  ... --demo                                  on the demo corpus, size=tiny

Leave one speaker out with the paired development speaker, each system with the
epochs and clipping of the authors' code: DSNet, DSNet without each of its three
extra losses, and its baselines, each against the plain encoder on the same
utterances. Features: `python -m data_prep --features=kaldi16k`.

The paper's result tables could not be had, so no figure stands beside.
"""

from jaxser.report.tables import spec

CORPORA = (
  *('emodb', 'ravdess', 'savee', 'emovo'),
  *('casia', 'emotale', 'iemocap', 'msp_improv'),
)
# Name -> what people read, argument of the recipe.
VARIANTS = {
  'encoder': ('plain encoder', 'variant=encoder'),
  'dsnet': ('DSNet', 'variant=dsnet'),
  'no-calibration': ('DSNet without calibration', 'without=calibration'),
  'no-orthogonality': ('DSNet without orthogonality', 'without=orthogonality'),
  'no-reconstruction': (
    'DSNet without reconstruction',
    'without=reconstruction',
  ),
  'dat': ('DAT, training speakers', 'variant=dat'),
  'dat-all': (
    'DAT, transductive: trained on test speech',
    'variant=dat,dat_speakers=all',
  ),
  'isnet': ('ISNet', 'variant=isnet'),
  'dsc': ('DSC, neutral test speech given', 'variant=dsc'),
  'menan': ('MEnAN', 'variant=menan'),
}


def _cell(corpus, name):
  label, arg = VARIANTS[name]
  return spec.Cell(
    name=f'{corpus}-{name}',
    label=label,
    config='configs/dsnet.py',
    arg=f'corpus={corpus},{arg}',
    figures=(
      spec.Figure(
        group=f'{corpus}, best epoch on the development speaker',
        selection='best_on_dev',
      ),
    ),
    baseline='' if name == 'encoder' else f'{corpus}-encoder',
  )


def _linear_baseline(corpus):
  return spec.Cell(
    name=f'{corpus}-baseline',
    label='linear baseline',
    config='configs/baseline.py',
    arg=f'corpus={corpus}',
    figures=(
      spec.Figure(
        group=f'{corpus}, best epoch on the development speaker',
        selection='last',  # It has no epochs; C was chosen on that speaker.
      ),
    ),
    baseline=f'{corpus}-encoder',
  )


def _cells(corpus):
  return (*(_cell(corpus, name) for name in VARIANTS), _linear_baseline(corpus))


TABLE = spec.Table(
  title='DSNet and its baselines, leave one speaker out',
  about=(
    'Paper: Chen and Zhang, J. Shanghai Jiaotong Univ. (Sci.) 31(2), 2026, '
    'arXiv 2312.15593. Its result tables could not be had: these are '
    'measurements only, all under one protocol.',
  ),
  metrics=('uar', 'war', 'f1'),
  cells=tuple(cell for corpus in CORPORA for cell in _cells(corpus)),
  demo=_cells('demo'),
)
