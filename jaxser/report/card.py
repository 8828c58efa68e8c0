"""MODEL_CARD.md: what a trained model is, made from what, and how good."""

import os
import pathlib

from data_prep import corpora
from jaxser.core import files
from jaxser.evaluation import results
from jaxser.report import pages
from jaxser.systems import registry

NAME = 'MODEL_CARD.md'


def write(workdir: os.PathLike[str] | str) -> pathlib.Path:
  """Writes the card of a finished run; returns its path.

  Raises:
    PredictionsError: the results of the run that config.epochs_from names, from
      which the card quotes, cannot be read.
  """
  workdir = pathlib.Path(workdir)
  model, config, folds = (
    files.read_json(workdir / f'{name}.json')
    for name in ('model', 'config', 'folds')
  )
  own, size = workdir / 'results.json', workdir / 'parameters.txt'
  earlier = config.get('epochs_from')
  used = [fold for fold in folds['folds'] if fold['fold'] in model['folds']]
  licences = {
    name: corpora.CORPORA[name].licence
    for name in model['stores']
    if name in corpora.CORPORA
  }
  text = pages.render(
    'model_card.md',
    model=model,
    config=config,
    task=registry.find(model['system']).task,
    trained_on=sorted({len(fold['train']) for fold in used}),
    tested=any(fold['test'] for fold in used),
    size=size.read_text('utf-8').splitlines()[-1] if size.exists() else '',
    licences=licences,
    own=results.read_results(own) if own.exists() else None,
    earlier=results.read_results(pathlib.Path(earlier, 'results.json'))
    if earlier
    else None,
  )
  files.write_text(workdir / NAME, text)
  return workdir / NAME
