"""Writing the content of a store: records, manifest, statistics, rejects."""

import csv
import dataclasses
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

from data_prep import audio, workers
from data_prep import features as features_lib
from data_prep import manifest as manifest_lib

_SHARD_BYTES = 128 << 20
_LINE_SECONDS = 10.0  # Between lines of progress where there is no terminal.


def build(
  manifest: manifest_lib.Manifest,
  corpus_spec: Any,
  features: features_lib.Convention,
  directory: pathlib.Path,
  *,
  config: str,
  on_error: str,
  num_workers: int | None,
  progress: bool,
) -> dict[str, Any]:
  """Writes a whole store into a new directory.

  Args:
    manifest: the utterances, in their order.
    corpus_spec: title, citation, licence and homepage of the corpus.
    features: what to extract.
    directory: does not exist.
    config: name of the store, FEATURES-FINGERPRINT.
    on_error: 'raise' or 'skip'.
    num_workers: see `workers.Pool`.
    progress: whether to show how far it is.

  Returns:
    The content of store.json.

  Raises:
    audio.AudioError: under 'raise', if a file is unusable; if all are.
    workers.WorkerError: if extraction fails for another reason.
    OSError: if something cannot be written.
  """
  utterances = manifest.utterances
  kept, durations, longest = [], [], 0
  rejected = [('', str(r.path), r.reason) for r in manifest.rejected]
  moments = _Moments() if features.bins is None else None
  directory.mkdir(parents=True)
  with workers.Pool(features, num_workers, len(utterances)) as pool:
    # Here, since workers and readers of stores have no use for TFDS.
    from data_prep import records

    spec = records.feature_spec(manifest.classes, features.bins)
    with (
      records.Writer(directory, manifest.corpus, spec, _SHARD_BYTES) as writer,
      _Progress(len(utterances), manifest.corpus, progress) as shown,
    ):
      results = pool.map(utterance.path for utterance in utterances)
      for utterance, result in zip(utterances, results, strict=True):
        shown.advance()
        if result.error:
          if on_error == 'raise':
            raise audio.AudioError(
              f'{result.error}\nNothing was written. --on_error=skip leaves '
              'such files out and lists them in rejected.tsv.'
            )
          rejected.append((utterance.id, str(utterance.path), result.error))
          continue
        writer.write(_example(utterance, result, bool(manifest.classes)))
        if moments:
          moments.add(result.features, utterance.split)
        kept.append(utterance)
        durations.append(result.seconds)
        longest = max(longest, len(result.features))
      if not kept:
        raise audio.AudioError(
          f'none of the {len(utterances)} files of {manifest.corpus} is usable; '
          f'nothing was written. The first: {rejected[-1][2]}'
        )
      shards = writer.finish()
  records.write_info(
    directory,
    corpus=manifest.corpus,
    config=config,
    features=spec,
    shards=shards,
    description=(
      f'{corpus_spec.title}: {features.name} features of {len(kept)} '
      'utterances, in published order.'
    ),
    citation=corpus_spec.citation,
    licence=corpus_spec.licence,
    homepage=corpus_spec.homepage,
  )
  manifest_lib.write_manifest(
    dataclasses.replace(manifest, utterances=tuple(kept)),
    directory / 'manifest.tsv',
    durations,
  )
  if rejected:
    with open(directory / 'rejected.tsv', 'w', encoding='utf-8') as file:
      table = csv.writer(file, delimiter='\t', lineterminator='\n')
      table.writerow(('id', 'path', 'reason'))
      table.writerows((*r[:2], ' '.join(r[2].split())) for r in rejected)
  info = {
    'corpus': manifest.corpus,
    'features': features.name,
    'feature_version': features_lib.VERSION,
    'parameters': features.parameters(),
    'fingerprint': config.rsplit('-', 1)[-1],
    'feature_bins': features.bins,
    'frames_per_second': features.frames_per_second,
    'max_length': longest,
    'classes': list(manifest.classes),
    'vad_range': list(manifest.vad_range) if manifest.vad_range else None,
    'annotators': dict(manifest.annotators),
    'count': len(kept),
    'rejected': len(rejected),
    'total_duration': math.fsum(durations),
    'statistics': moments.summary() if moments else None,
    'statistics_by_split': moments.by_split() if moments else None,
    'shards': [dataclasses.asdict(shard) for shard in shards],
  }
  write_store_json(directory, info)
  return info


def write_store_json(directory: pathlib.Path, info: dict[str, Any]) -> None:
  """Writes store.json, and into `info` how large every shard is on disk.

  By its size a store that lost a part of a file is noticed.
  """
  for shard in info['shards']:
    shard['file_bytes'] = (directory / shard['name']).stat().st_size
  with open(directory / 'store.json', 'w', encoding='utf-8') as file:
    json.dump(info, file, indent=2, ensure_ascii=False)
    file.write('\n')
    file.flush()
    os.fsync(file.fileno())


def _example(
  utterance: manifest_lib.Utterance,
  result: workers.Extracted,
  has_classes: bool,
) -> dict[str, Any]:
  """One record. Unlabelled is -1."""
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


class _Moments:
  """Mean and deviation of all samples, one utterance at a time, in float64.

  Chan, Golub and LeVeque (1979): partial sums of squares about partial means
  are joined without cancellation.
  """

  def __init__(self):
    self._splits: dict[str, tuple[int, float, float]] = {}

  def add(self, samples: np.ndarray, split: str) -> None:
    """Counts the samples `[n]` of an utterance of this split."""
    samples = samples.astype(np.float64)
    mean = float(samples.mean())
    part = len(samples), mean, float(((samples - mean) ** 2).sum())
    self._splits[split] = self._join(
      self._splits.get(split, (0, 0.0, 0.0)), part
    )

  def summary(self) -> dict[str, Any]:
    """Over everything."""
    total = (0, 0.0, 0.0)
    for part in self._splits.values():
      total = self._join(total, part)
    return self._named(total)

  def by_split(self) -> dict[str, dict[str, Any]]:
    """Over each of the corpus' own splits."""
    return {
      name: self._named(self._splits[name]) for name in sorted(self._splits)
    }

  @staticmethod
  def _join(first, second):
    count = first[0] + second[0]
    shift = second[1] - first[1]
    mean = first[1] + shift * second[0] / count
    squares = first[2] + second[2] + shift**2 * first[0] * second[0] / count
    return count, mean, squares

  @staticmethod
  def _named(part):
    count, mean, squares = part
    return {'mean': mean, 'std': math.sqrt(squares / count), 'samples': count}


class _Progress:
  """A bar on a terminal, a plain line now and then elsewhere."""

  def __init__(self, total: int, name: str, shown: bool):
    self._total, self._name, self._done = total, name, 0
    self._start = self._last = time.monotonic()
    self._lines = shown and not sys.stderr.isatty()
    self._bar = None
    if shown and not self._lines:
      import tqdm

      self._bar = tqdm.tqdm(total=total, desc=name, unit=' files')

  def __enter__(self) -> '_Progress':
    return self

  def __exit__(self, *error: object) -> None:
    if self._bar is not None:
      self._bar.close()

  def advance(self) -> None:
    """One file more."""
    self._done += 1
    if self._bar is not None:
      self._bar.update()
    now = time.monotonic()
    if self._lines and (
      self._done == self._total or now - self._last >= _LINE_SECONDS
    ):
      self._last = now
      print(
        f'{self._name}: {self._done} of {self._total} files, '
        f'{now - self._start:.0f} s',
        file=sys.stderr,
        flush=True,
      )
