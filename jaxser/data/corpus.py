"""A prepared corpus: its table of utterances and random access to features.

The store is a TFDS directory written by data_prep. The table (ids, labels,
speakers, ...) is read from the manifest beside it and needs no TensorFlow;
features are read row by row from the TFRecord shards, whose offsets are indexed
once, so that any order over a corpus of any size costs the same.
"""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from data_prep.store import StoreError

# TFRecord framing: uint64 length, uint32 masked crc of it, data, uint32 crc.
_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')


@dataclasses.dataclass(frozen=True)
class Table:
  """One row per utterance, in published order; strings are '' if unknown.

  Attributes:
    ids: unique within the corpus.
    labels: int32 [n], index into the corpus' classes, -1 if it has none.
    speakers, genders, texts, splits: [n] of str.
    durations: float32 [n], seconds.
    vad: float32 [n, 3], valence, arousal, dominance; NaN where unknown.
  """

  ids: np.ndarray
  labels: np.ndarray
  speakers: np.ndarray
  genders: np.ndarray
  texts: np.ndarray
  splits: np.ndarray
  durations: np.ndarray
  vad: np.ndarray

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, rows: np.ndarray) -> 'Table':
    """The table of these rows, in their order."""
    return Table(
      **{
        field.name: getattr(self, field.name)[rows]
        for field in dataclasses.fields(self)
      }
    )


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A corpus as the engine sees it.

  Attributes:
    name: 'emodb', or 'emodb+ravdess' for a cross-corpus run.
    classes: names in label order; empty for a corpus with VAD only.
    vad_range: lowest and highest value of the VAD scale, or None.
    table: the utterances.
    stores: the stores' store.json, by corpus name.
    read: row -> features [frames, bins] or [samples], float32.
    parts: corpus name of every row, [n] of str.
  """

  name: str
  classes: tuple[str, ...]
  vad_range: tuple[float, float] | None
  table: Table
  stores: Mapping[str, Mapping[str, Any]]
  read: Callable[[int], np.ndarray]
  parts: np.ndarray

  @property
  def feature_shape(self) -> tuple[int, ...]:
    """(longest, bins) or (longest,), over all stores."""
    infos = list(self.stores.values())
    longest = max(info['max_length'] for info in infos)
    bins = infos[0]['feature_bins']
    return (longest, bins) if bins else (longest,)

  @property
  def annotators(self) -> Mapping[str, Any]:
    """How far annotators agree, of a single corpus that says so; or empty."""
    infos = list(self.stores.values())
    return infos[0].get('annotators', {}) if len(infos) == 1 else {}

  def load(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every row, cut or zero padded: features [n, max_length, ...], lengths."""
    shape = (len(self.table), max_length, *self.feature_shape[1:])
    features = np.zeros(shape, np.float32)
    lengths = np.zeros(len(self.table), np.int32)
    for row in range(len(self.table)):
      value = self.read(row)[:max_length]
      features[row, : len(value)] = value
      lengths[row] = len(value)
    return features, lengths


def normalization(corpus: Corpus, protocol: str) -> tuple[float, float] | None:
  """Returns the mean and standard deviation of a waveform store, else None.

  Of the training split where the corpus has an official split; elsewhere of the
  whole store: two numbers, no label, the same for every fold.
  """
  info = next(iter(corpus.stores.values()))
  if info.get('statistics') is None:
    return None
  by_split = info.get('statistics_by_split') or {}
  official = protocol == 'official' and 'train' in by_split
  found = by_split['train'] if official else info['statistics']
  return found['mean'], found['std']


