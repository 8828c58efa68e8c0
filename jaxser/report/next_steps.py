"""What a person can do after a run."""

import os
import shlex

import ml_collections


def next_steps(
  config: ml_collections.ConfigDict, workdir: os.PathLike[str] | str
) -> str:
  """Returns where the results are, and commands that use them.

  Args:
    config: of the run; after the demo corpus, a real one follows.
    workdir: of the run.
  """
  weights = ' --weights=DIR' if config.features.name == 'wavlm' else ''
  lines = [
    f'Results: {workdir}/results.json, predictions.jsonl and report.html',
    'To predict recordings:',
    f'  python -m jaxser.predict --checkpoint={shlex.quote(str(workdir))}'
    f'{weights} FILE.wav',
  ]
  if config.corpus == 'demo':
    # One with the labels that the system learns.
    corpus = 'emotale' if config.system == 'emosphere' else 'emodb'
    lines += [
      'The same on a real corpus:',
      f'  python -m data_prep --corpus={corpus} --audio_dir=DIR '
      f'--features={config.features.name}',
      f'  python -m jaxser.main --config={config.system}:corpus={corpus}',
    ]
  return '\n'.join(lines)
