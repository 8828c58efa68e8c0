"""The folds of EmoBox (Ma et al., arXiv 2406.07162).

  python -m jaxser.tables configs/tables/emobox.py --workdir=W \\
      --set=emobox_dir=EmoBox/data

TIM-Net and the linear baseline on the folds of EmoBox, beside its leaderboard
of frozen speech encoders with a light head. EmoBox/data is that folder of
github.com/emo-box/EmoBox.
"""

from configs.tables import linear_baseline
from jaxser.report.tables import spec

ENCODERS = ('Whisper-large-v3', 'WavLM-large', 'WavLM-base')
# UA in per cent, in the order of ENCODERS.
LEADERBOARD = {
  'casia': (59.58, 52.12, 47.25),
  'emovo': (57.82, 48.82, 42.39),
  'ravdess': (75.32, 72.00, 61.56),
  'savee': (None, None, 63.57),
  'iemocap': (73.54, 69.47, 62.92),
  'emodb': (91.26, 92.58, 87.03),
  'crema_d': (76.75, 74.50, 69.64),
}
NEEDS = {'emobox_dir': 'EmoBox/data'}


def _group(corpus):
  shared = corpus in ('emodb', 'crema_d')
  return corpus.upper() + (', speakers trained on and tested' * shared)


def _cells(corpus):
  arg, group = f'corpus={corpus},protocol=emobox', _group(corpus)
  return (
    *(
      linear_baseline(
        f'{corpus}-{features}',
        f'{arg},features={features}',
        group,
        label=f'linear baseline, {features}',
        required=NEEDS,
      )
      for features in ('functionals', 'egemaps')
    ),
    spec.Cell(
      name=f'{corpus}-timnet',
      label='TIM-Net',
      config='configs/timnet.py',
      arg=arg,
      figures=(spec.Figure(group=group, selection='last'),),
      required=NEEDS,
      baseline=f'{corpus}-functionals',
    ),
  )


TABLE = spec.Table(
  title='The folds of EmoBox',
  about=(
    'Published: leaderboard 1 of June 2024, encoders that were trained on much '
    'other speech and are frozen. jaxser trains on the corpus alone. EmoBox has '
    'no development split: one is cut from each training split.',
  ),
  metrics=('uar', 'war'),
  cells=tuple(cell for corpus in LEADERBOARD for cell in _cells(corpus)),
  published=tuple(
    spec.Published(_group(corpus), encoder, {'uar': figure}, 'EmoBox, UA')
    for corpus, figures in LEADERBOARD.items()
    for encoder, figure in zip(ENCODERS, figures, strict=True)
    if figure
  ),
)
