"""Write utterances as a TFDS data set, in order and in bounded memory.

The result is what `tfds.builder_from_directory` and `tfds.load` read: TFRecord
shards, `features.json` and `dataset_info.json`. It is written with TFDS' public
classes (`FeaturesDict`, `ExampleSerializer`, `DatasetInfo`) and without a
`GeneratorBasedBuilder`, which keeps a gigabyte in memory and, for a data set
whose order matters, sorts everything beyond that at once; memory here does not
depend on the size of the corpus. TFDS needs no TensorFlow for this, and a
TFRecord is a few bytes around a message, so TensorFlow is never imported: it
would take more time and memory than many a corpus.
"""

import contextlib
import dataclasses
import os
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds

# Not 'all', which TFDS reserves for the union of all splits: here, this one.
SPLIT = 'utterances'
VERSION = '1.0.0'
SHARD_BYTES = 128 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of records."""

  name: str
  examples: int
  bytes: int


def feature_spec(
  classes: Sequence[str], bins: int | None, half: bool = False
) -> tfds.features.FeaturesDict:
  """Returns what every record holds."""
  text, scalar = tfds.features.Text, tfds.features.Scalar
  # A list of numbers has no 16 bits in this format; bytes have.
  kind = {'dtype': np.float32}
  if half:
    kind = {'dtype': np.float16, 'encoding': tfds.features.Encoding.BYTES}
  label = tfds.features.ClassLabel(names=list(classes)) if classes else None
  return tfds.features.FeaturesDict(
    {
      'features': tfds.features.Tensor(
        shape=(None, bins) if bins else (None,), **kind
      ),
      'label': label or scalar(dtype=np.int64),
      'id': text(doc='unique in the corpus'),
      'speaker': text(),
      'gender': text(),
      'text': text(doc='what is said: a code or a transcript'),
      'split': text(doc="the corpus' own split, if it has one"),
      'duration': scalar(dtype=np.float32, doc='seconds'),
      'vad': tfds.features.Tensor(
        shape=(3,),
        dtype=np.float32,
        doc='valence, arousal, dominance; NaN where unknown',
      ),
    }
  )


class Writer:
  """Writes records one after the other into shards; a context manager."""

  def __init__(
    self,
    directory: pathlib.Path,
    corpus: str,
    features: tfds.features.FeaturesDict,
    shard_bytes: int,
  ):
    """Prepares to write; nothing is opened yet."""
    self._directory = directory
    self._features = features
    self._half = features['features'].np_dtype == np.float16
    self._serialiser = tfds.core.ExampleSerializer(
      features.get_serialized_info()
    )
    self._shard_bytes = shard_bytes
    self._names = _file_names(directory, corpus)
    self._shards: list[Shard] = []
    self._file: BinaryIO | None = None
    self._examples = self._bytes = 0

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, kind: Any, *error: object) -> None:
    if self._file is not None:
      # After another error what is still to be written does not matter.
      with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
        self._file.close()

  def write(self, example: dict[str, Any]) -> None:
    """Appends one record."""
    if self._file is None:
      path = self._directory / f'shard-{len(self._shards)}'
      self._file = open(path, 'xb')  # noqa: SIM115
    data = self._serialise(example)
    # TFRecord: length, its checksum, the message, its checksum.
    length = struct.pack('<Q', len(data))
    self._file.write(length + _checksum(length))
    self._file.write(data)
    self._file.write(_checksum(data))
    self._examples += 1
    self._bytes += len(data)
    if self._bytes >= self._shard_bytes:
      self._close_shard()

  def finish(self) -> list[Shard]:
    """Closes the last shard and gives all of them their final names."""
    if self._file is not None:
      self._close_shard()
    named = []
    for index, shard in enumerate(self._shards):
      path = self._names.sharded_filepath(
        shard_index=index, num_shards=len(self._shards)
      )
      os.replace(self._directory / shard.name, path)
      named.append(dataclasses.replace(shard, name=path.name))
    return named

  def _serialise(self, example: dict[str, Any]) -> bytes:
    """Returns the bytes that TFDS itself would write, several times faster.

    TFDS hands an array to protobuf one NumPy scalar at a time; so it gets the
    record without its features, and they are added as a list. Features of
    two bytes it takes whole.
    """
    values = example['features']
    if not self._half:
      example = {**example, 'features': values[:0]}
    encoded = self._features.encode_example(example)
    record = self._serialiser.get_tf_example(encoded)
    if not self._half:
      numbers = record.features.feature['features'].float_list.value
      numbers.extend(np.asarray(values, np.float32).ravel().tolist())
    return record.SerializeToString(deterministic=True)

  def _close_shard(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()
    self._file = None
    name = f'shard-{len(self._shards)}'
    self._shards.append(Shard(name, self._examples, self._bytes))
    self._examples = self._bytes = 0


def _file_names(
  directory: pathlib.Path, corpus: str
) -> tfds.core.ShardedFileTemplate:
  return tfds.core.ShardedFileTemplate(
    data_dir=directory,
    dataset_name=corpus,
    split=SPLIT,
    filetype_suffix='tfrecord',
  )


def _checksum(data: bytes) -> bytes:
  """Returns the rotated CRC-32C that frames a TFRecord, four bytes."""
  crc = google_crc32c.value(data)
  rotated = ((crc >> 15) | (crc << 17)) + 0xA282EAD8
  return struct.pack('<I', rotated & 0xFFFFFFFF)


def write(
  directory: pathlib.Path,
  examples: Iterable[dict[str, Any]],
  spec: tfds.features.FeaturesDict,
  known: Any,
  *,
  corpus: str,
  config: str,
  content: str,
) -> list[dict[str, Any]]:
  """Writes a data set: records, dataset_info.json, features.json and LICENSE.

  The order of the records is declared to matter, so that TFDS reads shards one
  after the other unless it is told to shuffle.
  """
  directory.mkdir(parents=True)
  with Writer(directory, corpus, spec, SHARD_BYTES) as writer:
    for example in examples:
      writer.write(example)
    shards = writer.finish()
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=corpus,
      version=tfds.core.Version(VERSION),
      data_dir=os.fspath(directory),
      module_name='',
      config_name=config,
    ),
    description=(
      f'{known.title}: {content} of {sum(shard.examples for shard in shards)} '
      'utterances, in published order.'
    ),
    features=spec,
    supervised_keys=('features', 'label'),
    disable_shuffling=True,
    homepage=known.homepage or None,
    citation=known.citation or None,
    license=known.licence or None,
  )
  info.set_file_format(tfds.core.FileFormat.TFRECORD)
  split = tfds.core.SplitInfo(
    name=SPLIT,
    shard_lengths=[shard.examples for shard in shards],
    num_bytes=sum(shard.bytes for shard in shards),
    filename_template=_file_names(directory, corpus),
  )
  info.set_splits(tfds.core.SplitDict([split]))
  info.write_to_directory(directory)
  return [
    {
      **dataclasses.asdict(shard),
      'file_bytes': (directory / shard.name).stat().st_size,
    }
    for shard in shards
  ]
