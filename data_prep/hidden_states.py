"""`--features=wavlm`: the waveforms here, their hidden states by a program.

Running a network needs JAX, which preparing audio does not. So this package
prepares the waveforms and then starts `python -m jaxser.models.hidden_states`, as one
could by hand.
"""

import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import data_prep
from data_prep import prepare
from data_prep.manifest import CorpusError

NAME = 'wavlm'


def prepare_corpus(
  corpus: str,
  audio_dir: str | os.PathLike[str] | None = None,
  *,
  weights: str | os.PathLike[str] | None,
  layer: int = -1,
  data_dir: str | os.PathLike[str] | None = None,
  overwrite: bool = False,
  report: Callable[[str], object] = print,
  **options: Any,
) -> None:
  """Prepares waveforms, then the hidden states of a WavLM over them.

  Args:
    corpus: see `prepare.prepare_corpus`; so are the others.
    audio_dir: folder of the corpus.
    weights: folder of a Hugging Face WavLM.
    layer: whose output is kept, from 1; -1 is the last.
    data_dir: where stores lie.
    overwrite: extract anew.
    report: called with each line for the user.
    **options: of `prepare.prepare_corpus`.

  Raises:
    CorpusError: without weights, or if the program fails; it has said why.
    AudioError, StoreError, WorkerError: see `prepare.prepare_corpus`.
  """
  if not weights or not pathlib.Path(weights).is_dir():
    raise CorpusError(
      f'--weights={weights or ""}: --features={NAME} needs the folder of a '
      'Hugging Face WavLM, with config.json and model.safetensors.'
    )
  data_dir = pathlib.Path(data_dir or data_prep.default_data_dir())
  data_dir = data_dir.expanduser().absolute()
  prepare.prepare_corpus(
    corpus,
    audio_dir,
    features='wave16k',
    data_dir=data_dir,
    overwrite=overwrite,
    report=lambda line: None if line.startswith('Next:') else report(line),
    **options,
  )
  command = [sys.executable, '-m', 'jaxser.models.hidden_states']
  command += [f'--corpus={corpus}', f'--data_dir={data_dir}']
  command += [f'--weights={weights}', f'--layer={layer}']
  command += ['--overwrite'] if overwrite else []
  # The program writes on its own; what was said before must stand above.
  sys.stdout.flush()
  status = subprocess.run(command, check=False).returncode
  if status:
    raise CorpusError(
      f'the hidden states were not prepared (see above, exit status {status}); '
      f'the waveforms are. Again: {shlex.join(["python", *command[1:]])}'
    )
