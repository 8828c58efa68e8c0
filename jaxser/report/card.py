"""MODEL_CARD.md: what a trained model is, made from what, and how good."""

import pathlib
from typing import Any

from data_prep import corpora
from jaxser.core import files
from jaxser.evaluation import results
from jaxser.evaluation.predictions import PathLike, PredictionsError
from jaxser.report import pages
from jaxser.systems import registry

NAME = 'MODEL_CARD.md'


def write(workdir: PathLike, baseline: PathLike | None = None) -> pathlib.Path:
  """Writes the card of a finished run, beside a baseline; returns its path."""
  workdir = pathlib.Path(workdir)
  try:
    model, config, folds = (
      files.read_json(workdir / f'{name}.json')
      for name in ('model', 'config', 'folds')
    )
  except OSError as error:
    raise PredictionsError(
      f'{error.filename}: {error.strerror}; a card needs the whole work folder '
      'of a run'
    ) from error
  size = workdir / 'parameters.txt'
  used = [fold for fold in folds['folds'] if fold['fold'] in model['folds']]
  own = _results(workdir) if (workdir / 'results.json').exists() else None
  earlier = (
    _results(config['epochs_from']) if config.get('epochs_from') else None
  )
  linear = _results(baseline) if baseline else None
  if linear:
    for name in ('corpus', 'protocol', 'utterances', 'metrics'):
      tested = (earlier or own or {}).get(name)
      if tested != linear[name]:
        raise PredictionsError(
          f'{baseline} is no baseline of {workdir}: its {name} is {linear[name]}, '
          f'not {tested}; name a run with the same tests.'
        )
  text = pages.render(
    'model_card.md',
    model=model,
    config=config,
    task=registry.find(model['system']).task,
    trained_on=sorted({len(fold['train']) for fold in used}),
    tested=any(fold['test'] for fold in used),
    size=size.read_text('utf-8').splitlines()[-1] if size.exists() else '',
    corpora=corpora.CORPORA,
    own=own,
    earlier=earlier,
    baseline=linear,
  )
  files.write_text(workdir / NAME, text + '\n')
  return workdir / NAME


def _results(workdir: PathLike) -> dict[str, Any]:
  return results.read_results(pathlib.Path(workdir, 'results.json'))