def open_store(path: os.PathLike[str] | str) -> Corpus:
  """Opens one prepared corpus.

  Args:
    path: the version directory of a store, `DATA/CORPUS/FEATURES-HASH/1.0.0`.

  Raises:
    StoreError: if a file of the store is missing, damaged or does not agree
      with the others.
  """
  path = pathlib.Path(path)
  info = _read_json(path / 'store.json')
  classes = tuple(info['classes'])
  table = _read_table(path / 'manifest.tsv', classes)
  if len(table) != info['count']:
    raise StoreError(
      f'{path / "manifest.tsv"} has {len(table)} utterances, store.json says '
      f'{info["count"]}; prepare the corpus again with '
      f'`python -m data_prep --corpus={info["corpus"]} --overwrite`.'
    )
  vad_range = info.get('vad_range')
  return Corpus(
    name=info['corpus'],
    classes=classes,
    vad_range=tuple(vad_range) if vad_range else None,
    table=table,
    stores={info['corpus']: info},
    read=_Records(path, len(table)),
    parts=np.full(len(table), info['corpus']),
  )


def select(corpus: Corpus, rows: np.ndarray, name: str) -> Corpus:
  """A corpus of some rows only; labels keep their meaning."""
  read = corpus.read
  rows = np.asarray(rows)
  return dataclasses.replace(
    corpus,
    name=name,
    table=corpus.table.take(rows),
    read=lambda row: read(int(rows[row])),
    parts=corpus.parts[rows],
  )


def join(first: Corpus, second: Corpus, task: str = 'classification') -> Corpus:
  """Two corpora as one.

  Ids and speakers get the corpus' name in front, so that they stay unique.

  Args:
    first: a corpus.
    second: a corpus.
    task: 'classification' keeps the utterances of the classes that both have,
      'regression' (of valence, arousal and dominance) keeps all.

  Raises:
    StoreError: if features differ in kind or parameters, fewer than two classes
      are shared, or the scales differ.
  """
  ours, theirs = (next(iter(c.stores.values())) for c in (first, second))
  for key in ('features', 'parameters'):
    if ours[key] != theirs[key]:
      raise StoreError(
        f'{first.name} and {second.name} were prepared with different '
        f'{key}: {ours[key]} and {theirs[key]}; prepare both with the same '
        '(cross-corpus runs of TIM-Net use --signal_length=100000).'
      )
  regression = task == 'regression'
  if regression and first.vad_range != second.vad_range:
    raise StoreError(
      f'valence, arousal and dominance are on the scale {first.vad_range} in '
      f'{first.name} and {second.vad_range} in {second.name}; prepare one of '
      'them on the scale of the other, from a manifest.'
    )
  both = set(first.classes), set(second.classes)
  classes = tuple(sorted(set.union(*both) if regression else both[0] & both[1]))
  if not regression and len(classes) < 2:
    raise StoreError(
      f'{first.name} and {second.name} share {len(classes)} classes '
      f'({", ".join(classes) or "none"}); at least two are needed.'
    )
  tables, readers, parts = [], [], []
  for corpus in (first, second):
    # The last one is what -1, no class at all, points to.
    rename = np.array([*(_index(classes, name) for name in corpus.classes), -1])
    labels = rename[corpus.table.labels]
    kept = np.flatnonzero((labels >= 0) | regression)
    chosen = select(corpus, kept, corpus.name)
    tables.append(
      dataclasses.replace(
        chosen.table,
        labels=labels[kept].astype(np.int32),
        ids=np.array([f'{corpus.name}/{i}' for i in chosen.table.ids]),
        speakers=np.array(
          [f'{corpus.name}/{s}' for s in chosen.table.speakers]
        ),
      )
    )
    readers.append(chosen.read)
    parts.append(chosen.parts)
  split = len(tables[0])
  table = Table(
    **{
      field.name: np.concatenate([getattr(t, field.name) for t in tables])
      for field in dataclasses.fields(Table)
    }
  )
  return Corpus(
    name=f'{first.name}+{second.name}',
    classes=classes,
    vad_range=first.vad_range if regression else None,
    table=table,
    stores={**first.stores, **second.stores},
    read=lambda row: (
      readers[0](row) if row < split else readers[1](row - split)
    ),
    parts=np.concatenate(parts),
  )


