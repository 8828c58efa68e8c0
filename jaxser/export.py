"""python -m jaxser.export: a trained model for programs without jaxser.

Examples:
  python -m jaxser.export --checkpoint=W --out=model.stablehlo
      All folds and seeds of a run as one function: features and lengths in,
      probabilities (or valence, arousal, dominance) out, for any batch size.
      Any program with JAX can call it, see docs/export.md.
  python -m jaxser.export --checkpoint=W --out=model.stablehlo --with_features
      From the waveform: the log-mel of TIM-Net is part of the function.
  python -m jaxser.export --checkpoint=W --out=weights.safetensors \\
      --format=safetensors --fold=3
      The parameters of one fold by name.

Beside the file lies FILE.json: inputs, outputs, classes, and the features with
all of their parameters.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxser.models import options as member_options

FORMATS = ('stablehlo', 'safetensors')
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def function(
  description: Any, members: Sequence[Any], with_features: bool
) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
  """The ensemble as one pure function, and its inputs.

  Args:
    description: from `jaxser.models.saved.open`.
    members: from `jaxser.models.ensemble.load`.
    with_features: whether it starts with the waveform.

  Returns:
    A function of the inputs; and for each its name, shape without the batch,
    type and meaning.

  Raises:
    ModelError: if the features cannot be computed on the device.
  """
  import jax
  import jax.numpy as jnp

  from jaxser.data import pipeline
  from jaxser.models.weights import ModelError
  from jaxser.ops.log_mel import log_mel

  convention, system = description.convention, description.system
  answer = 'vad' if system.task == 'regression' else 'scores'
  own = convention.parameters()

  def network(features, length):
    rows = features.shape[0]
    batch = {
      'features': features,
      'length': length,
      'label': jnp.full((rows,), -1, jnp.int32),
      'vad': jnp.zeros((rows, 3)),
      'mask': jnp.ones((rows,)),
      'speaker': jnp.full((rows,), -1, jnp.int32),
      'row': jnp.arange(rows, dtype=jnp.int32),
    }
    said = [
      system.predict(*jax.tree.map(jnp.asarray, (m.params, m.state)), batch)
      for m in members
    ]
    total = functools.reduce(jnp.add, [out[answer] for out in said])
    return {answer: (total / len(members)).astype(jnp.float32)}

  length = {
    'name': 'length',
    'shape': [],
    'dtype': 'int32',
    'meaning': 'how much of each row is speech; the rest is padded with 0',
  }
  if not with_features:
    bins = convention.bins
    features = {
      'name': 'features',
      'shape': [description.max_length, *([bins] if bins else [])],
      'dtype': 'float32',
      'meaning': f'{convention.name} features, see "features"',
    }
    return network, [features, length]
  signal = {
    'name': 'signal',
    'dtype': 'float32',
    'meaning': f'mono waveform at {convention.sample_rate} Hz, full scale 1',
  }
  if convention.name == 'librosa22k':
    settings = ('sample_rate', 'fft_length', 'hop_length', 'bins', 'floor')

    def from_signal(signal):
      features = log_mel(
        signal, range_db=own['range_db'], **{n: own[n] for n in settings}
      )
      frames = jnp.full((features.shape[0],), features.shape[1], jnp.int32)
      return network(features, frames)

    signal['shape'] = [convention.signal_length]
    signal['meaning'] += ', cut or zero padded about its centre'
    return from_signal, [signal]
  if convention.bins is None:

    def from_wave(signal, length):
      inside = jnp.arange(signal.shape[1])[None, :] < length[:, None]
      wave = pipeline.normalized(signal, description.normalization)
      return network(jnp.where(inside, wave, 0), length)

    signal['shape'] = [description.max_length]
    return from_wave, [signal, length]
  raise ModelError(
    f'{description.path}: --with_features cannot compute {convention.name}; '
    'leave it out and give the function features of data_prep.'
  )


def to_stablehlo(
  description: Any,
  members: Sequence[Any],
  *,
  batch: int = 0,
  with_features: bool = False,
  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'),
) -> tuple[bytes, dict[str, Any]]:
  """The ensemble, serialised by `jax.export`.

  Args:
    description: from `jaxser.models.saved.open`.
    members: from `jaxser.models.ensemble.load`.
    batch: rows; 0 leaves the number open.
    with_features: whether it starts with the waveform.
    platforms: that it can run on.

  Returns:
    What `jax.export.deserialize` reads, and the content of FILE.json.

  Raises:
    ModelError: if the features cannot be computed on the device.
  """
  import jax
  from jax import export

  run, inputs = function(description, members, with_features)
  rows = batch or export.symbolic_shape('batch')[0]
  shapes = [
    jax.ShapeDtypeStruct((rows, *i['shape']), np.dtype(i['dtype']))
    for i in inputs
  ]
  exported = export.export(jax.jit(run), platforms=list(platforms))(*shapes)
  data = bytes(exported.serialize())
  about = describe(description, members)
  for entry in inputs:
    entry['shape'] = [batch or 'batch', *entry['shape']]
  name, width = 'scores', len(description.classes)
  meaning = 'probabilities in the order of "classes"'
  if description.system.task == 'regression':
    name, width = 'vad', 3
    meaning = 'valence, arousal, dominance on "vad_range"'
  return data, {
    **about,
    'jax': jax.__version__,
    'platforms': list(platforms),
    'calling_convention_version': exported.calling_convention_version,
    'inputs': inputs,
    'outputs': [
      {
        'name': name,
        'shape': [batch or 'batch', width],
        'dtype': 'float32',
        'meaning': meaning,
      }
    ],
    'sha256': hashlib.sha256(data).hexdigest(),
  }


def describe(description: Any, members: Sequence[Any]) -> dict[str, Any]:
  """What both formats say about the model."""
  kept = ('jaxser', 'system', 'settings', 'classes', 'vad_range', 'features')
  content = {name: description.content[name] for name in kept}
  return {
    **content,
    'normalization': description.content['normalization'],
    'max_length': description.max_length,
    'corpus': description.content['corpus'],
    'members': [member.training._asdict() for member in members],
  }


def to_tree(members: Sequence[Any]) -> dict[str, Any]:
  """Parameters and state of one member, or of each under its run's name."""
  from jaxser.evaluation import curves

  trees = {
    curves.run_name(m.training.seed, m.training.fold): {
      'params': m.params,
      'state': m.state,
    }
    for m in members
  }
  return next(iter(trees.values())) if len(trees) == 1 else trees


