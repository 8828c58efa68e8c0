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
      What the trained model says of a recording.

What an utterance gets does not depend on the others: padding is never heard.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import data_prep
from data_prep import build, corpora, publishing, store
from jaxser import train
from jaxser.core import progress, runtime
from jaxser.data import buckets as buckets_lib
from jaxser.data import corpus as corpus_lib
from jaxser.data import pipeline
from jaxser.models import convert
from jaxser.models.convert import hf_wavlm
from jaxser.models.frozen_wavlm import NAME, Extractor, hash_of
from jaxser.nn.wavlm_config import WavLMConfig

STORAGE = ('float16', 'float32')
# As in configs/emosphere.py: few programs, little padding.
_BUCKETS = 8
# Batches that are sorted by length together, and held until they are written.
_WINDOW = 16
_SHARD_BYTES = 128 << 20


def extract(
  extractor: Extractor,
  source: pipeline.Source,
  batch_size: int,
  advance: Callable[[int], object] = lambda count: None,
) -> Iterator[np.ndarray]:
  """Hidden states of every utterance, in the order of the corpus.

  Args:
    extractor: what is run; compiled once for every bucket of `source`.
    source: waveforms.
    batch_size: utterances at once.
    advance: called with the number of utterances done since the last call.
  """
  rows = np.arange(len(source.corpus.table))
  bucket = buckets_lib.bucket_of(source.lengths, source.buckets)
  for start in range(0, len(rows), _WINDOW * batch_size):
    window = rows[start : start + _WINDOW * batch_size]
    found = {}
    for chosen, length in buckets_lib.batches(
      window, bucket, batch_size, source.buckets
    ):
      padded = pipeline.pad_rows(chosen, batch_size)
      batch = source.batch(pipeline.Slot(padded, length))
      states = extractor(batch['features'], batch['length'])
      found.update(zip(chosen.tolist(), states, strict=False))
      advance(len(chosen))
    for row in window.tolist():
      yield found[row]


def layer_number(config: WavLMConfig, layer: int) -> int:
  """The layer from 1 that a number, negative from the end, means.

  Raises:
    ValueError: if there is none.
  """
  count = config.num_hidden_layers
  number = layer + count + 1 if layer < 0 else layer
  if not 1 <= number <= count:
    raise ValueError(
      f'--layer={layer}: the model has the layers 1 to {count}, or -1 (the '
      f'last) to -{count}.'
    )
  return number


def prepare(
  corpus: str,
  weights: os.PathLike[str] | str,
  *,
  layer: int = -1,
  data_dir: os.PathLike[str] | str | None = None,
  dtype: str = 'float32',
  storage: str = 'float16',
  batch_size: int = 16,
  overwrite: bool = False,
  report: Callable[[str], object] = print,
) -> pathlib.Path:
  """Makes the store of hidden states from the corpus' waveforms.

  Args:
    corpus: its name; its store wave16k is there.
    weights: folder of a Hugging Face WavLM.
    layer: see `layer_number`.
    data_dir: where stores lie, by default `data_prep.default_data_dir()`.
    dtype: of the products, 'float32' or 'bfloat16'.
    storage: 'float16' or 'float32'. Half precision keeps eleven bits; it takes
      100 kB per second of speech for WavLM-large.
    batch_size: utterances at once.
    overwrite: makes the store even if it is there.
    report: called with each line for the user.

  Returns:
    The version directory of the store.

  Raises:
    ConvertError: if the weights cannot be read.
    StoreError: if there are no waveforms, or the store cannot be written.
    ValueError: if an argument is not valid, an utterance is shorter than the
      receptive field, or a value does not fit the storage.
  """
  weights = pathlib.Path(weights).expanduser()
  data_dir = pathlib.Path(data_dir or data_prep.default_data_dir())
  waves = store.find_store(data_dir, corpus, 'wave16k')
  config = hf_wavlm.read_config(weights)
  number = layer_number(config, layer)
  opened = corpus_lib.open_store(waves)
  info = next(iter(opened.stores.values()))
  by_split = info.get('statistics_by_split') or {}
  mean, deviation = train.normalization(
    opened, 'official' if 'train' in by_split else ''
  )
  parameters = {
    'weights': hash_of(weights),
    'layer': number,
    'layers': config.num_hidden_layers,
    'dtype': dtype,
    'storage': storage,
    'mean': mean,
    'std': deviation,
    'waveforms': info['fingerprint'],
  }
  text = json.dumps(parameters, sort_keys=True)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()[:8]
  final = waves.parents[1] / f'{NAME}-{fingerprint}' / waves.name

  def make(directory: pathlib.Path) -> int:
    source = pipeline.Source(
      opened,
      cache_gib=0,
      normalization=(mean, deviation),
      num_buckets=_BUCKETS,
    )
    _check_lengths(source, config.receptive_field)
    params = hf_wavlm.load(weights)[1]
    extractor = Extractor(config, params, number, dtype)
    bar = progress.Progress(len(opened.table), unit='utterance')
    advance = functools.partial(bar.advance, f'{corpus}, layer {number}')
    states = extract(extractor, source, batch_size, advance)
    count = _write(directory, waves, info, states, config, parameters, final)
    bar.close()
    return count

  count = publishing.write_once(final, make, report=report, overwrite=overwrite)
  if count is not None:
    report(
      f'Hidden states of {count} utterances of {corpus} (layer {number} of '
      f'{config.num_hidden_layers}) prepared in {final}.'
    )
  report(
    'Next:  python -m jaxser.main --config=configs/emosphere.py:corpus='
    f'{corpus},encoder=wavlm,frozen --config.data_dir={data_dir} '
    f'--workdir=runs/{corpus}'
  )
  return final