def _index(names: Sequence[str], name: str) -> int:
  return names.index(name) if name in names else -1


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text('utf-8'))
  except FileNotFoundError as error:
    raise StoreError(
      f'{path} is missing, so {path.parent} is not a feature store; prepare '
      'one with `python -m data_prep`.'
    ) from error
  except ValueError as error:
    raise StoreError(f'{path} is not valid JSON ({error}).') from error


def _read_table(path: pathlib.Path, classes: Sequence[str]) -> Table:
  """Reads manifest.tsv."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.DictReader(file, delimiter='\t'))
  except FileNotFoundError as error:
    raise StoreError(
      f'{path} is missing; prepare the corpus again with '
      '`python -m data_prep --overwrite`.'
    ) from error

  def text(name):
    return np.array([row[name] or '' for row in rows], dtype=str)

  def number(name):
    return np.array([float(row[name] or 'nan') for row in rows], np.float32)

  unknown = sorted({row['label'] for row in rows} - {*classes, ''})
  if unknown:
    raise StoreError(
      f'{path} has labels that store.json does not list: {unknown}.'
    )
  return Table(
    ids=text('id'),
    labels=np.array([_index(classes, row['label']) for row in rows], np.int32),
    speakers=text('speaker'),
    genders=text('gender'),
    texts=text('text'),
    splits=text('split'),
    durations=number('duration'),
    vad=np.stack([number(n) for n in ('valence', 'arousal', 'dominance')], -1),
  )


class _Records:
  """Random access to the features in the TFRecord shards of one store."""

  def __init__(self, path: pathlib.Path, count: int):
    self._path = path
    self._count = count

  @functools.cached_property
  def _index(self) -> list[tuple[pathlib.Path, int, int]]:
    """(shard, offset of the data, length) per row, from the record headers."""
    shards = sorted(self._path.glob('*.tfrecord-*'))
    index = []
    for shard in shards:
      size = shard.stat().st_size
      with open(shard, 'rb') as file:
        offset = 0
        while offset < size:
          header = file.read(_HEADER.size)
          if len(header) < _HEADER.size:
            raise self._damaged(shard, offset, 'is cut off')
          length, crc = _HEADER.unpack(header)
          if _masked_crc(header[:8]) != crc:
            raise self._damaged(shard, offset, 'has a damaged header')
          index.append((shard, offset + _HEADER.size, length))
          offset += _HEADER.size + length + _FOOTER.size
          if offset > size:
            raise self._damaged(shard, offset, 'is cut off')
          file.seek(offset)
    if len(index) != self._count:
      raise StoreError(
        f'{self._path} has {len(index)} records in {len(shards)} shards, its '
        f'manifest has {self._count} utterances; prepare the corpus again with '
        '`python -m data_prep --overwrite`.'
      )
    return index

  @functools.cached_property
  def _parse(self) -> Callable[[bytes], np.ndarray]:
    """Decoder of one serialised record; TFDS says how it was written."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(self._path))
    features = builder.info.features
    return lambda data: features.deserialize_example_np(data)['features']

  def __call__(self, row: int) -> np.ndarray:
    shard, offset, length = self._index[row]
    with open(shard, 'rb') as file:
      file.seek(offset)
      data = file.read(length)
      footer = file.read(_FOOTER.size)
    if (
      len(footer) < _FOOTER.size
      or _masked_crc(data) != (_FOOTER.unpack(footer)[0])
    ):
      raise self._damaged(shard, offset, f'has a damaged record (row {row})')
    return np.asarray(self._parse(data), np.float32)

  def _damaged(self, shard: pathlib.Path, offset: int, what: str) -> StoreError:
    return StoreError(
      f'{shard} {what} at byte {offset}; delete {self._path} and prepare the '
      'corpus again with `python -m data_prep`.'
    )


def _masked_crc(data: bytes) -> int:
  """The rotated crc32c of the TFRecord format."""
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
