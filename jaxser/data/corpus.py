"""A prepared corpus: its table of utterances and random access to features.

The table is read from the manifest and needs no TensorFlow; features are read
row by row from TFRecord shards, whose offsets are indexed once, so that any
order over a corpus of any size costs the same.
"""

import csv
import dataclasses
import functools
import json
import pathlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from data_prep.store import StoreError
from jaxser.core.files import Path

# TFRecord framing: uint64 length, uint32 masked crc of it, data, uint32 crc.
_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')


@dataclasses.dataclass(frozen=True)
class Table:
  """One row per utterance, in published order; strings are '' if unknown."""

  ids: np.ndarray  # Unique within the corpus.
  labels: np.ndarray  # int32, index into the corpus' classes, -1 for none.
  speakers: np.ndarray
  genders: np.ndarray
  texts: np.ndarray
  splits: np.ndarray
  durations: np.ndarray  # float32, seconds.
  vad: np.ndarray  # float32 [n, 3], valence, arousal, dominance; or NaN.
  paths: np.ndarray | None = None  # Below the corpus' folder; default the ids.

  def __post_init__(self):
    if self.paths is None:
      object.__setattr__(self, 'paths', self.ids)

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, rows: np.ndarray) -> 'Table':
    return Table(**{name: value[rows] for name, value in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A corpus as the engine sees it."""

  name: str  # 'emodb', or 'emodb+ravdess' for a cross-corpus run.
  classes: tuple[str, ...]  # In label order; empty for VAD only.
  vad_range: tuple[float, float] | None  # Ends of the VAD scale.
  table: Table
  stores: Mapping[str, Mapping[str, Any]]  # store.json, by corpus name.
  read: Callable[[int], np.ndarray]  # Row -> float32 [frames, bins], [samples].
  parts: np.ndarray  # Corpus name of every row.

  @property
  def feature_shape(self) -> tuple[int, ...]:
    """(longest, bins) or (longest,), over all stores."""
    infos = list(self.stores.values())
    longest = max(info['max_length'] for info in infos)
    bins = infos[0]['feature_bins']
    return (longest, bins) if bins else (longest,)

  @property
  def fingerprints(self) -> dict[str, str]:
    return {name: info['fingerprint'] for name, info in self.stores.items()}

  @property
  def annotators(self) -> Mapping[str, Any]:
    """How far annotators agree, of a single corpus that says so; or empty."""
    first, *others = self.stores.values()
    return {} if others else first.get('annotators', {})

  def load(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads all rows, cut or zero padded: [n, max_length, ...], lengths [n]."""
    shape = (len(self.table), max_length, *self.feature_shape[1:])
    features = np.zeros(shape, np.float32)
    lengths = np.zeros(len(self.table), np.int32)
    for row in range(len(self.table)):
      value = self.read(row)[:max_length]
      features[row, : len(value)], lengths[row] = value, len(value)
    return features, lengths


def open_store(path: Path) -> Corpus:
  """Opens the store of a corpus, `DATA/CORPUS/FEATURES-HASH/1.0.0`."""
  path = pathlib.Path(path)
  try:
    info = json.loads((path / 'store.json').read_text('utf-8'))
    name, classes = info['corpus'], tuple(info['classes'])
  except FileNotFoundError as error:
    raise StoreError(
      f'{path} has no store.json, so it is not a feature store; prepare one with '
      '`python -m data_prep`.'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise _damaged(path, f'has no valid store.json ({error})') from error
  table = _read_table(path, classes)
  if (count := info['count']) != len(table):
    told = f'has {len(table)} utterances in manifest.tsv and {count} in'
    raise _damaged(path, f'{told} store.json')
  vad_range = info.get('vad_range')
  return Corpus(
    name=name,
    classes=classes,
    vad_range=tuple(vad_range) if vad_range else None,
    table=table,
    stores={name: info},
    read=_reader(path, len(table)),
    parts=np.full(len(table), name),
  )


def _damaged(path: pathlib.Path, problem: str) -> StoreError:
  return StoreError(
    f'{path} {problem}: it is damaged; delete that folder and prepare the corpus '
    'again with `python -m data_prep`.'
  )


def normalization(corpus: Corpus, protocol: str) -> tuple[float, float] | None:
  """Returns mean and standard deviation of a waveform store's samples, or None.

  Of the training split where the protocol uses an official one; else of all.
  """
  info = next(iter(corpus.stores.values()))
  if info.get('statistics') is None:
    return None
  by_split = info.get('statistics_by_split') or {}
  split = protocol in ('official', 'published') and 'train' in by_split
  statistics = by_split['train'] if split else info['statistics']
  return statistics['mean'], statistics['std']


def select(corpus: Corpus, rows: np.ndarray) -> Corpus:
  read, rows = corpus.read, np.asarray(rows)
  return dataclasses.replace(
    corpus,
    table=corpus.table.take(rows),
    read=lambda row: read(int(rows[row])),
    parts=corpus.parts[rows],
  )


def join(first: Corpus, second: Corpus, task: str = 'classification') -> Corpus:
  """Returns two as one; a classification keeps the classes that both have."""
  corpora = first, second
  infos = [next(iter(corpus.stores.values())) for corpus in corpora]
  for key in ('features', 'parameters'):
    if infos[0][key] != infos[1][key]:
      raise StoreError(
        f'{first.name} and {second.name} were prepared with different {key}: '
        f'{infos[0][key]} and {infos[1][key]}; prepare both with the same '
        '(cross-corpus runs of TIM-Net use --signal_length=100000).'
      )
  regression = task == 'regression'
  if regression and first.vad_range != second.vad_range:
    raise StoreError(
      f'valence, arousal and dominance are on the scale {first.vad_range} in '
      f'{first.name} and {second.vad_range} in {second.name}; prepare one of '
      'them on the scale of the other, from a manifest.'
    )
  combine = set.union if regression else set.intersection
  classes = tuple(sorted(combine(*(set(corpus.classes) for corpus in corpora))))
  if not regression and len(classes) < 2:
    raise StoreError(
      f'{first.name} and {second.name} share {len(classes)} classes '
      f'({", ".join(classes) or "none"}); at least two are needed.'
    )
  columns = {
    field.name: np.concatenate([getattr(c.table, field.name) for c in corpora])
    for field in dataclasses.fields(Table)
  }
  labels = [_labels(classes, c.classes)[c.table.labels] for c in corpora]
  columns['labels'] = np.concatenate(labels)
  split = len(first.table)
  names = np.repeat([c.name for c in corpora], [len(c.table) for c in corpora])
  for column in ('ids', 'speakers'):
    pairs = zip(names, columns[column], strict=True)
    columns[column] = np.array([f'{name}/{value}' for name, value in pairs])

  def read(row: int) -> np.ndarray:
    return first.read(row) if row < split else second.read(row - split)

  both = Corpus(
    name=f'{first.name}+{second.name}',
    classes=classes,
    vad_range=first.vad_range if regression else None,
    table=Table(**columns),
    stores={**first.stores, **second.stores},
    read=read,
    parts=np.concatenate([c.parts for c in corpora]),
  )
  kept = np.flatnonzero((columns['labels'] >= 0) | regression)
  return select(both, kept)


def _labels(classes: Sequence[str], names: Sequence[str]) -> np.ndarray:
  """Returns each name's class, or -1; at the end -1, for what has no class."""
  found = [classes.index(n) if n in classes else -1 for n in names]
  return np.array([*found, -1], np.int32)


def _read_table(store: pathlib.Path, classes: Sequence[str]) -> Table:
  """Reads manifest.tsv; names that are not UTF-8 keep their bytes."""
  options = {'newline': '', 'encoding': 'utf-8', 'errors': 'surrogateescape'}
  try:
    with open(store / 'manifest.tsv', **options) as file:
      rows = list(csv.DictReader(file, delimiter='\t'))
  except FileNotFoundError as error:
    raise _damaged(store, 'has no manifest.tsv') from error

  def text(name):
    return np.array([row[name] or '' for row in rows], dtype=str)

  def number(name):
    return np.array([float(row[name] or 'nan') for row in rows], np.float32)

  names = text('label').tolist()
  if unknown := sorted({*names} - {*classes, ''}):
    problem = f'has labels that store.json does not list: {unknown}'
    raise _damaged(store, problem)
  return Table(
    ids=text('id'),
    labels=_labels(classes, names)[:-1],
    speakers=text('speaker'),
    genders=text('gender'),
    texts=text('text'),
    splits=text('split'),
    durations=number('duration'),
    vad=np.stack([number(n) for n in ('valence', 'arousal', 'dominance')], -1),
    paths=text('path'),
  )


def _reader(path: pathlib.Path, count: int) -> Callable[[int], np.ndarray]:
  """Returns row -> features, from the TFRecord shards of one store.

  By hand: TensorFlow reads TFRecord files from the beginning only.
  """

  @functools.cache
  def index() -> list[tuple[pathlib.Path, int, int]]:
    """(shard, offset of the data, length) per row, from the record headers."""
    records = []
    for shard in sorted(path.glob('*.tfrecord-*')):
      size, offset = shard.stat().st_size, 0
      with open(shard, 'rb') as file:
        while offset + _HEADER.size <= size:
          length, _ = _HEADER.unpack(file.read(_HEADER.size))
          records.append((shard, offset + _HEADER.size, length))
          offset += _HEADER.size + length + _FOOTER.size
          file.seek(min(offset, size))
      if offset != size:
        raise _damaged(path, f'has {shard.name}, which is cut off')
    if len(records) != count:
      raise _damaged(path, f'has {len(records)} records of {count} utterances')
    return records

  @functools.cache
  def features() -> Any:
    """The decoder of serialised records; TFDS says how they were written."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(path)).info.features

  def read(row: int) -> np.ndarray:
    shard, offset, length = index()[row]
    with open(shard, 'rb') as file:
      file.seek(offset)
      data, footer = file.read(length), file.read(_FOOTER.size)
    if footer != _FOOTER.pack(_masked_crc(data)):
      what = f'a damaged record (row {row}) at byte {offset}'
      raise _damaged(path, f'has {shard.name} with {what}')
    decoded = features().deserialize_example_np(data)
    return np.asarray(decoded['features'], np.float32)

  return read


def _masked_crc(data: bytes) -> int:
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