def _check_lengths(source: pipeline.Source, needed: int) -> None:
  short = np.flatnonzero(source.lengths < needed)
  if len(short):
    raise ValueError(
      f'{source.corpus.table.ids[short[0]]} has {source.lengths[short[0]]} '
      f'samples, fewer than the {needed} of the first frame; leave it out of '
      'the corpus.'
    )


def _write(
  directory: pathlib.Path,
  waves: pathlib.Path,
  info: dict[str, Any],
  states: Iterator[np.ndarray],
  config: WavLMConfig,
  parameters: dict[str, Any],
  final: pathlib.Path,
) -> int:
  """Writes the whole store; returns the number of utterances."""
  # Here: it imports TFDS, which takes a second.
  from data_prep import records

  corpus, half = info['corpus'], parameters['storage'] == 'float16'
  table = corpus_lib.open_store(waves).table
  classes = info['classes']
  spec = records.feature_spec(classes, config.hidden_size, half)
  directory.mkdir(parents=True)
  longest = 0
  with records.Writer(directory, corpus, spec, _SHARD_BYTES) as writer:
    for row, value in enumerate(states):
      value = _stored(value, parameters['storage'], table.ids[row])
      label = int(table.labels[row])
      writer.write(
        {
          'features': value,
          'label': classes[label] if label >= 0 else -1,
          'id': str(table.ids[row]),
          'speaker': str(table.speakers[row]),
          'gender': str(table.genders[row]),
          'text': str(table.texts[row]),
          'split': str(table.splits[row]),
          'duration': table.durations[row],
          'vad': table.vad[row],
        }
      )
      longest = max(longest, len(value))
    shards = writer.finish()
  about = corpora.CORPORA[corpus]
  records.write_info(
    directory,
    corpus=corpus,
    config=final.parent.name,
    features=spec,
    shards=shards,
    description=(
      f'{about.title}: hidden states of layer {parameters["layer"]} of a WavLM '
      f'for {len(table)} utterances, in published order.'
    ),
    citation=about.citation,
    licence=about.licence,
    homepage=about.homepage,
  )
  for name in ('manifest.tsv', 'rejected.tsv'):
    if (waves / name).exists():
      shutil.copyfile(waves / name, directory / name)
  build.write_store_json(
    directory,
    {
      **info,
      'features': NAME,
      'parameters': parameters,
      'fingerprint': final.parent.name.rsplit('-', 1)[-1],
      'feature_bins': config.hidden_size,
      'frames_per_second': info['frames_per_second'] / config.hop,
      'max_length': longest,
      'statistics': None,
      'statistics_by_split': None,
      'shards': [dataclasses.asdict(shard) for shard in shards],
    },
  )
  return len(table)


def _stored(value: np.ndarray, storage: str, name: str) -> np.ndarray:
  """The value as it is stored; raises ValueError where it does not fit."""
  largest = float(np.abs(value).max())
  if not math.isfinite(largest) or largest > float(np.finfo(storage).max):
    raise ValueError(
      f'{name}: a hidden state is {largest}, more than {storage} holds; use '
      '--storage=float32, or another layer.'
    )
  return value.astype(storage)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m jaxser.models.hidden_states',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--corpus', required=True, help='name of the corpus')
  parser.add_argument(
    '--weights',
    required=True,
    help='folder with config.json and model.safetensors of a WavLM',
  )
  parser.add_argument(
    '--layer',
    type=int,
    default=-1,
    help='whose output is kept, from 1; -1 is the last (default)',
  )
  parser.add_argument('--data_dir', help='where stores lie')
  parser.add_argument(
    '--dtype',
    default='float32',
    choices=('float32', 'bfloat16'),
    help='of the products; bfloat16 is faster on TPUs and newer GPUs',
  )
  parser.add_argument(
    '--storage',
    default='float16',
    choices=STORAGE,
    help='of the hidden states on disk',
  )
  parser.add_argument(
    '--batch_size', type=int, default=16, help='utterances at once'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='make the store again'
  )
  options = vars(parser.parse_args(arguments))
  runtime.quiet_without_tpu()
  try:
    prepare(options.pop('corpus'), options.pop('weights'), **options)
  except (convert.ConvertError, store.StoreError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('\nstopped; no hidden states were written', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.exit(main())
