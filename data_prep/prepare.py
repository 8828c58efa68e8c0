"""One corpus, from its audio to its feature store: what the program does."""

import collections
import os
import pathlib
import shlex
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import data_prep
from data_prep import corpora, demo, store
from data_prep import features as features_lib
from data_prep import manifest as manifest_lib
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest

# Which recipe hears which features.
RECIPES = {
  'librosa22k': 'configs/timnet.py',
  'kaldi16k': 'configs/dsnet.py',
  'wave16k': 'configs/emosphere.py',
}
_ENCODER = {'wave16k': ',encoder=wavlm,weights=DIR'}
_NAMED = 30  # Speakers that are listed one by one.


def prepare_corpus(
  corpus: str,
  audio_dir: str | os.PathLike[str] | None = None,
  *,
  features: str = 'librosa22k',
  data_dir: str | os.PathLike[str] | None = None,
  signal_length: int | None = None,
  resampler: str | None = None,
  on_error: str = 'raise',
  allow_incomplete: bool = False,
  num_workers: int | None = None,
  overwrite: bool = False,
  report: Callable[[str], object] = print,
  **options: Any,
) -> pathlib.Path:
  """Checks a corpus, extracts its features and writes the store.

  Args:
    corpus: Key of `data_prep.corpora.CORPORA`.
    audio_dir: Folder of the corpus; the demo corpus is synthesised, and CREMA-D
      can be had from TFDS with 'tfds' or 'tfds:DIR'.
    features: 'librosa22k', 'kaldi16k' or 'wave16k'.
    data_dir: Where stores lie; by default `data_prep.default_data_dir()`.
    signal_length: Samples at 22,050 Hz for `librosa22k`; by default the corpus'.
    resampler: For `librosa22k`, one of `resample.RESAMPLERS`; by default the
      published one.
    on_error: 'raise', or 'skip' to leave out unusable files.
    allow_incomplete: Accept a corpus that differs from the published one.
    num_workers: Processes that extract; by default one per core.
    overwrite: Extract anew even where the same store is there.
    report: Called with each line for the user.
    **options: Options of the corpus.

  Returns:
    The version directory of the store.

  Raises:
    CorpusError: An argument is not valid, or the corpus is not as it should be.
    audio.AudioError: A file is not usable audio.
    store.StoreError, workers.WorkerError: see `store.prepare`.
  """
  if features not in RECIPES:
    raise CorpusError(
      f'--features={features}: is unknown; choose one of {", ".join(RECIPES)}.'
    )
  if signal_length is not None and features != 'librosa22k':
    raise CorpusError(
      f'--signal_length={signal_length}: goes with --features=librosa22k only; '
      f'{features} keeps the whole utterance.'
    )
  if signal_length is not None and signal_length < 1:
    raise CorpusError(
      f'--signal_length={signal_length}: must be a number of samples at 22,050 '
      'Hz, for example 96000.'
    )
  if resampler is not None and features != 'librosa22k':
    raise CorpusError(
      f'--resampler={resampler}: goes with --features=librosa22k only; '
      f'{features} has one way to resample.'
    )
  data_dir = pathlib.Path(data_dir or data_prep.default_data_dir())
  data_dir = data_dir.expanduser().absolute()
  spec = corpora.get(corpus, audio_dir)
  if corpus == 'demo' and not audio_dir:
    audio_dir = data_dir / 'demo' / 'audio'
    report(f'Demo corpus in {audio_dir}, synthesised if not there yet')
    demo.write_corpus(audio_dir)
  if 'export_dir' in spec.options:
    options.setdefault('export_dir', data_dir / spec.name / 'audio')
  spec, manifest, check = corpora.read(
    corpus,
    audio_dir,
    on_error=on_error,
    allow_incomplete=allow_incomplete,
    **options,
  )
  for line in describe(spec, manifest):
    report(line)
  if not check.complete:
    report(f'Not the published corpus (--allow_incomplete):\n{check.report()}')
  parameters = {}
  if features == 'librosa22k':
    parameters['signal_length'] = signal_length or spec.signal_length
    if resampler:
      parameters['resampler'] = resampler
  path = store.prepare(
    manifest,
    spec,
    features=features_lib.by_name(features, **parameters),
    data_dir=data_dir,
    on_error=on_error,
    num_workers=num_workers,
    overwrite=overwrite,
    progress=report,
  )
  # What the recipe would not find by itself.
  chosen = {'signal_length': signal_length}
  if resampler != features_lib.Librosa22k.resampler:
    chosen['resampler'] = resampler
  report(f'Next:  {next_command(corpus, features, data_dir, chosen)}')
  return path


def describe(spec: base.Corpus, manifest: Manifest) -> list[str]:
  """Counts per class and speaker, and what was left out, line by line."""
  rows = manifest.utterances
  labels = collections.Counter(u.label for u in rows)
  speakers = collections.Counter(u.speaker for u in rows)
  lines = [f'{spec.title}: {len(rows):,} utterances in {manifest.root}']
  if manifest.classes:
    counts = [f'{name} {labels[name]:,}' for name in manifest.classes]
    counts += [f'without a class {labels[""]:,}'] if labels[''] else []
    lines.append(f'  {len(manifest.classes)} classes: {", ".join(counts)}')
  if manifest.vad_range:
    low, high = manifest.vad_range
    known = sum(None not in u.vad for u in rows)
    lines.append(f'  VAD on {low:g} to {high:g}: {known:,} utterances')
  names = sorted(speakers, key=manifest_lib.natural_key)
  if len(names) <= _NAMED:
    counts = ', '.join(f'{name} {speakers[name]:,}' for name in names)
  else:
    each = speakers.values()
    counts = (
      f'{min(each):,} to {max(each):,} utterances each, median '
      f'{statistics.median(each):g}'
    )
  lines.append(f'  {len(names)} speakers: {counts}')
  splits = collections.Counter(u.split for u in rows if u.split)
  if splits:
    counts = ', '.join(f'{name} {n:,}' for name, n in sorted(splits.items()))
    lines.append(f'  split: {counts}')
  lines += [f'  note: {note}' for note in manifest.notes]
  if manifest.rejected:
    lines.append(f'  rejected: {len(manifest.rejected):,} (see rejected.tsv)')
  return lines


def next_command(
  corpus: str,
  features: str,
  data_dir: pathlib.Path,
  chosen: Mapping[str, object],
) -> str:
  """The command that trains on a store with these parameters."""
  words = ['python -m jaxser.main', f'--config={RECIPES[features]}']
  words[1] += f':corpus={corpus}{_ENCODER.get(features, "")}'
  if data_dir != data_prep.default_data_dir().expanduser().absolute():
    words.append(shlex.quote(f'--config.data_dir={data_dir}'))
  words += [f'--config.features.{k}={v}' for k, v in chosen.items() if v]
  words.append(f'--workdir=runs/{corpus}')
  return ' '.join(words)
