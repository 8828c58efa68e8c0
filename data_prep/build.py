"""Write the content of a store: records, manifest, statistics, rejects."""

import contextlib
import csv
import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_prep import audio, workers
from data_prep import features as features_lib
from data_prep import manifest as manifest_lib
from data_prep import progress as progress_lib

_NOTHING = (0, 0.0, 0.0)


def build(
  manifest: manifest_lib.Manifest,
  corpus_spec: Any,
  features: features_lib.Convention,
  directory: pathlib.Path,
  *,
  content: str,
  on_error: str,
  num_workers: int | None,
) -> dict[str, Any]:
  """Writes a whole store into a new directory."""
  utterances = manifest.utterances
  kept, durations, warnings, longest = [], [], [], 0
  rejected = [('', str(r.path), r.reason) for r in manifest.rejected]
  moments = {}

  def examples(pool: workers.Pool) -> Iterator[dict[str, Any]]:
    nonlocal longest
    results = pool.map(utterance.path for utterance in utterances)
    for utterance, result in zip(utterances, results, strict=True):
      bar.advance(manifest.corpus)
      if result.error:
        if on_error == 'raise':
          raise audio.AudioError(
            f'{result.error}\nNothing was written. --on_error=skip leaves '
            'such files out and lists them in rejected.tsv.'
          )
        rejected.append((utterance.id, str(utterance.path), result.error))
        continue
      if result.warning:
        warnings.append(f'{utterance.path}: {result.warning}')
      yield _example(utterance, result, bool(manifest.classes))
      if features.bins is None:
        before = moments.get(utterance.split, _NOTHING)
        moments[utterance.split] = _joined(before, _moments(result.features))
      kept.append(utterance)
      durations.append(result.seconds)
      longest = max(longest, len(result.features))
    if not kept:
      raise audio.AudioError(
        f'none of the {len(utterances)} files of {manifest.corpus} is usable; '
        f'nothing was written. The first: {rejected[-1][2]}'
      )

  # Here, since workers and readers of stores have no use for TFDS.
  from data_prep import records

  extract = functools.partial(workers.extract, features)
  bar = progress_lib.Progress(len(utterances), unit='file')
  with (
    contextlib.closing(bar),
    workers.Pool(extract, num_workers, len(utterances)) as pool,
  ):
    shards = records.write(
      directory,
      examples(pool),
      records.feature_spec(manifest.classes, features.bins),
      corpus_spec,
      corpus=manifest.corpus,
      config=f'{features.name}-{content[:8]}',
      content=f'{features.name} features',
    )
  manifest_lib.write_manifest(
    dataclasses.replace(manifest, utterances=tuple(kept)),
    directory / 'manifest.tsv',
    durations,
  )
  if rejected:
    # These names may be the very reason, so those not UTF-8 are escaped.
    with open(
      directory / 'rejected.tsv',
      'w',
      encoding='utf-8',
      errors='backslashreplace',
    ) as file:
      table = csv.writer(file, delimiter='\t', lineterminator='\n')
      table.writerow(('id', 'path', 'reason'))
      table.writerows((*r[:2], ' '.join(r[2].split())) for r in rejected)
  total = _NOTHING
  for part in moments.values():
    total = _joined(total, part)
  info = {
    'corpus': manifest.corpus,
    'features': features.name,
    'feature_version': features_lib.VERSION,
    'parameters': features.parameters(),
    'fingerprint': content[:8],
    'content': content,
    'feature_bins': features.bins,
    'frames_per_second': features.frames_per_second,
    'max_length': longest,
    'classes': list(manifest.classes),
    'vad_range': list(manifest.vad_range) if manifest.vad_range else None,
    'annotators': dict(manifest.annotators),
    'audio_dir': str(manifest.root),
    'count': len(kept),
    'rejected': len(rejected),
    'total_duration': math.fsum(durations),
    'statistics': _statistics(total) if moments else None,
    'statistics_by_split': (
      {name: _statistics(moments[name]) for name in sorted(moments)} or None
    ),
    'shards': shards,
  }
  write_store_json(directory, info)
  return {**info, 'warnings': warnings}


def write_store_json(directory: pathlib.Path, info: dict[str, Any]) -> None:
  """Writes store.json, durably."""
  # JSON escapes what is not UTF-8 in the name of a folder.
  options = {'encoding': 'utf-8', 'errors': 'backslashreplace'}
  with open(directory / 'store.json', 'w', **options) as file:
    json.dump(info, file, indent=2, ensure_ascii=False)
    file.write('\n')
    file.flush()
    os.fsync(file.fileno())


def _example(
  utterance: manifest_lib.Utterance,
  result: workers.Extracted,
  has_classes: bool,
) -> dict[str, Any]:
  """Returns one record. Unlabelled is -1."""
  return {
    'features': result.features,
    'label': utterance.label if has_classes and utterance.label else -1,
    'id': utterance.id,
    'speaker': utterance.speaker,
    'gender': utterance.gender,
    'text': utterance.text,
    'split': utterance.split,
    'duration': result.seconds,
    'vad': np.array(
      [math.nan if value is None else value for value in utterance.vad],
      np.float32,
    ),
  }


def _moments(samples: np.ndarray) -> tuple[int, float, float]:
  """Returns count, mean and sum of squares about the mean, in float64."""
  samples = samples.astype(np.float64)
  mean = float(samples.mean())
  return len(samples), mean, float(((samples - mean) ** 2).sum())


def _joined(first, second) -> tuple[int, float, float]:
  """Joins the moments of two parts without cancellation.

  Chan, Golub and LeVeque (1979).
  """
  count = first[0] + second[0]
  shift = second[1] - first[1]
  mean = first[1] + shift * second[0] / count
  squares = first[2] + second[2] + shift**2 * first[0] * second[0] / count
  return count, mean, squares


def _statistics(part) -> Mapping[str, float]:
  count, mean, squares = part
  return {'mean': mean, 'std': math.sqrt(squares / count), 'samples': count}
