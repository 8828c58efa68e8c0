"""python -m jaxser.models.hidden_states: runs a frozen WavLM over a corpus, once.

Examples:
  python -m data_prep --corpus=emotale --audio_dir=DIR --features=wavlm \\
      --weights=wavlm-large
      Prepares the waveforms of the audio, then runs this program.
  python -m jaxser.models.hidden_states --corpus=emotale --weights=wavlm-large --layer=12
      Another layer of waveforms that are prepared already (wave16k).
  python -m jaxser.main --config=configs/emosphere.py:corpus=emotale,encoder=wavlm,frozen
      Trains on what is stored.
  python -m jaxser.predict --checkpoint=W --weights=wavlm-large speech.wav
      Predicts a recording with the trained model.

The states of an utterance do not depend on the others: padding is masked.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

import data_prep
from data_prep import build, command_line, corpora, progress, publishing, store
from data_prep.errors import UserError

NAME = 'wavlm'
# As in configs/emosphere.py: few programs, little padding.
_BUCKETS = 8
# Batches that are sorted by length together, and held until they are written.
_WINDOW = 16

# Of an utterance; the table has their plurals.
_TEXTS = ('id', 'speaker', 'gender', 'text', 'split')

FLAGS = flags.FlagValues()
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
flags.DEFINE_string('corpus', None, 'Name of the corpus.', flag_values=FLAGS)
command_line.define_path(
  'weights',
  None,
  'Folder with config.json and model.safetensors of a WavLM.',
  FLAGS,
)
flags.mark_flags_as_required(['corpus', 'weights'], FLAGS)
_integer('layer', -1, 'Whose output is kept, from 1; -1 is the last.')
command_line.define_path('data_dir', None, 'Where stores lie.', FLAGS)
_enum(
  'dtype',
  'float32',
  ['float32', 'bfloat16'],
  'Of matmuls; bfloat16 is faster on TPUs and newer GPUs.',
)
_enum(
  'storage',
  'float16',
  ['float16', 'float32'],
  'Of the hidden states on disk. float16 keeps eleven bits; of WavLM-large it '
  'takes 100 kB per second of speech.',
)
_integer('batch_size', 16, 'Utterances at once.', lower_bound=1)
flags.DEFINE_boolean(
  'overwrite', False, 'Make the store again.', flag_values=FLAGS
)


def extract(
  hidden: Any, source: Any, batch_size: int, advance: Callable[[int], object]
) -> Iterator[np.ndarray]:
  """Yields the states of every utterance of a source, in its order."""
  import jax

  from jaxser.data import pipeline

  run, needed = jax.jit(hidden.states), jax.device_put(hidden.needed)
  rows, size = np.arange(len(source.corpus.table)), _WINDOW * batch_size
  for window in np.split(rows, range(size, len(rows), size)):
    slots, places = pipeline.for_evaluation(source, window, batch_size)
    states = []
    for slot in slots:
      batch = source.batch(slot)
      found = run(needed, batch['features'], batch['length'])
      frames, count = jax.device_get(found)
      states += [row[:n] for row, n in zip(frames, count, strict=True)]
      advance(int(np.count_nonzero(slot.rows != pipeline.PADDING_ROW)))
    yield from (states[place] for place in places)


def main(arguments: list[str]) -> None:
  """Makes the store of hidden states of a corpus."""
  from jaxser.core import runtime

  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  runtime.quiet_without_tpu()
  from jaxser.data import corpus as corpus_lib
  from jaxser.data import pipeline
  from jaxser.models import frozen_wavlm
  from jaxser.nn import hf_wavlm

  corpus, weights, layer = FLAGS.corpus, FLAGS.weights, FLAGS.layer
  data_dir = FLAGS.data_dir or data_prep.default_data_dir()
  waves = store.find_store(data_dir, corpus, 'wave16k')
  config = hf_wavlm.read_config(weights)
  layers = config.num_hidden_layers
  number = layer + layers + 1 if layer < 0 else layer
  if not 1 <= number <= layers:
    raise UserError(
      f'--layer={layer}: the model has the layers 1 to {layers}, or -1 (the '
      f'last) to -{layers}.'
    )
  opened = corpus_lib.open_store(waves)
  info = next(iter(opened.stores.values()))
  by_split = info.get('statistics_by_split') or {}
  mean, std = corpus_lib.normalization(
    opened, 'official' if 'train' in by_split else ''
  )
  parameters = {
    'weights': frozen_wavlm.hash_of(weights),
    'layer': number,
    'layers': layers,
    'dtype': FLAGS.dtype,
    'storage': FLAGS.storage,
    'mean': mean,
    'std': std,
    'waveforms': info['fingerprint'],
  }
  text = json.dumps(parameters, sort_keys=True)
  name = f'{NAME}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'
  final = waves.parents[1] / name / waves.name

  def make(directory: pathlib.Path) -> int:
    source = pipeline.Source(
      opened, cache_gib=0, normalization=(mean, std), num_buckets=_BUCKETS
    )
    short = np.flatnonzero(source.lengths < config.receptive_field)
    if len(short):
      raise UserError(
        f'{opened.table.ids[short[0]]} has {source.lengths[short[0]]} samples, '
        f'fewer than the {config.receptive_field} of the first frame; leave it '
        'out of the corpus.'
      )
    hidden = frozen_wavlm.HiddenStates(*hf_wavlm.load(weights), parameters)
    bar = progress.Progress(len(opened.table), unit='utterance')
    advance = functools.partial(bar.advance, f'{corpus}, layer {number}')
    states = extract(hidden, source, FLAGS.batch_size, advance)
    _write(directory, opened, states, hidden, name)
    bar.close()
    for table in ('manifest.tsv', 'rejected.tsv'):
      if (waves / table).exists():
        shutil.copyfile(waves / table, directory / table)
    return len(opened.table)

  overwrite = FLAGS.overwrite
  count = publishing.write_once(final, make, report=print, overwrite=overwrite)
  if count is not None:
    print(
      f'Hidden states of {count} utterances of {corpus} (layer {number} of '
      f'{layers}) prepared in {final}.'
    )
  print(
    'Next:  python -m jaxser.main --config=configs/emosphere.py:corpus='
    f'{corpus},encoder=wavlm,frozen --config.data_dir={data_dir} '
    f'--workdir=runs/{corpus}'
  )


def _write(
  directory: pathlib.Path, opened: Any, states: Any, hidden: Any, name: str
) -> None:
  """Writes the whole store of an opened store of waveforms."""
  from data_prep import records  # It imports TFDS, which takes a second.

  info, table = next(iter(opened.stores.values())), opened.table
  classes, storage = info['classes'], hidden.given['storage']
  longest = 0

  def examples() -> Iterator[dict[str, Any]]:
    nonlocal longest
    for row, value in enumerate(states):
      label = int(table.labels[row])
      longest = max(longest, len(value))
      yield {
        'features': stored(value, storage, table.ids[row]),
        'label': classes[label] if label >= 0 else -1,
        **{f: str(getattr(table, f'{f}s')[row]) for f in _TEXTS},
        'duration': table.durations[row],
        'vad': table.vad[row],
      }

  shards = records.write(
    directory,
    examples(),
    records.feature_spec(classes, hidden.bins, storage == 'float16'),
    corpora.CORPORA[info['corpus']],
    corpus=info['corpus'],
    config=name,
    content=f'hidden states (WavLM, layer {hidden.given["layer"]})',
  )
  build.write_store_json(
    directory,
    {
      **info,
      'features': NAME,
      'parameters': dict(hidden.given),
      'fingerprint': name.removeprefix(f'{NAME}-'),
      'feature_bins': hidden.bins,
      'frames_per_second': info['frames_per_second'] / hidden.config.hop,
      'max_length': longest,
      'statistics': None,
      'statistics_by_split': None,
      'shards': shards,
    },
  )


def stored(value: np.ndarray, storage: str, name: str) -> np.ndarray:
  """Returns the value as it is stored; raises UserError if it does not fit."""
  largest = float(np.abs(value).max())
  if not largest <= float(np.finfo(storage).max):
    raise UserError(
      f'{name}: a hidden state is {largest}, more than {storage} holds; use '
      '--storage=float32, or another layer.'
    )
  return value.astype(storage)


if __name__ == '__main__':
  sys.exit(command_line.run(main, FLAGS))
