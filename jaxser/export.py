"""python -m jaxser.export: a trained model for programs without jaxser.

Without --checkpoint it is the model that comes with jaxser.

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

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from data_prep import command_line
from jaxser.models import options

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
# What FILE.json says of model.json.
_KEPT = (
  *('jaxser', 'system', 'settings', 'classes', 'vad_range', 'features'),
  *('normalization', 'max_length', 'corpus'),
)

FLAGS = flags.FlagValues()
options.define(FLAGS)
command_line.define_path('out', None, 'File to be written.', FLAGS)
_formats = ['stablehlo', 'safetensors']
flags.DEFINE_enum(
  'format', 'stablehlo', _formats, 'Function or arrays.', flag_values=FLAGS
)
flags.DEFINE_integer(
  'batch', 0, 'Rows; 0 allows any number.', lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_boolean(
  'with_features', False, 'Start with the waveform.', flag_values=FLAGS
)
flags.DEFINE_list(
  'platforms',
  'cpu,cuda,tpu',
  f'Where the function shall run: {", ".join(PLATFORMS)}.',
  flag_values=FLAGS,
)


def function(
  model: Any, with_features: bool
) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
  """Returns the ensemble as one pure function, and what its inputs are."""
  import jax.numpy as jnp

  from jaxser.data import pipeline
  from jaxser.models.weights import ModelError
  from jaxser.ops.log_mel import log_mel

  description = model.description
  spec, longest = description.feature_spec, description.max_length

  def network(features, length):
    found = model.program(features, length)
    return {n: jnp.mean(found[n], 0) for n in found if n != 'embedding'}

  def from_log_mel(signal):
    features = log_mel(signal, spec)
    frames = jnp.full((features.shape[0],), features.shape[1], jnp.int32)
    return network(features, frames)

  def from_wave(signal, length):
    inside = jnp.arange(signal.shape[1])[None, :] < length[:, None]
    wave = pipeline.normalized(signal, description.normalization)
    return network(jnp.where(inside, wave, 0), length)

  meaning = 'how much of each row is speech; the rest is padded with 0'
  length = _described('length', meaning, dtype='int32')
  if not with_features:
    shape = (longest, spec.bins) if spec.bins else (longest,)
    meaning = f'{spec.name} features, see "features"'
    return network, [_described('features', meaning, *shape), length]
  meaning = f'mono waveform at {spec.sample_rate} Hz, full scale 1'
  if spec.name == 'librosa22k':
    meaning += ', cut or zero padded about its centre'
    return from_log_mel, [_described('signal', meaning, spec.signal_length)]
  if spec.bins is None:
    return from_wave, [_described('signal', meaning, longest), length]
  raise ModelError(
    f'{description.path}: --with_features cannot compute {spec.name}; leave it '
    'out and give the function features of data_prep.'
  )


def _described(
  name: str, meaning: str, *shape: Any, dtype: str = 'float32'
) -> dict[str, Any]:
  return {'name': name, 'shape': shape, 'dtype': dtype, 'meaning': meaning}


def to_stablehlo(model: Any) -> tuple[bytes, dict[str, Any]]:
  """Returns the ensemble, serialised by `jax.export`, and what FILE.json adds."""
  import jax
  from jax import export

  run, inputs = function(model, FLAGS.with_features)
  batch = FLAGS.batch or 'batch'
  rows, shapes = FLAGS.batch or export.symbolic_shape('batch')[0], []
  for entry in inputs:
    shape = rows, *entry['shape']
    shapes.append(jax.ShapeDtypeStruct(shape, entry['dtype']))
    entry['shape'] = [batch, *entry['shape']]
  exported = export.export(jax.jit(run), platforms=FLAGS.platforms)(*shapes)
  data = bytes(exported.serialize())
  name, width = 'scores', len(model.description.classes)
  meaning = 'probabilities in the order of "classes"'
  if model.description.system.task == 'regression':
    name, width = 'vad', 3
    meaning = 'valence, arousal, dominance on "vad_range"'
  return data, {
    'jax': jax.__version__,
    'platforms': FLAGS.platforms,
    'calling_convention_version': exported.calling_convention_version,
    'inputs': inputs,
    'outputs': [_described(name, meaning, batch, width)],
    'sha256': hashlib.sha256(data).hexdigest(),
  }


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return command_line.run(_main, FLAGS, arguments)


def _main(arguments: list[str]) -> None:
  out = FLAGS.out
  if not out:
    raise command_line.UsageError(
      'give --out=FILE, such as --out=model.stablehlo. See --help.'
    )
  if set(FLAGS.platforms) - {*PLATFORMS}:
    raise command_line.UsageError(
      f'--platforms={",".join(FLAGS.platforms)} is not valid; choose from '
      f'{",".join(PLATFORMS)}. See --help.'
    )
  from jaxser.core import files
  from jaxser.models import predictor, saved, weights

  chosen = options.chosen(FLAGS)
  description = saved.open(chosen['checkpoint'])
  if description.uses_hidden_states:
    raise weights.ModelError(
      f'{description.path}: the features of this model are hidden states of a '
      'WavLM, which is no part of it, so it cannot be exported; use `python -m '
      'jaxser.predict --weights=DIR`, or train with --config=configs/'
      'emosphere.py:encoder=wavlm,weights=DIR, which exports with its WavLM.'
    )
  model = predictor.load(**chosen)
  content = {name: description.content[name] for name in _KEPT}
  content['members'] = [one.training._asdict() for one in model.models]
  try:
    if FLAGS.format == 'safetensors':
      trees = {
        training.name.partition('.')[0]: {'params': params, 'state': state}
        for training, params, state in model.models
      }
      tree = trees if len(trees) > 1 else trees.popitem()[1]
      weights.write(out, tree, {'model': json.dumps(content)})
    else:
      data, about = to_stablehlo(model)
      files.write_bytes(out, data)
      content |= about
    files.write_json(f'{out}.json', content)
  except OSError as error:
    raise command_line.UsageError(
      f'{out} cannot be written ({error}); give another --out.'
    ) from error
  print(
    f'{out} ({out.stat().st_size} bytes, {len(model.models)} models) and '
    f'{out}.json'
  )


if __name__ == '__main__':
  sys.exit(main())
