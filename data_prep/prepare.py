"""Prepare one corpus, from its audio to its feature store."""

import collections
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import data_prep
from data_prep import corpora, store
from data_prep import features as features_lib
from data_prep.corpora.base import Corpus
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError, natural_key

# Which recipe takes which features.
RECIPES = {
  'librosa22k': 'configs/timnet.py',
  'kaldi16k': 'configs/dsnet.py',
  'wave16k': 'configs/emosphere.py',
  'egemaps': 'configs/baseline.py',
  'compare': 'configs/baseline.py',
}
# Features that are computed by a network, which needs JAX.
HIDDEN_STATES = 'wavlm'
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
  weights: str | os.PathLike[str] | None = None,
  layer: int | None = None,
  report: Callable[[str], object] = print,
  **options: Any,
) -> pathlib.Path:
  """Checks a corpus, extracts its features and writes the store."""
  hidden = features == HIDDEN_STATES
  features = 'wave16k' if hidden else features
  for name, value, owner, valid in (
    ('signal_length', signal_length, 'librosa22k', features == 'librosa22k'),
    ('resampler', resampler, 'librosa22k', features == 'librosa22k'),
    ('weights', weights, HIDDEN_STATES, hidden),
    ('layer', layer, HIDDEN_STATES, hidden),
  ):
    if value is not None and not valid:
      raise CorpusError(f'--{name}={value}: goes with --features={owner} only.')
  if signal_length is not None and signal_length < 1:
    raise CorpusError(
      f'--signal_length={signal_length}: must be a number of samples at 22,050 '
      'Hz, for example 96000.'
    )
  if hidden and not (weights and data_prep.expanded(weights).is_dir()):
    raise CorpusError(
      f'--weights={weights or ""}: --features={HIDDEN_STATES} needs the folder '
      'of a Hugging Face WavLM, with config.json and model.safetensors.'
    )
  data_dir = data_prep.expanded(data_dir or data_prep.default_data_dir())
  data_dir = data_dir.absolute()
  spec = corpora.get(corpus, audio_dir)
  if corpus == 'demo' and not audio_dir:
    from data_prep import demo  # Only here: it needs SciPy.

    audio_dir = data_dir / 'demo' / 'audio'
    report(f'Demo corpus in {audio_dir}, synthesised if not there yet')
    demo.write_corpus(audio_dir)
  if 'export_dir' in spec.options:
    options.setdefault('export_dir', data_dir / spec.name / 'audio')
  elif audio_dir:
    audio_dir = data_prep.expanded(audio_dir)
  if options.get('manifest'):
    options['manifest'] = data_prep.expanded(options['manifest'])
  spec, manifest, difference = corpora.read(
    corpus,
    audio_dir,
    on_error=on_error,
    allow_incomplete=allow_incomplete,
    **options,
  )
  for line in describe(spec, manifest):
    report(line)
  if difference:
    report(f'Not the published corpus (--allow_incomplete):\n{difference}')
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
    report=report,
  )
  if hidden:
    _hidden_states(
      manifest.corpus, data_dir, data_prep.expanded(weights), layer, overwrite
    )
    return path
  # What the recipe would not find by itself.
  chosen = {'signal_length': signal_length}
  if resampler != features_lib.Librosa22k.resampler:
    chosen['resampler'] = resampler
  for command in next_commands(manifest, features, data_dir, chosen):
    report(command)
  return path


def _hidden_states(
  corpus: str,
  data_dir: pathlib.Path,
  weights: pathlib.Path,
  layer: int | None,
  overwrite: bool,
) -> None:
  """Starts the program that runs a WavLM, for which data_prep lacks JAX."""
  command = [sys.executable, '-m', 'jaxser.models.hidden_states']
  command += [f'--corpus={corpus}', f'--data_dir={data_dir}']
  command += [
    f'--weights={weights}',
    f'--layer={-1 if layer is None else layer}',
  ]
  command += ['--overwrite'] if overwrite else []
  # The program writes on its own; what was said before must stand above.
  sys.stdout.flush()
  status = subprocess.run(command, check=False).returncode
  if status:
    raise CorpusError(
      f'the hidden states were not prepared (see above, exit status {status}); '
      f'the waveforms are. Again: {shlex.join(["python", *command[1:]])}'
    )


def describe(spec: Corpus, manifest: Manifest) -> list[str]:
  """Returns counts per class and speaker, and what was left out."""
  rows = manifest.utterances
  labels = collections.Counter(u.label for u in rows)
  speakers = collections.Counter(u.speaker for u in rows)
  splits = collections.Counter(u.split for u in rows if u.split)
  lines = [f'{spec.title}: {len(rows):,} utterances in {manifest.root}']
  if manifest.classes:
    counts = [f'{name} {labels[name]:,}' for name in manifest.classes]
    counts += [f'without a class {labels[""]:,}'] if labels[''] else []
    lines.append(f'  {len(manifest.classes)} classes: {", ".join(counts)}')
  if manifest.vad_range:
    low, high = manifest.vad_range
    known = sum(None not in u.vad for u in rows)
    lines.append(f'  VAD on {low:g} to {high:g}: {known:,} utterances')
  if len(speakers) <= _NAMED:
    names = sorted(speakers, key=natural_key)
    counts = ', '.join(f'{name} {speakers[name]:,}' for name in names)
  else:
    each = speakers.values()
    counts = (
      f'{min(each):,} to {max(each):,} utterances each, median '
      f'{statistics.median(each):g}'
    )
  lines.append(f'  {len(speakers)} speakers: {counts}')
  if splits:
    counts = ', '.join(f'{name} {n:,}' for name, n in sorted(splits.items()))
    lines.append(f'  split: {counts}')
  lines += [f'  note: {note}' for note in manifest.notes]
  if manifest.rejected:
    lines.append(f'  rejected: {len(manifest.rejected):,} (see rejected.tsv)')
  return lines


def next_commands(
  manifest: Manifest,
  features: str,
  data_dir: pathlib.Path,
  chosen: Mapping[str, object],
) -> list[str]:
  """Returns lines with the commands that train on a store.

  `chosen` has the parameters of the features that the recipe must be told.
  """
  recipes = [RECIPES[features]]
  # The light EmoSphere-SER learns VAD from DSNet's features.
  if features == 'kaldi16k' and manifest.vad_range:
    recipes = [RECIPES['wave16k'], *(recipes if manifest.classes else [])]
  elif features == 'kaldi16k':
    recipes.append(RECIPES['egemaps'])
  speakers = {u.speaker for u in manifest.utterances}
  arguments = f'corpus={manifest.corpus}'
  if len(speakers) < 3:  # Speaker-independent folds need three.
    arguments += ',protocol=published'
  if features == 'wave16k':
    arguments += ',encoder=wavlm,weights=DIR'
  if recipes == ['configs/baseline.py']:
    arguments += f',features={features}'
    arguments += '' if manifest.classes else ',task=vad'
  settings = [f'--config.features.{k}={v}' for k, v in chosen.items() if v]
  if data_dir != data_prep.default_data_dir().absolute():
    settings.insert(0, f'--config.data_dir={data_dir}')
  settings.append(f'--workdir=runs/{manifest.corpus}')
  lines = [
    f'{word} python -m jaxser.main --config={recipe}:{arguments} '
    f'{shlex.join(settings)}'
    for word, recipe in zip(('Next: ', 'or:   '), recipes, strict=False)
  ]
  if RECIPES['kaldi16k'] in recipes:
    lines.append(
      'DSNet as published is for a GPU; on a CPU add ",size=tiny" to its --config.'
    )
  return lines