def parser() -> argparse.ArgumentParser:
  """The command line."""
  made = argparse.ArgumentParser(
    prog='python -m jaxser.export',
    usage='python -m jaxser.export --checkpoint=W --out=FILE [options]',
    description=__doc__.partition('\n')[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = made.add_argument
  add('--checkpoint', metavar='W', help='work folder of a training run')
  add('--out', metavar='FILE', help='what to write')
  add('--format', default='stablehlo', help='stablehlo (default), safetensors')
  add(
    '--batch', type=int, default=0, metavar='N', help='rows; default any number'
  )
  add('--with_features', action='store_true', help='start with the waveform')
  add(
    '--platforms',
    default='cpu,cuda,tpu',
    help='where it shall run; default cpu,cuda,tpu',
  )
  member_options.add_to(made)
  return made


def main(arguments: Sequence[str] | None = None) -> int:
  """Exports; returns the exit code."""
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  made = parser()
  if not arguments:
    made.print_help()
    return 0
  options = made.parse_args(arguments)
  problem = _problem(options)
  if problem:
    return _fail(problem)
  # Imported late, so that --help is quick.
  from jaxser.core import files, runtime
  from jaxser.models import ensemble as members_lib
  from jaxser.models import saved as models_lib
  from jaxser.models import weights

  runtime.quiet_without_tpu()
  out = pathlib.Path(options.out)
  try:
    description = models_lib.open(options.checkpoint)
    if description.hears_hidden_states:
      return _fail(
        f'{description.path}: this model hears hidden states of a WavLM, which '
        'is no part of it, so it cannot be exported; use `python -m '
        'jaxser.predict --weights=DIR`, or train with --config=configs/'
        'emosphere.py:encoder=wavlm,weights=DIR, which exports with its WavLM.'
      )
    chosen = member_options.choose(options, description)
    members = members_lib.load(description, chosen)
    if options.format == 'safetensors':
      about = describe(description, members)
      weights.write(out, to_tree(members), {'model': json.dumps(about)})
    else:
      data, about = to_stablehlo(
        description,
        members,
        batch=options.batch,
        with_features=options.with_features,
        platforms=options.platforms.split(','),
      )
      files.write_bytes(out, data)
    files.write_json(f'{out}.json', about)
  except weights.ModelError as error:
    return _fail(str(error))
  except OSError as error:
    return _fail(f'{out} cannot be written ({error}); give another --out.')
  print(
    f'{out} ({out.stat().st_size} bytes, {len(members)} members) and {out}.json'
  )
  return 0


def _problem(options: argparse.Namespace) -> str:
  """What is wrong with the command line, '' if nothing is."""
  if not options.checkpoint:
    return 'give --checkpoint=W, the --workdir of a run of jaxser.main.'
  if not options.out:
    return 'give --out=FILE, such as --out=model.stablehlo.'
  if options.format not in FORMATS:
    return (
      f'--format={options.format} is not valid; choose one of '
      f'{", ".join(FORMATS)}.'
    )
  if options.batch < 0:
    return f'--batch={options.batch} must be at least 1.'
  unknown = set(options.platforms.split(',')) - {*PLATFORMS}
  if unknown:
    return (
      f'--platforms={options.platforms} is not valid; choose from '
      f'{",".join(PLATFORMS)}.'
    )
  return member_options.problem(options)


def _fail(message: str) -> int:
  print(f'Error: {message} See --help.', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main())
